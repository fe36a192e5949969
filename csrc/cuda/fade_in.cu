// fade_in and its adjoint: (1 - alpha) * low + alpha * high, low repeated 2x2 where it has half the size. One thread
// per vector of elements, or of 2x2 pixels with the element of half size that they share.
#include "images.cuh"

namespace pggan::cuda {
namespace {

constexpr int THREADS = 256;

// Elements [i * N, (i + 1) * N) of `elements`, the last of them maybe cut short.
template <int N, class T>
DEVICE Vec<T, N> read_part(const T* from, int64_t i, int64_t elements) {
  const int64_t left = elements - i * N;
  return left >= N ? Vec<T, N>::read(from + i * N) : Vec<T, N>::read_some(from + i * N, int(left));
}

template <int N, class T>
DEVICE void write_part(const Vec<T, N>& v, T* to, int64_t i, int64_t elements) {
  const int64_t left = elements - i * N;
  if (left >= N)
    v.write(to + i * N);
  else
    v.write_some(to + i * N, int(left));
}

template <int N, class T>
__global__ void __launch_bounds__(THREADS) blend_same(const T* __restrict__ low, const T* __restrict__ high,
                                                      const float* __restrict__ alpha, T* __restrict__ out,
                                                      int64_t elements) {
  const float a = read_alpha(alpha);
  const int64_t stride = int64_t(gridDim.x) * THREADS;
  for (int64_t i = blockIdx.x * int64_t(THREADS) + threadIdx.x; i * N < elements; i += stride) {
    const auto v = read_part<N>(low, i, elements);
    auto u = read_part<N>(high, i, elements);
#pragma unroll
    for (int j = 0; j < N; ++j) u.v[j] = blend(v.v[j], u.v[j], a);
    write_part<N>(u, out, i, elements);
  }
}

template <class Q, class T = typename Q::T>
__global__ void __launch_bounds__(THREADS) blend_up(const T* __restrict__ low, const T* __restrict__ high,
                                                    const float* __restrict__ alpha, T* __restrict__ out, Lines l) {
  const float a = read_alpha(alpha);
  const int64_t quads = l.elements / Q::N;
  for (int64_t i = blockIdx.x * int64_t(THREADS) + threadIdx.x; i < quads; i += int64_t(gridDim.x) * THREADS) {
    const int64_t first = l.high(i * Q::N);
    const auto v = Vec<T, Q::N>::read(low + i * Q::N);
    Q q = Q::read(high + first, l);
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int j = 0; j < Q::N; ++j) q.v[k][j] = blend(v.v[j], q.v[k][j], a);
    q.write(out + first, l);
  }
}

template <int N, class T>
__global__ void __launch_bounds__(THREADS) split_same(const T* __restrict__ dy, const float* __restrict__ alpha,
                                                      T* __restrict__ dlow, T* __restrict__ dhigh, int64_t elements) {
  const float a = read_alpha(alpha);
  const int64_t stride = int64_t(gridDim.x) * THREADS;
  for (int64_t i = blockIdx.x * int64_t(THREADS) + threadIdx.x; i * N < elements; i += stride) {
    auto low = read_part<N>(dy, i, elements), high = low;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      low.v[j] *= 1.0f - a;
      high.v[j] *= a;
    }
    write_part<N>(low, dlow, i, elements);
    write_part<N>(high, dhigh, i, elements);
  }
}

template <class Q, class T = typename Q::T>
__global__ void __launch_bounds__(THREADS) split_up(const T* __restrict__ dy, const float* __restrict__ alpha,
                                                    T* __restrict__ dlow, T* __restrict__ dhigh, Lines l) {
  const float a = read_alpha(alpha);
  const int64_t quads = l.elements / Q::N;
  for (int64_t i = blockIdx.x * int64_t(THREADS) + threadIdx.x; i < quads; i += int64_t(gridDim.x) * THREADS) {
    const int64_t first = l.high(i * Q::N);
    Q q = Q::read(dy + first, l);
    auto low = q.sum();
#pragma unroll
    for (int j = 0; j < Q::N; ++j) {
      low.v[j] *= 1.0f - a;
#pragma unroll
      for (int k = 0; k < 4; ++k) q.v[k][j] *= a;
    }
    low.write(dlow + i * Q::N);
    q.write(dhigh + first, l);
  }
}

int64_t elements_of(const Shape& s) { return s.n * s.c * s.h * s.w; }

template <int N, class T>
cudaError_t forward_same(const FadeInForward& a, cudaStream_t stream) {
  const int64_t elements = elements_of(a.shape);
  RUN((blend_same<N, T>), grid_for(ceil_div(elements, N), THREADS), THREADS, 0, stream, static_cast<const T*>(a.low),
      static_cast<const T*>(a.high), a.alpha, static_cast<T*>(a.out), elements);
  return cudaSuccess;
}

template <int N, class T>
cudaError_t backward_same(const FadeInBackward& a, cudaStream_t stream) {
  const int64_t elements = elements_of(a.shape);
  RUN((split_same<N, T>), grid_for(ceil_div(elements, N), THREADS), THREADS, 0, stream, static_cast<const T*>(a.dy),
      a.alpha, static_cast<T*>(a.dlow), static_cast<T*>(a.dhigh), elements);
  return cudaSuccess;
}

}  // namespace

cudaError_t fade_in_forward(const FadeInForward& a, cudaStream_t stream) {
  if (elements_of(a.shape) == 0) return cudaSuccess;
  const bool on_16 = aligned(a.low) && aligned(a.high) && aligned(a.out);
  return with_dtype(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (!a.up) return on_16 ? forward_same<Vec<T>::SIZE, T>(a, stream) : forward_same<1, T>(a, stream);
    const Lines l = lines_of(a.shape);
    return with_quad<T>(l, on_16, [&](auto quad) {
      using Q = decltype(quad);
      RUN(blend_up<Q>, grid_for(l.elements / Q::N, THREADS), THREADS, 0, stream, static_cast<const T*>(a.low),
          static_cast<const T*>(a.high), a.alpha, static_cast<T*>(a.out), l);
      return cudaSuccess;
    });
  });
}

cudaError_t fade_in_backward(const FadeInBackward& a, cudaStream_t stream) {
  if (elements_of(a.shape) == 0) return cudaSuccess;
  const bool on_16 = aligned(a.dy) && aligned(a.dlow) && aligned(a.dhigh);
  return with_dtype(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (!a.up) return on_16 ? backward_same<Vec<T>::SIZE, T>(a, stream) : backward_same<1, T>(a, stream);
    const Lines l = lines_of(a.shape);
    return with_quad<T>(l, on_16, [&](auto quad) {
      using Q = decltype(quad);
      RUN(split_up<Q>, grid_for(l.elements / Q::N, THREADS), THREADS, 0, stream, static_cast<const T*>(a.dy), a.alpha,
          static_cast<T*>(a.dlow), static_cast<T*>(a.dhigh), l);
      return cudaSuccess;
    });
  });
}

}  // namespace pggan::cuda
