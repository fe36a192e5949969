// Seeded faults for AddressSanitizer and UBSan, beside their correct twins: of local memory and of host code, which
// shadow memory does not watch. Pointers go through `hidden`, so that g++ neither warns nor knows better.
#include <memory>

#include "../../csrc/cuda/common.cuh"
#include "seeded.h"

namespace seeded {
namespace {

using namespace pggan;
using cuda::last_launch;

template <class T>
__attribute__((noinline)) T hidden(T value) {
  asm volatile("" : "+r"(value));
  return value;
}

// On the stacks of kernels

template <bool correct>
__global__ void local_read_past_the_end(Memory m) {
  float v[4] = {m.in[0], m.in[1], m.in[2], m.in[3]};
  const float* p = hidden(&v[0]);
  __syncwarp();  // after a change of stacks, too
  m.out[threadIdx.x] = p[correct ? 3 : 4];
}

template <bool correct>
__global__ void local_write_past_the_end(Memory m) {
  float v[4] = {};
  float* p = hidden(&v[0]);
  __syncwarp();
  p[correct ? 3 : 4] = m.in[threadIdx.x];
  m.out[threadIdx.x] = v[3];
}

template <bool correct>
__global__ void local_after_its_scope(Memory m) {
  const float* p;
  float outer = m.in[0];
  {
    float inner = m.in[1];
    p = hidden(correct ? &outer : &inner);
  }
  m.out[threadIdx.x] = *p;
}

__attribute__((noinline)) const float* local_of(float x) {
  float mine = hidden(x);
  return hidden(&mine);
}

template <bool correct>
__global__ void local_after_its_return(Memory m) {
  const float mine = m.in[threadIdx.x];
  const float* p = correct ? hidden(&mine) : local_of(mine);
  __syncwarp();
  m.out[threadIdx.x] = *p;
}

// Arithmetic and pointers without a meaning; `in` holds its own indices

template <bool correct>
__global__ void sum_out_of_range(Memory m) {
  const int most = 0x7fffffff - (correct ? 1 : 0);
  m.out[threadIdx.x] = float(most + int(m.in[1]));
}

template <bool correct>
__global__ void float_at_an_odd_address(Memory m) {
  const char* p = reinterpret_cast<const char*>(m.in) + (correct ? 4 : 2);
  m.out[threadIdx.x] = *reinterpret_cast<const float*>(hidden(p));
}

// In a launcher, and where the emulator itself reads for a kernel

template <bool correct>
cudaError_t heap_write_past_the_end(Memory m) {
  const std::unique_ptr<float[]> host(new float[COUNT]);
  float* p = hidden(host.get());
  for (int i = 0; i < COUNT + (correct ? 0 : 1); ++i) p[i] = m.in[0];
  m.out[0] = p[COUNT - 1];
  return cudaSuccess;
}

template <bool correct>
cudaError_t heap_after_its_end(Memory m) {
  std::unique_ptr<float> host(new float(m.in[1]));
  const float* p = hidden(host.get());
  if (!correct) host.reset();
  m.out[0] = *p;
  return cudaSuccess;
}

__global__ void load_vector(Memory m, const float* from) { m.out[threadIdx.x] = float(load128(from).x); }

template <bool correct>
cudaError_t vector_past_the_end(Memory m) {
  const std::unique_ptr<float[]> device(new float[8]());
  RUN(load_vector, 1, 32, 0, nullptr, m, device.get() + (correct ? 4 : 8));
  return cudaSuccess;
}

#define SEEDED_HOST(name) \
  { #name, [](bool correct, Memory m) { return correct ? name<true>(m) : name<false>(m); } }

const Kernel KERNELS[] = {
    SEEDED(local_read_past_the_end, 1, THREADS, 0),
    SEEDED(local_write_past_the_end, 1, THREADS, 0),
    SEEDED(local_after_its_scope, 1, THREADS, 0),
    SEEDED(local_after_its_return, 1, THREADS, 0),
    SEEDED(sum_out_of_range, 1, THREADS, 0),
    SEEDED(float_at_an_odd_address, 1, THREADS, 0),
    SEEDED_HOST(heap_write_past_the_end),
    SEEDED_HOST(heap_after_its_end),
    SEEDED_HOST(vector_past_the_end),
};

}  // namespace

List<Kernel> host_faults() { return {KERNELS, sizeof KERNELS / sizeof *KERNELS}; }

}  // namespace seeded
