// CUDA's language on the host: what csrc/cuda/port.h defines for a device, and what nvcc knows by itself.
//
// Kernels are compiled by g++ with -fsanitize=thread, in that step only: every load and store then calls a function
// that hooks.cpp defines, and libtsan is not linked. What CUDA does without loads and stores calls the emulator here.
// The functions that are only declared here find the place they are called from by their return address.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>

// CUDA's headers define these for compilers other than nvcc, in ways that do not fit fibers.
#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __launch_bounds__
#undef __forceinline__
#undef __align__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) alignas(n)

#define DEVICE __forceinline__

namespace cusim {

struct Index {
  unsigned x, y, z;
};

// The same for as long as a thread lives, so that g++ asks once per function.
__attribute__((const)) Index thread_index() noexcept;
__attribute__((const)) Index block_index() noexcept;
__attribute__((const)) Index block_size() noexcept;
__attribute__((const)) Index grid_size() noexcept;

enum class Shuffle { from, up, down, exclusive_or };
uint64_t shuffle(unsigned mask, uint64_t value, int by, int width, Shuffle how, int line);

unsigned char* dynamic_shared();
void* static_shared(const void* key, size_t bytes, const char* name);

void copy_commit();
void copy_wait(int pending);
void copy_memory(void* to, const void* from, size_t bytes);

// One launch: `call` runs the kernel with its parameters, which lie in host memory.
struct Call {
  const void* kernel;
  void (*run)(const void* parameters);
  const void* parameters;
  size_t bytes;
};
void run(const Call& call, dim3 grid, dim3 block, size_t shared);
void allow_shared(const void* kernel, int bytes);

template <class... Parameters>
struct Bound {
  void (*kernel)(Parameters...);
  std::tuple<Parameters...> parameters;
  static void run(const void* bound) {
    const Bound& b = *static_cast<const Bound*>(bound);
    std::apply(b.kernel, b.parameters);
  }
};

// As <<<>>> does, arguments become parameters once, at the launch.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, const Arguments&... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...), "a kernel's parameters are copied as bytes");
  const Bound<Parameters...> bound{kernel, {arguments...}};
  run({reinterpret_cast<const void*>(kernel), &Bound<Parameters...>::run, &bound, sizeof bound}, grid, block, shared);
}

template <class T>
DEVICE T shuffle_as(unsigned mask, T value, int by, int width, Shuffle how, int line) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof value);
  bits = shuffle(mask, bits, by, width, how, line);
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// g++ watches copies of 1, 2, 4, 8 and 16 bytes as loads and stores; others would go unseen.
DEVICE void* copy(void* to, const void* from, size_t bytes) {
  const bool seen = bytes <= 16 && (bytes & (bytes - 1)) == 0;
  if (__builtin_constant_p(seen) && seen) return __builtin_memcpy(to, from, bytes);
  copy_memory(to, from, bytes);
  return to;
}

}  // namespace cusim

#define memcpy(to, from, bytes) cusim::copy(to, from, bytes)

#define threadIdx (cusim::thread_index())
#define blockIdx (cusim::block_index())
#define blockDim (cusim::block_size())
#define gridDim (cusim::grid_size())

// A barrier is known by its line: g++ may have copied the call.
void __syncthreads(int line = __builtin_LINE());
void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE());
unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE());

template <class T>
DEVICE T __shfl_sync(unsigned mask, T value, int lane, int width = 32, int line = __builtin_LINE()) {
  return cusim::shuffle_as(mask, value, lane, width, cusim::Shuffle::from, line);
}
template <class T>
DEVICE T __shfl_up_sync(unsigned mask, T value, int by, int width = 32, int line = __builtin_LINE()) {
  return cusim::shuffle_as(mask, value, by, width, cusim::Shuffle::up, line);
}
template <class T>
DEVICE T __shfl_down_sync(unsigned mask, T value, int by, int width = 32, int line = __builtin_LINE()) {
  return cusim::shuffle_as(mask, value, by, width, cusim::Shuffle::down, line);
}
template <class T>
DEVICE T __shfl_xor_sync(unsigned mask, T value, int by, int width = 32, int line = __builtin_LINE()) {
  return cusim::shuffle_as(mask, value, by, width, cusim::Shuffle::exclusive_or, line);
}

float atomicAdd(float* to, float value);
int atomicAdd(int* to, int value);
unsigned atomicAdd(unsigned* to, unsigned value);
unsigned long long atomicAdd(unsigned long long* to, unsigned long long value);

template <class T>
DEVICE T __ldg(const T* from) {
  return *from;
}
DEVICE float rsqrtf(float x) { return 1.0f / sqrtf(x); }

// cuda_runtime.h has these for kernels under nvcc only.
template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

#define SHARED_DYNAMIC(name) unsigned char* name = cusim::dynamic_shared()
// One array for the block: the address of `key` says which.
#define SHARED(T, name, count)        \
  static const char name##_key = 0;   \
  T* name = static_cast<T*>(cusim::static_shared(&name##_key, sizeof(T) * (count), #name))
#define LAUNCH(kernel, grid, block, shared, stream, ...)                 \
  do {                                                                   \
    (void)(stream);                                                      \
    cusim::launch(kernel, grid, block, shared, ##__VA_ARGS__);           \
  } while (0)

namespace pggan {

struct alignas(16) Vec16 {
  uint32_t x, y, z, w;
};

Vec16 load128(const void* from);
void store128(void* to, Vec16 v);
void store128_shared(void* to, Vec16 v);

void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE());
void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE());
void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE());
void ldmatrix(uint32_t (&out)[4], const void* row, int line = __builtin_LINE());
void ldmatrix_transposed(uint32_t (&out)[4], const void* row, int line = __builtin_LINE());

void copy_async(void* to, const void* from, bool real);
inline void copy_commit() { cusim::copy_commit(); }
template <int pending>
inline void copy_wait() {
  cusim::copy_wait(pending);
}

// Ties go away from zero; a NaN is the one that the instruction makes.
DEVICE uint32_t round_tf32(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return x != x ? 0x7fffffffu : (bits + 0x1000u) & ~0x1fffu;
}

}  // namespace pggan
