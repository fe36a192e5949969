// More shared memory than a kernel may declare: ptxas refuses it.
#include "common.cuh"

__global__ void __launch_bounds__(32) large_kernel(float* y) {
  SHARED(float, tile, 64 * 1024);
  tile[threadIdx.x] = y[threadIdx.x];
  __syncwarp();
  y[threadIdx.x] = tile[31 - threadIdx.x];
}
