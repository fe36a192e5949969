// What the kernels of bias_act share: how threads take channels and pixels, and sums over pixels.
#pragma once

#include "common.cuh"

namespace pggan::cuda {

constexpr int THREADS = 256;

// a / b, in 32 bits where they are enough: a division in 64 takes a hundred instructions.
DEVICE int64_t divide(int64_t a, int64_t b) {
  return (a | b) >> 32 ? a / b : int64_t(uint32_t(a) / uint32_t(b));
}

// A thread takes SIZE channels from c on of pixel p: N neighbours of a row, 16 bytes of them or one...
template <class T, int N>
struct Rows {
  using Element = T;
  using Values = Vec<T, N>;
  static constexpr int SIZE = N;
  static constexpr bool side_by_side = true;  // neighbouring threads take neighbouring channels
  static DEVICE Values read(const void* x, const Shape& s, int64_t p, int64_t c) {
    return Values::read(static_cast<const T*>(x) + p * s.c + c);
  }
  static DEVICE void write(const Values& v, void* x, const Shape& s, int64_t p, int64_t c) {
    v.write(static_cast<T*>(x) + p * s.c + c);
  }
  static DEVICE int64_t byte(const Shape& s, int64_t p, int64_t c) { return p * ((s.c + 7) / 8) + c / 8; }
};

// ... or one element of each of the up to eight planes that share a byte of the mask.
template <class T>
struct Planes {
  using Element = T;
  using Values = Vec<T, 8>;
  static constexpr int SIZE = 8;
  static constexpr bool side_by_side = false;
  static DEVICE int64_t start(const Shape& s, int64_t p, int64_t plane, int64_t planes) {
    const int64_t pixels = s.h * s.w, n = divide(p, pixels);
    return (n * planes + plane) * pixels + p - n * pixels;
  }
  static DEVICE Values read(const void* x, const Shape& s, int64_t p, int64_t c) {
    const T* from = static_cast<const T*>(x) + start(s, p, c, s.c);
    Values out;
#pragma unroll
    for (int j = 0; j < SIZE; ++j) out.v[j] = c + j < s.c ? widen(from[j * (s.h * s.w)]) : 0.0f;
    return out;
  }
  static DEVICE void write(const Values& v, void* x, const Shape& s, int64_t p, int64_t c) {
    T* to = static_cast<T*>(x) + start(s, p, c, s.c);
#pragma unroll
    for (int j = 0; j < SIZE; ++j)
      if (c + j < s.c) to[j * (s.h * s.w)] = narrow<T>(v.v[j]);
  }
  static DEVICE int64_t byte(const Shape& s, int64_t p, int64_t c) { return start(s, p, c / 8, (s.c + 7) / 8); }
};

// One channel and 1x1 planes are rows in either layout.
inline bool in_rows(const Shape& s) { return s.channels_last || s.c == 1 || s.h * s.w == 1; }

// f(Rows or Planes) for a tensor of this shape; `to_16`: all pointers are aligned to 16 bytes.
template <class F>
cudaError_t with_access(int dtype, const Shape& s, bool to_16, const F& f) {
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    if (!in_rows(s)) return f(Planes<T>());
    if (to_16 && s.c % Vec<T>::SIZE == 0) return f(Rows<T, Vec<T>::SIZE>());
    return f(Rows<T, 1>());
  });
}

// The least power of two that is at least n, up to 32.
inline int lanes_for(int64_t n) {
  int lanes = 1;
  while (lanes < n && lanes < 32) lanes *= 2;
  return lanes;
}

DEVICE float leaky(float v, float slope) { return v > 0.0f ? v : slope * v; }

// N neighbours from `from` on, a multiple of their bytes up to 16, times scale.
template <int N, class T>
DEVICE void read_scaled(const T* from, float scale, float (&v)[N]) {
  constexpr int AT_ONCE = N * sizeof(T) > 16 ? 16 / sizeof(T) : N;
#pragma unroll
  for (int j = 0; j < N; j += AT_ONCE) {
    const auto part = Vec<T, AT_ONCE>::read(from + j);
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) v[j + i] = scale * part.v[i];
  }
}

// v = scale times channels [c, c + N) of a bias [channels], c a multiple of N; zeros beyond the last, and without one.
template <int N>
DEVICE void read_bias(const void* bias, int dtype, int64_t c, int64_t channels, float scale, float (&v)[N]) {
  const bool to_16 = reinterpret_cast<uintptr_t>(bias) % 16 == 0;
  if (bias && to_16 && c + N <= channels) {
    if (dtype == F16) return read_scaled<N>(static_cast<const Half*>(bias) + c, scale, v);
    if (dtype == BF16) return read_scaled<N>(static_cast<const BFloat*>(bias) + c, scale, v);
    return read_scaled<N>(static_cast<const float*>(bias) + c, scale, v);
  }
#pragma unroll
  for (int j = 0; j < N; ++j) v[j] = bias && c + j < channels ? scale * read_parameter(bias, dtype, c + j) : 0.0f;
}

// The sum of `count` numbers `step` apart, as four sums: shorter ones round less.
DEVICE float sum_in_four(const float* x, int count, int step) {
  float sum[4] = {};
  for (int first = 0; first < count; first += 4)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (first + i < count) sum[i] += x[(first + i) * step];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Sums x over the threads of a block that have the same lane, threadIdx.x % lanes, always in the same order; `lanes` is
// a power of two up to 32. x are vectors of N; f(c, sum) is called once for each c = (vector * lanes + lane) * N + j,
// by neighbouring threads for neighbours.
template <int N, int MAX_THREADS, int COUNT, class F>
DEVICE void sum_slots(float (&x)[COUNT], int lanes, const F& f) {
  constexpr int STRIDE = 32 + (N > 1 ? 32 / N : 0);  // so that threads read from different banks
  SHARED(float, partial, MAX_THREADS / 32 * COUNT * STRIDE);
  const int thread = int(threadIdx.x), lane = thread % 32, warps = int(blockDim.x) / 32;
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    for (int apart = lanes; apart < 32; apart *= 2) x[i] += __shfl_xor_sync(0xffffffffu, x[i], apart);
    if (lane < lanes) partial[(thread / 32 * COUNT + i) * STRIDE + lane] = x[i];
  }
  __syncthreads();
  for (int c = thread; c < COUNT * lanes; c += int(blockDim.x)) {
    const int i = c / N / lanes * N + c % N;
    f(c, sum_in_four(partial + i * STRIDE + c / N % lanes, warps, COUNT * STRIDE));
  }
}

// Blocks that go on with stride over pixels, `at_once` pixels at a time: enough to fill the device some times over, few
// enough that a second kernel adds their sums in no time.
inline unsigned pixel_blocks(int64_t pixels, int64_t at_once, int64_t channel_blocks = 1) {
  const int64_t blocks = ceil_div(pixels, at_once), most = ceil_div(16 * int64_t(multiprocessors()), channel_blocks);
  return unsigned(blocks < most ? blocks : most);
}

// bias_act with a pixel norm, of tensors that have elements; its backward pass leaves sums of dv over pixels in
// `workspace` [norm_backward_rows, C].
cudaError_t norm_forward(const BiasActForward&, cudaStream_t);
cudaError_t norm_backward(const BiasActBackward&, cudaStream_t);
int64_t norm_backward_rows(const BiasActBackward&, bool to_16);

}  // namespace pggan::cuda
