// What all kernels share: element types, vectors of 16 bytes, sums over warps and blocks, and launching.
#pragma once

#include "launchers.h"
#include "port.h"

// In a launcher: runs the kernel, and returns its error from the launcher if there is one.
#define RUN(kernel, grid, block, shared, stream, ...)                  \
  do {                                                                 \
    last_launch = {#kernel, dim3(grid), dim3(block), size_t(shared)};  \
    LAUNCH((kernel), grid, block, shared, stream, __VA_ARGS__);        \
    if (const cudaError_t failed = cudaGetLastError()) return failed;  \
  } while (0)

namespace pggan::cuda {

using Half = __half;
using BFloat = __nv_bfloat16;

DEVICE float widen(float x) { return x; }
DEVICE float widen(Half x) { return __half2float(x); }
DEVICE float widen(BFloat x) { return __bfloat162float(x); }

template <class T>
DEVICE T narrow(float x);
template <>
DEVICE float narrow<float>(float x) {
  return x;
}
template <>
DEVICE Half narrow<Half>(float x) {
  return __float2half_rn(x);
}
template <>
DEVICE BFloat narrow<BFloat>(float x) {
  return __float2bfloat16_rn(x);
}

// What one access of so many bytes moves.
template <int BYTES>
struct Word;
template <>
struct Word<2> {
  using Type = uint16_t;
};
template <>
struct Word<4> {
  using Type = uint32_t;
};
template <>
struct Word<8> {
  using Type = uint64_t;
};
template <>
struct Word<16> {
  using Type = Vec16;
};

template <class W>
DEVICE W load_word(const void* from) {
  return *static_cast<const W*>(from);
}
template <>
DEVICE Vec16 load_word<Vec16>(const void* from) {
  return load128(from);
}
template <class W>
DEVICE void store_word(void* to, W word) {
  *static_cast<W*>(to) = word;
}
template <>
DEVICE void store_word<Vec16>(void* to, Vec16 word) {
  store128(to, word);
}

// N elements of T, moved in one access, as floats; 16 bytes unless told otherwise.
template <class T, int N = 16 / sizeof(T)>
struct Vec {
  static constexpr int SIZE = N;
  float v[SIZE];

  // `from` on a multiple of the vector's bytes.
  static DEVICE Vec read(const T* from) {
    T t[SIZE];
    const auto raw = load_word<typename Word<sizeof t>::Type>(from);
    memcpy(static_cast<void*>(t), &raw, sizeof t);
    Vec out;
#pragma unroll
    for (int j = 0; j < SIZE; ++j) out.v[j] = widen(t[j]);
    return out;
  }

  // `to`, in device memory, on a multiple of the vector's bytes.
  DEVICE void write(T* to) const { store_word(to, packed()); }
  DEVICE void write_shared(T* to) const { store128_shared(to, packed()); }  // 16 bytes

  DEVICE auto packed() const {  // as one word
    T t[SIZE];
#pragma unroll
    for (int j = 0; j < SIZE; ++j) t[j] = narrow<T>(v[j]);
    typename Word<sizeof t>::Type raw;
    memcpy(&raw, t, sizeof t);
    return raw;
  }

  // The first n of SIZE elements at any address, the rest as zeros.
  static DEVICE Vec read_some(const T* from, int n) {
    Vec out;
#pragma unroll
    for (int j = 0; j < SIZE; ++j) out.v[j] = j < n ? widen(from[j]) : 0.0f;
    return out;
  }

  DEVICE void write_some(T* to, int n) const {
#pragma unroll
    for (int j = 0; j < SIZE; ++j)
      if (j < n) to[j] = narrow<T>(v[j]);
  }
};

// Parameters come in any dtype.
DEVICE float read_parameter(const void* p, int dtype, int64_t i) {
  if (dtype == F16) return widen(static_cast<const Half*>(p)[i]);
  if (dtype == BF16) return widen(static_cast<const BFloat*>(p)[i]);
  return static_cast<const float*>(p)[i];
}

// Clamped to [0, 1]; NaN stays NaN.
DEVICE float read_alpha(const float* alpha) { return *alpha < 0.0f ? 0.0f : *alpha > 1.0f ? 1.0f : *alpha; }

// Exactly high at 1 and exactly low at 0, where both are finite.
DEVICE float blend(float low, float high, float alpha) { return low * (1.0f - alpha) + high * alpha; }

// The sum over the 32 lanes of a warp, in every lane; always in the same order.
DEVICE float warp_sum(float x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
  return x;
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// f(a value of the element type) for the code of csrc/kernels.h.
template <class F>
cudaError_t with_dtype(int dtype, const F& f) {
  switch (dtype) {
    case F32: return f(float());
    case F16: return f(Half());
    case BF16: return f(BFloat());
    default: return cudaErrorInvalidValue;
  }
}

// How many multiprocessors the current device has; grids of persistent blocks are sized from it.
inline int multiprocessors() {
  int device = 0, count = 1;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

// How much shared memory a block may have on the current device.
inline size_t shared_memory_of_a_block() {
  int device = 0, bytes = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return size_t(bytes);
}

// Lets blocks of a kernel without static shared memory have `shared` bytes of it. The kernel is allowed all that there
// is: a smaller number would be in the way of another thread, which may be about to launch it with more.
inline cudaError_t allow_shared(const void* kernel, size_t shared) {
  const size_t most = shared_memory_of_a_block();
  if (shared > most) return cudaErrorInvalidValue;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(most));
}

// Blocks for `items` of work where one thread takes one at a time and goes on with stride: at most 32 a multiprocessor.
inline unsigned grid_for(int64_t items, int threads) {
  const int64_t blocks = ceil_div(items, threads), most = 32 * int64_t(multiprocessors());
  return unsigned(blocks < most ? blocks : most);
}

}  // namespace pggan::cuda
