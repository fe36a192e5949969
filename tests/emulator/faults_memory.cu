// Seeded faults of single loads, stores and copies, and of arithmetic.
#include "../../csrc/cuda/common.cuh"
#include "seeded.h"

namespace seeded {
namespace {

using namespace pggan;
using cuda::last_launch;

// Bounds, alignment, initialisation

template <bool correct>
__global__ void read_past_the_end(Memory m) {
  m.out[threadIdx.x] = m.in[COUNT - THREADS + threadIdx.x + (correct ? 0 : 1)];
}

template <bool correct>
__global__ void write_past_the_end(Memory m) {
  m.out[COUNT - THREADS + threadIdx.x + (correct ? 0 : 1)] = 1.0f;
}

template <bool correct>
__global__ void write_before_the_start(Memory m) {
  m.out[int(threadIdx.x) - (correct ? 0 : 1)] = 1.0f;
}

template <bool correct>
__global__ void copy_past_the_end(Memory m) {
  float piece[6];
  memcpy(piece, m.in + COUNT - (correct ? 6 : 5), sizeof piece);
  m.out[threadIdx.x] = piece[0];
}

template <bool correct>
__global__ void small_copy_past_the_end(Memory m) {
  uint64_t piece;
  memcpy(&piece, m.in + COUNT - (correct ? 2 : 0), sizeof piece);
  m.out[threadIdx.x] = float(piece);
}

struct Eight {
  float v[8];
};

template <bool correct>
__global__ void structure_past_the_end(Memory m) {
  const Eight piece = *reinterpret_cast<const Eight*>(m.in + COUNT - (correct ? 8 : 4));
  m.out[threadIdx.x] = piece.v[threadIdx.x % 8];
}

template <bool correct>
__global__ void shared_past_the_end(Memory m) {
  SHARED(float, tile, THREADS);
  tile[threadIdx.x + (correct ? 0 : 1)] = m.in[threadIdx.x];
}

template <bool correct>
__global__ void dynamic_past_the_end(Memory m) {
  SHARED_DYNAMIC(tile);
  reinterpret_cast<float*>(tile)[threadIdx.x + (correct ? 0 : 1)] = m.in[threadIdx.x];
}

template <bool correct>
__global__ void private_of_another_thread(Memory m) {
  SHARED(float*, box, 1);
  float mine = m.in[threadIdx.x];
  if (threadIdx.x == (correct ? 1 : 0)) box[0] = &mine;
  __syncthreads();
  if (threadIdx.x == 1) m.out[0] = *box[0];
  __syncthreads();
  m.out[threadIdx.x + 1] = mine;
}

template <bool correct>
__global__ void host_pointer(Memory m, const float* host) {
  m.out[threadIdx.x] = correct ? m.in[0] : *host;
}

template <bool correct>
__global__ void misaligned_load(Memory m) {
  const Vec16 v = load128(m.in + (correct ? 4 : 1));
  m.out[threadIdx.x] = float(v.x);
}

template <bool correct>
__global__ void misaligned_store(Memory m) {
  store128(m.out + 4 * threadIdx.x + (correct ? 0 : 2), Vec16{});
}

template <bool correct>
__global__ void store_to_shared(Memory m) {
  SHARED(float, tile, 4);
  if (correct) store128_shared(tile, Vec16{});
  else store128(tile, Vec16{});
  m.out[threadIdx.x] = tile[threadIdx.x % 4];
}

template <bool correct>
__global__ void shared_store_to_global(Memory m) {
  SHARED(float, tile, 4 * 16);
  float* const to = correct ? tile : m.out;
  store128_shared(to + 4 * threadIdx.x, Vec16{});
}

template <bool correct>
__global__ void uninitialised_shared(Memory m) {
  SHARED(float, tile, THREADS);
  const int t = threadIdx.x;
  if (correct || t != 5) tile[t] = m.in[t];
  __syncthreads();
  m.out[t] = tile[THREADS - 1 - t];
}

template <bool correct>
__global__ void uninitialised_global(Memory m) {
  if (correct) m.out[threadIdx.x] = m.in[threadIdx.x];
  else m.out[threadIdx.x] += m.in[threadIdx.x];
}

template <bool correct>
__global__ void uninitialised_atomic(Memory m) {
  atomicAdd(correct ? m.zeros : m.out, 1.0f);
}

template <bool correct>
cudaError_t run_host_pointer(Memory m) {
  const float host = 1.0f;
  RUN(host_pointer<correct>, 1, 32, 0, nullptr, m, &host);
  return cudaSuccess;
}

// Arithmetic without a meaning; `in` holds its own indices

template <bool correct>
__global__ void index_out_of_range(Memory m) {
  float v[4] = {};
  v[int(m.in[threadIdx.x % 4]) + (correct ? 0 : 1)] = 1.0f;
  m.out[threadIdx.x] = v[0] + v[3];
}

template <bool correct>
__global__ void product_out_of_range(Memory m) {
  const int n = int(m.in[64]) * (1 << 24);
  m.out[threadIdx.x] = float(correct ? int64_t(n) * 2 : n * 2);
}

template <bool correct>
__global__ void division_by_zero(Memory m) {
  m.out[threadIdx.x] = float(7 / (int(m.in[0]) + (correct ? 1 : 0)));
}

template <bool correct>
__global__ void shift_too_far(Memory m) {
  m.out[threadIdx.x] = float(1u << (int(m.in[32]) - (correct ? 1 : 0)));
}

const Kernel KERNELS[] = {
    SEEDED(read_past_the_end, 1, THREADS, 0),
    SEEDED(write_past_the_end, 1, THREADS, 0),
    SEEDED(write_before_the_start, 1, THREADS, 0),
    SEEDED(copy_past_the_end, 1, 1, 0),
    SEEDED(small_copy_past_the_end, 1, 1, 0),
    SEEDED(structure_past_the_end, 1, 8, 0),
    SEEDED(shared_past_the_end, 1, THREADS, 0),
    SEEDED(dynamic_past_the_end, 1, THREADS, THREADS * sizeof(float)),
    SEEDED(private_of_another_thread, 1, 32, 0),
    {"host_pointer",
     [](bool correct, Memory m) { return correct ? run_host_pointer<true>(m) : run_host_pointer<false>(m); }},
    SEEDED(misaligned_load, 1, THREADS, 0),
    SEEDED(misaligned_store, 1, 16, 0),
    SEEDED(store_to_shared, 1, 1, 0),
    SEEDED(shared_store_to_global, 1, 16, 0),
    SEEDED(uninitialised_shared, 1, THREADS, 0),
    SEEDED(uninitialised_global, 1, THREADS, 0),
    SEEDED(uninitialised_atomic, 1, THREADS, 0),
    SEEDED(index_out_of_range, 1, THREADS, 0),
    SEEDED(product_out_of_range, 1, THREADS, 0),
    SEEDED(division_by_zero, 1, THREADS, 0),
    SEEDED(shift_too_far, 1, THREADS, 0),
};

}  // namespace

List<Kernel> memory_faults() { return {KERNELS, sizeof KERNELS / sizeof *KERNELS}; }

}  // namespace seeded
