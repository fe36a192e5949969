// Seeded faults of threads against each other: races, barriers, warps, and of launches.
#include "../../csrc/cuda/common.cuh"
#include "seeded.h"

namespace seeded {
namespace {

using namespace pggan;
using cuda::last_launch;
constexpr unsigned ALL = 0xffffffffu;

// Races

template <bool correct>
__global__ void read_after_write(Memory m) {
  SHARED(float, tile, THREADS);
  const int t = threadIdx.x;
  tile[t] = m.in[t];
  if (correct) __syncthreads();
  m.out[t] = tile[THREADS - 1 - t];
}

template <bool correct>
__global__ void write_after_read(Memory m) {
  SHARED(float, tile, THREADS);
  const int t = threadIdx.x;
  tile[t] = m.in[t];
  __syncthreads();
  const float x = tile[THREADS - 1 - t];
  if (correct) __syncthreads();
  tile[t] = x;
}

// One read by the first warp among many of the second, whose lanes are in step.
template <bool correct>
__global__ void write_after_read_of_another_warp(Memory m) {
  SHARED(float, tile, 1);
  const int t = threadIdx.x;
  if (t == 0) tile[0] = m.in[0];
  __syncthreads();
  if (t == 0 || t >= 32) m.out[t] = tile[0];
  if (correct) __syncthreads();
  __syncwarp();
  if (t == 40) tile[0] = 1.0f;
}

template <bool correct>
__global__ void lanes_out_of_step(Memory m) {
  SHARED(float, tile, THREADS);
  const int t = threadIdx.x;
  tile[t] = m.in[t];
  if (correct) __syncwarp();
  m.out[t] = tile[t ^ 1];
}

template <bool correct>
__global__ void shuffle_as_barrier(Memory m) {
  SHARED(float, tile, THREADS);
  const int t = threadIdx.x;
  tile[t] = m.in[t];
  if (correct) __syncwarp();
  else m.zeros[t] = __shfl_xor_sync(ALL, m.in[t], 1);
  m.out[t] = tile[t ^ 1];
}

template <bool correct>
__global__ void half_of_the_lanes_in_step(Memory m) {
  SHARED(float, tile, THREADS);
  const int t = threadIdx.x;
  tile[t] = m.in[t];
  const unsigned low = 0xffffu;
  __syncwarp(t % 32 < 16 ? low : ~low);
  m.out[t] = tile[correct ? t ^ 1 : t ^ 16];
}

template <bool correct>
__global__ void two_blocks_write(Memory m) {
  m.out[threadIdx.x + (correct ? blockIdx.x * THREADS : 0)] = m.in[threadIdx.x];
}

template <bool correct>
__global__ void block_reads_another(Memory m) {
  const int t = threadIdx.x, mine = blockIdx.x * THREADS + t;
  m.zeros[mine] = m.in[mine];
  m.out[mine] = m.zeros[correct ? mine : t];
}

// The first block's read lies behind many of the block that writes.
template <bool correct>
__global__ void block_writes_what_another_read(Memory m) {
  const int t = threadIdx.x, b = blockIdx.x;
  m.out[b * THREADS + t] = m.zeros[correct ? b : 0];
  __syncthreads();
  if (t == 0 && b == 1) m.zeros[correct ? 1 : 0] = 1.0f;
}

template <bool correct>
__global__ void sum_without_atomics(Memory m) {
  if (correct) atomicAdd(&m.zeros[0], m.in[threadIdx.x]);
  else m.zeros[0] += m.in[threadIdx.x];
}

template <bool correct>
__global__ void read_beside_atomics(Memory m) {
  atomicAdd(&m.zeros[0], 1.0f);
  if (correct) __syncthreads();
  m.out[threadIdx.x] = m.zeros[0];
}

// Bytes of threads that are neighbours: no race unless they are the same.
template <bool correct>
__global__ void threads_share_a_byte(Memory m) {
  reinterpret_cast<uint8_t*>(m.out)[correct ? threadIdx.x : threadIdx.x / 2] = uint8_t(threadIdx.x);
}

// Barriers and warps

template <bool correct>
__global__ void two_barriers(Memory m) {
  if (correct || threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  m.out[threadIdx.x] = 1.0f;
}

template <bool correct>
__global__ void barrier_after_exits(Memory m) {
  if (!correct && threadIdx.x >= 32) return;
  __syncthreads();
  m.out[threadIdx.x] = 1.0f;
}

template <bool correct>
__global__ void full_mask_in_a_branch(Memory m) {
  float x = m.in[threadIdx.x];
  if (correct || threadIdx.x % 2 == 0) x = __shfl_xor_sync(ALL, x, 2);
  __syncthreads();
  m.out[threadIdx.x] = x;
}

template <bool correct>
__global__ void lanes_exit_before_a_shuffle(Memory m) {
  if (!correct && threadIdx.x % 32 >= 16) return;
  m.out[threadIdx.x] = __shfl_xor_sync(ALL, m.in[threadIdx.x], 1);
}

template <bool correct>
__global__ void source_outside_of_the_mask(Memory m) {
  const unsigned low = 0xffffu;
  if (threadIdx.x < 16) m.out[threadIdx.x] = __shfl_sync(low, m.in[threadIdx.x], correct ? 10 : 20);
}

template <bool correct>
__global__ void lane_not_in_its_mask(Memory m) {
  const unsigned mask = threadIdx.x < 16 || !correct ? 0xffffu : 0xffff0000u;
  m.out[threadIdx.x] = __shfl_xor_sync(mask, m.in[threadIdx.x], 1);
}

template <bool correct>
__global__ void lanes_that_do_not_exist(Memory m) {
  const unsigned mask = threadIdx.x < 32 || !correct ? ALL : 0xffffu;  // a block of 48 threads
  m.out[threadIdx.x] = __ballot_sync(mask, 1) == mask;
}

template <bool correct>
__global__ void width_of_three(Memory m) {
  m.out[threadIdx.x] = __shfl_xor_sync(ALL, m.in[threadIdx.x], 1, correct ? 4 : 3);
}

template <bool correct>
__global__ void lanes_meet_from_two_places(Memory m) {
  float x = m.in[threadIdx.x];
  if (correct || threadIdx.x % 32 < 16) {
    x = __shfl_xor_sync(ALL, x, 1);
  } else {
    x = __shfl_xor_sync(ALL, x, 1);
  }
  m.out[threadIdx.x] = x;
}

// Launches

__global__ void nothing(Memory) {}

__global__ void little_shared(Memory m) {
  SHARED(float, tile, 1024);
  tile[threadIdx.x] = m.in[threadIdx.x];
}

template <int variant>
__global__ void opted_in(Memory) {}

cudaError_t too_many_threads(bool correct, Memory m) {
  RUN(nothing, 1, correct ? 1024 : 1025, 0, nullptr, m);
  return cudaSuccess;
}

cudaError_t empty_grid(bool correct, Memory m) {
  RUN(nothing, correct ? 1 : 0, 32, 0, nullptr, m);
  return cudaSuccess;
}

cudaError_t too_much_shared(bool correct, Memory m) {
  RUN(nothing, 1, 32, correct ? 48 * 1024 : 48 * 1024 + 4, nullptr, m);
  return cudaSuccess;
}

cudaError_t too_much_with_static(bool correct, Memory m) {
  RUN(little_shared, 1, 32, correct ? 44 * 1024 : 45 * 1024, nullptr, m);
  return cudaSuccess;
}

cudaError_t too_much_opted_in(bool correct, Memory m) {
  const int bytes = correct ? 227 * 1024 : 228 * 1024;
  const cudaError_t refused = cudaFuncSetAttribute(opted_in<0>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (refused != cudaSuccess) return refused;
  RUN(opted_in<0>, 1, 32, bytes, nullptr, m);
  return cudaSuccess;
}

cudaError_t fewer_opted_in(bool correct, Memory m) {
  constexpr auto attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
  for (const int bytes : {64 * 1024, correct ? 64 * 1024 : 60 * 1024}) {
    const cudaError_t refused = cudaFuncSetAttribute(opted_in<1>, attribute, bytes);
    if (refused != cudaSuccess) return refused;
  }
  RUN(opted_in<1>, 1, 32, 60 * 1024, nullptr, m);
  return cudaSuccess;
}

const Kernel KERNELS[] = {
    SEEDED(read_after_write, 1, THREADS, 0),
    SEEDED(write_after_read, 1, THREADS, 0),
    SEEDED(write_after_read_of_another_warp, 1, THREADS, 0),
    SEEDED(lanes_out_of_step, 1, THREADS, 0),
    SEEDED(shuffle_as_barrier, 1, THREADS, 0),
    SEEDED(half_of_the_lanes_in_step, 1, THREADS, 0),
    SEEDED(two_blocks_write, 2, THREADS, 0),
    SEEDED(block_reads_another, 2, THREADS, 0),
    SEEDED(block_writes_what_another_read, 2, THREADS, 0),
    SEEDED(sum_without_atomics, 3, THREADS, 0),
    SEEDED(read_beside_atomics, 1, THREADS, 0),
    SEEDED(threads_share_a_byte, 1, THREADS, 0),
    SEEDED(two_barriers, 1, THREADS, 0),
    SEEDED(barrier_after_exits, 1, THREADS, 0),
    SEEDED(full_mask_in_a_branch, 1, THREADS, 0),
    SEEDED(lanes_exit_before_a_shuffle, 1, THREADS, 0),
    SEEDED(source_outside_of_the_mask, 1, 32, 0),
    SEEDED(lane_not_in_its_mask, 1, 32, 0),
    SEEDED(lanes_that_do_not_exist, 1, 48, 0),
    SEEDED(width_of_three, 1, 32, 0),
    SEEDED(lanes_meet_from_two_places, 1, 32, 0),
    {"too_many_threads", too_many_threads},
    {"empty_grid", empty_grid},
    {"too_much_shared", too_much_shared},
    {"too_much_with_static", too_much_with_static},
    {"too_much_opted_in", too_much_opted_in},
    {"fewer_opted_in", fewer_opted_in},
};

}  // namespace

List<Kernel> thread_faults() { return {KERNELS, sizeof KERNELS / sizeof *KERNELS}; }

}  // namespace seeded
