// Everything of CUDA that is no plain C++: launches, shared memory, 128-bit accesses, inline PTX. Kernels use no other.
//
// nvcc compiles it for devices. With PGGAN_EMULATOR, g++ compiles the same kernels against tests/emulator/cusim.h, which
// defines the same names on the host.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#if defined(PGGAN_EMULATOR)
#include "cusim.h"
#else

#define DEVICE __device__ __forceinline__
// T name[count], for the block; and the dynamic part, whose size the launch gives.
#define SHARED(T, name, count) __shared__ __align__(16) T name[count]
#define SHARED_DYNAMIC(name) extern __shared__ __align__(128) unsigned char name[]
// A statement; its error is left for cudaGetLastError.
#define LAUNCH(kernel, grid, block, shared, stream, ...) (kernel)<<<grid, block, shared, stream>>>(__VA_ARGS__)

namespace pggan {

struct alignas(16) Vec16 {  // 16 bytes
  uint32_t x, y, z, w;
};

DEVICE Vec16 load128(const void* from) { return *static_cast<const Vec16*>(from); }
// To device memory, in one instruction: a plain assignment becomes four of 4 bytes where branches join.
DEVICE void store128(void* to, Vec16 v) { __stwb(static_cast<uint4*>(to), make_uint4(v.x, v.y, v.z, v.w)); }
DEVICE void store128_shared(void* to, Vec16 v) { *static_cast<Vec16*>(to) = v; }

DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// d = a * b + d of 16x16 by 16x8 (half, bfloat16) or 16x8 by 8x8 (TF32, each float in its 32 bits): one warp.
#define PGGAN_MMA(shape, type, d, a, b)                                                                           \
  asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type                                            \
               ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                                       \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                   \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  PGGAN_MMA("m16n8k16", "f16", d, a, b);
}
DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  PGGAN_MMA("m16n8k16", "bf16", d, a, b);
}
DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  PGGAN_MMA("m16n8k8", "tf32", d, a, b);
}

// The nearest TF32 number, as the bits of a float whose lower 13 are zero.
DEVICE uint32_t round_tf32(float x) {
  uint32_t out;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(out) : "f"(x));
  return out;
}

// Four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8, 16 bytes in shared
// memory, and gets elements (row l / 4, columns 2 (l % 4) and + 1) of each; transposed: of its transpose.
DEVICE void ldmatrix(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}
DEVICE void ldmatrix_transposed(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

// 16 bytes from global to shared memory, behind this thread's back; zeros where not `real` (`from` is not read then).
DEVICE void copy_async(void* to, const void* from, bool real) {
  const int bytes = real ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
               : "memory");
}
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `pending` of this thread's latest groups are under way.
template <int pending>
DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

}  // namespace pggan

#endif
