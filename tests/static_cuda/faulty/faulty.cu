// Kernels with one fault each that the gates are there for, and sound ones beside them. Compiled, never run.
#include "common.cuh"

namespace pggan::cuda {
namespace {

constexpr int THREADS = 256;

// x 16 bytes at a time.
__global__ void __launch_bounds__(THREADS) wide_kernel(const Half* x, Half* y) {
  const int i = (blockIdx.x * THREADS + threadIdx.x) * 8;
  Vec<Half>::read(x + i).write(y + i);
}

__global__ void __launch_bounds__(THREADS) scalar_kernel(const Half* x, Half* y) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  y[i] = x[i];
}

__global__ void unbounded_kernel(const Half* x, Half* y) {
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
  Vec<Half>::read(x + i).write(y + i);
}

// 96 numbers at once where a thread has 64 registers.
__global__ void __launch_bounds__(1024) spilling_kernel(const float* x, float* y) {
  float v[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) v[i] = x[i * 1024 + threadIdx.x];
#pragma unroll
  for (int i = 0; i < 96; ++i) y[i * 1024 + threadIdx.x] = v[i] * v[95 - i] + v[(i * 7) % 96];
}

// An index that only the device knows: the array lies in local memory.
__global__ void __launch_bounds__(THREADS) indexing_kernel(const int* at, float* y) {
  float v[32];
  for (int i = 0; i < 32; ++i) v[i] = y[i * THREADS + threadIdx.x];
  v[at[threadIdx.x]] = 0.0f;
  for (int i = 0; i < 32; ++i) y[i * THREADS + threadIdx.x] = v[at[i]];
}

// A 16x8 piece of a product, copied behind the threads' back and multiplied on tensor cores.
__global__ void __launch_bounds__(32) product_kernel(const Half* a, const uint32_t* b, float* d) {
  SHARED(Half, tile, 256);
  copy_async(tile + threadIdx.x * 8, a + threadIdx.x * 8, true);
  copy_commit();
  copy_wait<0>();
  __syncwarp();
  uint32_t rows[4], columns[2] = {b[threadIdx.x], b[threadIdx.x + 32]};
  float sums[4] = {};
  ldmatrix(rows, tile + threadIdx.x * 8);
  mma_f16(sums, rows, columns);
  for (int i = 0; i < 4; ++i) d[threadIdx.x * 4 + i] = sums[i];
}

// The same piece without any of it.
__global__ void __launch_bounds__(32) slow_product_kernel(const Half* a, const Half* b, float* d) {
  SHARED(Half, tile, 256);
  for (int i = threadIdx.x; i < 256; i += 32) tile[i] = a[i];
  __syncwarp();
  for (int i = threadIdx.x; i < 128; i += 32) {
    float sum = 0.0f;
    for (int k = 0; k < 16; ++k) sum += widen(tile[i / 8 * 16 + k]) * widen(b[k * 8 + i % 8]);
    d[i] = sum;
  }
}

}  // namespace

// Kernels that nobody mentions are not compiled.
const void* const KERNELS[] = {
    (const void*)wide_kernel,     (const void*)scalar_kernel,  (const void*)unbounded_kernel,   (const void*)spilling_kernel,
    (const void*)indexing_kernel, (const void*)product_kernel, (const void*)slow_product_kernel};

}  // namespace pggan::cuda
