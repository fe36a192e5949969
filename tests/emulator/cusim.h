// cusim.h - run CUDA kernel source on the host, one fiber per CUDA thread.
// Kernel TU is compiled by g++ with -fsanitize=thread (compile step only): every load/store then calls
// __tsan_readN/__tsan_writeN, which cusim.cpp implements itself (libtsan is never linked).
#pragma once
#include <cstdint>
#include <cstddef>
#include <cstring>
#include <cmath>
#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __launch_bounds__
#undef __forceinline__
#undef __restrict__
#undef __align__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)
#define __forceinline__ inline
#define DEVICE inline
#define __align__(n) alignas(n)
#define __restrict__ __restrict
#define CUSIM 1
using cusim_dim3 = dim3;

namespace cusim {
struct Idx { unsigned x, y, z; };
struct ThreadCtx { Idx tid, bid; };
extern ThreadCtx* cur;                 // current CUDA thread
extern Idx g_bdim, g_gdim;
enum Op : int { OP_SYNCWARP=1, OP_SHFL, OP_BALLOT, OP_MMA, OP_LDSM, OP_REDUCE };
void  launch(cusim_dim3 g, cusim_dim3 b, size_t smem, void (*fn)(void*), void* arg);
void  sync_block(void* pc);
void  sync_warp(unsigned mask, void* pc);
uint64_t shfl(unsigned mask, uint64_t v, int src, int width, int kind, void* pc);
unsigned ballot(unsigned mask, int pred, void* pc);
unsigned char* dyn_smem();
void* static_smem(const void* key, size_t bytes, size_t align, const char* name);
void  mma(float* d, const uint32_t* a, const uint32_t* b, int kind, void* pc);  // kind 0 f16, 1 bf16, 2 tf32
void  ldmatrix(uint32_t* r, const void* row, int n, int trans, void* pc);
void  cp_async(void* s, const void* g, int bytes, int src_bytes, void* pc);
void  cp_commit(); void cp_wait(int n);
void  access(const void* p, size_t n, bool write, bool atomic, void* pc);   // explicit hook
[[noreturn]] void fail(const char* fmt, ...);
}
#define threadIdx (cusim::cur->tid)
#define blockIdx  (cusim::cur->bid)
#define blockDim  (cusim::g_bdim)
#define gridDim   (cusim::g_gdim)
#define CUSIM_PC  __builtin_extract_return_addr(__builtin_return_address(0))
#define CUSIM_NI  static __attribute__((noinline, no_sanitize("thread"), no_sanitize("address")))
// call sites are identified by the return address inside the kernel, so these stay out of line
CUSIM_NI void __syncthreads() { cusim::sync_block(CUSIM_PC); }
CUSIM_NI void __syncwarp(unsigned m = 0xffffffffu) { cusim::sync_warp(m, CUSIM_PC); }
template<class T> CUSIM_NI T cusim_shfl(unsigned m, T v, int s, int w, int k) {
  static_assert(sizeof(T) <= 8); uint64_t u = 0; memcpy(&u, &v, sizeof v);
  u = cusim::shfl(m, u, s, w, k, CUSIM_PC); memcpy(&v, &u, sizeof v); return v; }
template<class T> inline T __shfl_sync(unsigned m, T v, int s, int w=32)      { return cusim_shfl(m, v, s, w, 0); }
template<class T> inline T __shfl_up_sync(unsigned m, T v, int s, int w=32)   { return cusim_shfl(m, v, s, w, 1); }
template<class T> inline T __shfl_down_sync(unsigned m, T v, int s, int w=32) { return cusim_shfl(m, v, s, w, 2); }
template<class T> inline T __shfl_xor_sync(unsigned m, T v, int s, int w=32)  { return cusim_shfl(m, v, s, w, 3); }
CUSIM_NI unsigned __ballot_sync(unsigned m, int p) { return cusim::ballot(m, p, CUSIM_PC); }
template<class T> CUSIM_NI T atomicAdd(T* p, T v) { cusim::access(p, sizeof(T), true, true, CUSIM_PC); T o = *p; *p = o + v; return o; }
template<class T> inline T __ldg(const T* p) { return *p; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }


#define SHARED_DYNAMIC(name) unsigned char* name = cusim::dyn_smem()
#define SHARED(T, name, n) static const char name##_key = 0; \
  T* name = static_cast<T*>(cusim::static_smem(&name##_key, sizeof(T) * (n), alignof(T) < 16 ? 16 : alignof(T), #name))
#define LAUNCH(k, g, b, smem, stream, ...) do { (void)(stream); auto cusim_f = [=]() { (k)(__VA_ARGS__); }; \
  cusim::launch(g, b, smem, [](void* p) { (*static_cast<decltype(cusim_f)*>(p))(); }, &cusim_f); } while (0)
namespace pggan {
struct alignas(16) Vec16 { uint32_t x, y, z, w; };
CUSIM_NI Vec16 load128(const void* p) { cusim::access(p, 16, false, false, CUSIM_PC); Vec16 v; __builtin_memcpy(&v, p, 16); return v; }
CUSIM_NI void store128(void* p, Vec16 v) { cusim::access(p, 16, true, false, CUSIM_PC); __builtin_memcpy(p, &v, 16); }
CUSIM_NI void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { cusim::mma(d, a, b, 0, CUSIM_PC); }
CUSIM_NI void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { cusim::mma(d, a, b, 1, CUSIM_PC); }
CUSIM_NI void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { cusim::mma(d, a, b, 2, CUSIM_PC); }
CUSIM_NI void ldmatrix(uint32_t (&r)[4], const void* row) { cusim::ldmatrix(r, row, 4, 0, CUSIM_PC); }
CUSIM_NI void ldmatrix_transposed(uint32_t (&r)[4], const void* row) { cusim::ldmatrix(r, row, 4, 1, CUSIM_PC); }
CUSIM_NI void copy_async(void* s, const void* g, bool real) { cusim::cp_async(s, g, 16, real ? 16 : 0, CUSIM_PC); }
inline void copy_commit() { cusim::cp_commit(); }
template <int n> inline void copy_wait() { cusim::cp_wait(n); }
inline uint32_t round_tf32(float x) { uint32_t u; __builtin_memcpy(&u, &x, 4); return (u + 0x1000) & ~0x1fffu; }
}
