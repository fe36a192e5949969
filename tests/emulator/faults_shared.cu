// Seeded faults of asynchronous copies and matrices in shared memory.
#include "../../csrc/cuda/common.cuh"
#include "seeded.h"

namespace seeded {
namespace {

using namespace pggan;
using cuda::last_launch;

// Asynchronous copies and matrices

template <bool correct>
__global__ void copy_without_wait(Memory m) {
  SHARED(float, tile, 4 * THREADS);
  float* mine = tile + 4 * threadIdx.x;
  copy_async(mine, m.in + threadIdx.x / 2 * 4, true);
  copy_commit();
  if (correct) copy_wait<0>();
  m.out[threadIdx.x] = *mine;
  copy_wait<0>();
}

template <bool correct>
__global__ void wait_for_too_few(Memory m) {
  SHARED(float, tile, 8 * THREADS);
  float* mine = tile + 8 * threadIdx.x;
  for (int k = 0; k < 2; ++k) {
    copy_async(mine + 4 * k, m.in, true);
    copy_commit();
  }
  copy_wait<1>();
  m.out[threadIdx.x] = mine[correct ? 0 : 4];
  copy_wait<0>();
}

template <bool correct>
__global__ void copy_without_commit(Memory m) {
  SHARED(float, tile, 4 * THREADS);
  float* mine = tile + 4 * threadIdx.x;
  copy_async(mine, m.in, true);
  if (correct) copy_commit();
  copy_wait<0>();
  m.out[threadIdx.x] = *mine;
}

template <bool correct>
__global__ void copy_never_waited_for(Memory m) {
  SHARED(float, tile, 4 * THREADS);
  copy_async(tile + 4 * threadIdx.x, m.in, true);
  copy_commit();
  if (correct) copy_wait<0>();
}

// A wait is no barrier: what another thread copied is not there yet.
template <bool correct>
__global__ void copy_of_another_thread(Memory m) {
  SHARED(float, tile, 4 * THREADS);
  copy_async(tile + 4 * threadIdx.x, m.in, true);
  copy_commit();
  copy_wait<0>();
  if (correct) __syncthreads();
  m.out[threadIdx.x] = tile[4 * (THREADS - 1 - threadIdx.x)];
}

template <bool correct>
__global__ void copy_past_the_end_of_shared(Memory m) {
  SHARED(float, tile, 4 * THREADS);
  copy_async(tile + 4 * (threadIdx.x + (correct ? 0 : 1)), m.in, true);
  copy_commit();
  copy_wait<0>();
}

template <bool correct>
__global__ void copy_to_global(Memory m) {
  SHARED(float, tile, 4 * THREADS);
  copy_async(correct ? tile + 4 * threadIdx.x : m.zeros, m.in, true);
  copy_commit();
  copy_wait<0>();
}

template <bool correct>
__global__ void misaligned_copy(Memory m) {
  SHARED(float, tile, 4 * THREADS);
  copy_async(tile + 4 * threadIdx.x, m.in + (correct ? 0 : 1), true);
  copy_commit();
  copy_wait<0>();
}

template <bool correct>
__global__ void matrix_past_the_end(Memory m) {
  SHARED(float, tile, 4 * 32);
  for (int k = 0; k < 4; ++k) tile[4 * threadIdx.x + k] = m.in[threadIdx.x];
  __syncwarp();
  uint32_t out[4];
  ldmatrix(out, tile + 4 * (threadIdx.x + (correct ? 0 : 1)));
  m.out[threadIdx.x] = float(out[0]);
}

template <bool correct>
__global__ void matrix_in_global(Memory m) {
  SHARED(float, tile, 4 * 32);
  for (int k = 0; k < 4; ++k) tile[4 * threadIdx.x + k] = m.in[threadIdx.x];
  __syncwarp();
  uint32_t out[4];
  ldmatrix(out, correct ? tile + 4 * threadIdx.x : m.in + 4 * threadIdx.x);
  m.out[threadIdx.x] = float(out[0]);
}

template <bool correct>
__global__ void matrix_before_its_rows(Memory m) {
  SHARED(float, tile, 4 * 32);
  for (int k = 0; k < 4; ++k) tile[4 * threadIdx.x + k] = m.in[threadIdx.x];
  if (correct) __syncwarp();
  uint32_t out[4];
  ldmatrix(out, tile + 4 * (threadIdx.x ^ 1));
  m.out[threadIdx.x] = float(out[0]);
}

const Kernel KERNELS[] = {
    SEEDED(copy_without_wait, 1, THREADS, 0),
    SEEDED(wait_for_too_few, 1, THREADS, 0),
    SEEDED(copy_without_commit, 1, THREADS, 0),
    SEEDED(copy_never_waited_for, 1, THREADS, 0),
    SEEDED(copy_of_another_thread, 1, THREADS, 0),
    SEEDED(copy_past_the_end_of_shared, 1, THREADS, 0),
    SEEDED(copy_to_global, 1, 1, 0),
    SEEDED(misaligned_copy, 1, THREADS, 0),
    SEEDED(matrix_past_the_end, 1, 32, 0),
    SEEDED(matrix_in_global, 1, 32, 0),
    SEEDED(matrix_before_its_rows, 1, 32, 0),
};

}  // namespace

List<Kernel> shared_faults() { return {KERNELS, sizeof KERNELS / sizeof *KERNELS}; }

}  // namespace seeded
