// to_rgb_fade_in: 1x1 convolutions of two resolutions' features to an image, blended. LANES lanes take 2x2 pixels of
// x_high and the pixel of x_low below them, each lane every LANES-th vector of their channels.
#include "images.cuh"
#include "rgb.cuh"

namespace pggan::cuda {
namespace {

constexpr int THREADS = 256;
constexpr int SUMS = 4 * K;  // of upper left, lower left, upper right, lower right
constexpr size_t SHARED_WITHOUT_ASKING = 48 * 1024;

// sums [PIXELS, K] += this lane's share of the products for the pixels of x that begin at `at`.
template <int N, int LANES, int PIXELS, class T>
DEVICE void multiply(const T* __restrict__ x, const Pixels& p, const int64_t (&at)[PIXELS], const float* weights,
                     int lane, float (&sums)[PIXELS * K]) {
  const int vectors = int(p.c / N);
  const int64_t step = N * p.channel();
  for (int i = lane; i < vectors; i += LANES) {
    Vec<T, N> v[PIXELS];
#pragma unroll
    for (int q = 0; q < PIXELS; ++q) v[q] = Vec<T, N>::read(x + at[q] + i * step);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const auto w = Vec<float, K>::read(weights + (j * vectors + i) * K);
#pragma unroll
      for (int q = 0; q < PIXELS; ++q)
#pragma unroll
        for (int k = 0; k < K; ++k) sums[q * K + k] += w.v[k] * v[q].v[j];
    }
  }
}

// Adds up v over LANES lanes. Each lane keeps its share alone, SUMS / LANES of them from the number returned on, at the
// start of v: half as many values are exchanged in every round.
template <int LANES, int BIT = 1, int LEFT = SUMS>
DEVICE int sum_and_share(float (&v)[SUMS], int lane) {
  if constexpr (BIT == LANES) {
    return 0;
  } else if constexpr (LEFT == 1) {
    v[0] += __shfl_xor_sync(0xffffffffu, v[0], BIT);
    return sum_and_share<LANES, 2 * BIT, 1>(v, lane);
  } else {
    constexpr int HALF = LEFT / 2;
    const bool upper = lane & BIT;
#pragma unroll
    for (int i = 0; i < HALF; ++i) {
      const float other = __shfl_xor_sync(0xffffffffu, upper ? v[i] : v[HALF + i], BIT);
      v[i] = (upper ? v[HALF + i] : v[i]) + other;
    }
    return (upper ? HALF : 0) + sum_and_share<LANES, 2 * BIT, HALF>(v, lane);
  }
}

// a.shape is the image's. N channels are read at a time, neighbours unless N is 1.
template <class T, int N, int LANES>
__global__ void __launch_bounds__(THREADS, 2) blend_rgb(ToRgbFadeIn a) {
  SHARED_DYNAMIC(memory);
  const Shape& s = a.shape;
  const float fade = read_alpha(a.alpha);
  float* w_low = reinterpret_cast<float*>(memory);  // [c_low, K]
  float* w_high = w_low + a.c_low * K;              // [c_high, K]
  float* bias = w_high + a.c_high * K;              // [K]
  stage_weights<N>(a.low, a.c_low, a.c_low, s.c, 1.0f - fade, w_low, THREADS);
  stage_weights<N>(a.high, a.c_high, a.c_high, s.c, fade, w_high, THREADS);
  if (threadIdx.x < s.c) bias[threadIdx.x] = blend(rgb_bias(a.low, threadIdx.x), rgb_bias(a.high, threadIdx.x), fade);
  __syncthreads();

  const Pixels low{a.c_low, s.h * s.w / 4, s.channels_last}, high{a.c_high, s.h * s.w, s.channels_last};
  const Pixels rgb{s.c, s.h * s.w, s.channels_last};
  const int lane = threadIdx.x % LANES;
  const int64_t pixels = s.n * low.plane, together = THREADS / LANES;
  for (int64_t start = blockIdx.x * together; start < pixels; start += gridDim.x * together) {
    const int64_t pixel = start + threadIdx.x / LANES, above = pixel_over(pixel, s.w / 2);
    const bool real = pixel < pixels;
    float sums[SUMS];
    if (real) {
      float shared_by_4[K] = {};
      multiply<N, LANES, 1>(static_cast<const T*>(a.x_low), low, {low.at(pixel)}, w_low, lane, shared_by_4);
#pragma unroll
      for (int i = 0; i < SUMS; ++i) sums[i] = shared_by_4[i % K];
      const int64_t first = high.at(above), right = high.right(), below = s.w * right;
      multiply<N, LANES, 4>(static_cast<const T*>(a.x_high), high,
                            {first, first + below, first + right, first + below + right}, w_high, lane, sums);
    }
    const int mine = sum_and_share<LANES>(sums, lane);
    if (!real || lane >= SUMS) continue;
    T* image = static_cast<T*>(a.image) + rgb.at(above);
#pragma unroll
    for (int i = 0; i < (LANES < SUMS ? SUMS / LANES : 1); ++i) {
      const int k = (mine + i) % K, row = (mine + i) / K % 2, column = (mine + i) / K / 2;
      if (k < s.c) image[(row * s.w + column) * rgb.right() + k * rgb.channel()] = narrow<T>(sums[i] + bias[k]);
    }
  }
}

template <class T, int N, int LANES>
cudaError_t run(const ToRgbFadeIn& a, cudaStream_t stream) {
  const size_t shared = (a.c_low + a.c_high + 1) * K * sizeof(float);
  if (shared > SHARED_WITHOUT_ASKING) {
    const auto refused = allow_shared(reinterpret_cast<const void*>(blend_rgb<T, N, LANES>), shared);
    if (refused != cudaSuccess) return refused;
  }
  // Few blocks, since each begins with all the weights.
  const int64_t blocks = ceil_div(a.shape.n * a.shape.h * a.shape.w / 4 * LANES, THREADS);
  const int64_t most = 8 * int64_t(multiprocessors());
  RUN((blend_rgb<T, N, LANES>), unsigned(blocks < most ? blocks : most), THREADS, shared, stream, a);
  return cudaSuccess;
}

template <class T>
cudaError_t choose(const ToRgbFadeIn& a, cudaStream_t stream) {
  constexpr int N = Vec<T>::SIZE;
  const bool rows = a.shape.channels_last;
  if (!rows || a.c_low % N || a.c_high % N || !aligned(a.x_low) || !aligned(a.x_high))
    return rows && a.c_high >= 8 ? run<T, 1, 8>(a, stream) : run<T, 1, 1>(a, stream);
  const int64_t vectors = a.c_high / N;
  if (vectors >= 32) return run<T, N, 32>(a, stream);
  if (vectors >= 8) return run<T, N, 8>(a, stream);
  if (vectors >= 4) return run<T, N, 4>(a, stream);
  return vectors >= 2 ? run<T, N, 2>(a, stream) : run<T, N, 1>(a, stream);
}

}  // namespace

cudaError_t to_rgb_fade_in_forward(const ToRgbFadeIn& a, cudaStream_t stream) {
  if (a.shape.n * a.shape.c * a.shape.h * a.shape.w == 0) return cudaSuccess;
  return with_dtype(a.dtype, [&](auto zero) { return choose<decltype(zero)>(a, stream); });
}

}  // namespace pggan::cuda
