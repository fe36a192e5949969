// from_rgb_fade_in: the leaky ReLU of a 1x1 convolution of the image's 2x2 means, blended with high, and its signs. A
// thread keeps the weights of its channels in registers and goes from pixel to pixel.
#include "images.cuh"

namespace pggan::cuda {
namespace {

constexpr int THREADS = 256;
constexpr int TILE = 256;              // pixels whose means a block keeps in shared memory
constexpr int AHEAD = 2;               // pixels that a thread reads before it computes
constexpr int K = MAX_IMAGE_CHANNELS;  // terms of a product; those of channels that the image lacks are zero

// The convolution to channels [first, first + N).
template <int N>
struct Taps {
  float weight[N][K], bias[N];

  static DEVICE Taps read(const FromRgbFadeIn& a, int64_t first) {
    Taps out;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const int64_t c = first + j;
      const bool real = c < a.shape.c;
      out.bias[j] = real && a.conv.bias ? read_parameter(a.conv.bias, a.conv.bias_dtype, c) * float(a.conv.bias_scale)
                                        : 0.0f;
#pragma unroll
      for (int k = 0; k < K; ++k)
        out.weight[j][k] = real && k < a.image_channels
                               ? read_parameter(a.conv.weight, a.conv.weight_dtype, c * a.image_channels + k) *
                                     float(a.conv.weight_scale)
                               : 0.0f;
    }
    return out;
  }

  DEVICE float of(int j, const Vec<float>& mean) const {
    float v = bias[j];
#pragma unroll
    for (int k = 0; k < K; ++k) v += weight[j][k] * mean.v[k];
    return v;
  }
};

// The image's mean over a pixel of high, of channel k; zero where it has none.
template <class T>
DEVICE float mean_below(const FromRgbFadeIn& a, int64_t pixel, int k) {
  if (k >= a.image_channels) return 0.0f;
  const Pixels p{a.image_channels, 4 * a.shape.h * a.shape.w, a.shape.channels_last};
  const T* upper = static_cast<const T*>(a.image) + p.at(pixel_over(pixel, a.shape.w)) + k * p.channel();
  const T* lower = upper + 2 * a.shape.w * p.right();
  return 0.25f * ((widen(upper[0]) + widen(upper[p.right()])) + (widen(lower[0]) + widen(lower[p.right()])));
}

// high to y in place; bit j says that the convolution's result of channel j is positive.
template <int N, class V>
DEVICE unsigned blend_features(const Taps<N>& taps, const Vec<float>& mean, float slope, float fade, V& high) {
  unsigned bits = 0;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float v = taps.of(j, mean);
    bits |= unsigned(v > 0.0f) << j;
    high.v[j] = blend(v > 0.0f ? v : slope * v, high.v[j], fade);
  }
  return bits;
}

// A thread's part of a tile of `count` pixels from number `tile` on: vector `vector` of pixels `row`, `row` + `rows`
// and so on. All threads of a warp come here, since those of one pixel put the bits of a byte together.
template <class T, int N>
DEVICE void blend_tile(const FromRgbFadeIn& a, const Taps<N>& taps, const float* means, float fade, int64_t tile,
                       int count, int64_t vector, int row, int rows) {
  constexpr int LANES = 8 / N;  // that share a byte of the mask
  const int64_t c = a.shape.c, bytes = (c + 7) / 8;
  const bool real = vector * N < c;
  const T* high = static_cast<const T*>(a.high) + tile * c + vector * N;
  T* y = static_cast<T*>(a.y) + tile * c + vector * N;
  for (int start = 0; start < count; start += AHEAD * rows) {
    Vec<T, N> v[AHEAD] = {};
#pragma unroll
    for (int p = 0; p < AHEAD; ++p) {
      const int i = start + p * rows + row;
      if (real && i < count) v[p] = Vec<T, N>::read(high + i * c);
    }
#pragma unroll
    for (int p = 0; p < AHEAD; ++p) {
      const int i = start + p * rows + row;
      unsigned bits = 0;
      if (real && i < count) {
        bits = blend_features<N>(taps, Vec<float>::read(means + i * K), float(a.slope), fade, v[p]);
        v[p].write(y + i * c);
      }
      bits <<= vector % LANES * N;
#pragma unroll
      for (int lane = 1; lane < LANES; lane *= 2) bits |= __shfl_xor_sync(0xffffffffu, bits, lane);
      if (i < count && vector % LANES == 0) a.mask[(tile + i) * bytes + vector / LANES] = uint8_t(bits);
    }
  }
}

// Pixels as rows of channels. A pixel has `vectors` of N channels, a whole number of mask bytes: those past the last
// channel hold nothing. Neighbouring threads take neighbouring vectors, a thread the same one of every pixel.
template <class T, int N>
__global__ void __launch_bounds__(THREADS, 2) blend_rows(FromRgbFadeIn a) {
  SHARED(float, means, TILE * K);
  const float fade = read_alpha(a.alpha);
  const int64_t pixels = a.shape.n * a.shape.h * a.shape.w, vectors = (a.shape.c + 7) / 8 * (8 / N);
  for (int64_t start = 0; start < vectors; start += THREADS) {  // once, below 256 vectors
    const int span = int(vectors - start < THREADS ? vectors - start : THREADS), rows = THREADS / span;
    const int thread = int(threadIdx.x), row = thread / span < rows ? thread / span : TILE;  // left over: no pixel
    const int64_t vector = start + thread % span;
    const auto taps = Taps<N>::read(a, vector * N);
    for (int64_t tile = blockIdx.x * int64_t(TILE); tile < pixels; tile += int64_t(gridDim.x) * TILE) {
      const int count = int(pixels - tile < TILE ? pixels - tile : TILE);
      __syncthreads();  // the means of the tile before have been read
      for (int i = threadIdx.x; i < count * K; i += THREADS) means[i] = mean_below<T>(a, tile + i / K, i % K);
      __syncthreads();
      blend_tile<T>(a, taps, means, fade, tile, count, vector, row, rows);
    }
  }
}

// Planes: a thread takes the eight channels of one byte of the mask, neighbouring threads neighbouring pixels.
template <class T>
__global__ void __launch_bounds__(THREADS, 2) blend_planes(FromRgbFadeIn a) {
  const Shape& s = a.shape;
  const float fade = read_alpha(a.alpha), slope = float(a.slope);
  const int64_t plane = s.h * s.w, pixels = s.n * plane, bytes = (s.c + 7) / 8;
  for (int64_t byte = blockIdx.y; byte < bytes; byte += gridDim.y) {
    const auto taps = Taps<8>::read(a, byte * 8);
    const int channels = int(s.c - byte * 8 < 8 ? s.c - byte * 8 : 8);
    for (int64_t pixel = blockIdx.x * int64_t(THREADS) + threadIdx.x; pixel < pixels;
         pixel += int64_t(gridDim.x) * THREADS) {
      Vec<float> mean;
#pragma unroll
      for (int k = 0; k < K; ++k) mean.v[k] = mean_below<T>(a, pixel, k);
      const int64_t n = pixel / plane, within = pixel % plane, at = (n * s.c + byte * 8) * plane + within;
      Vec<float, 8> high;
#pragma unroll
      for (int j = 0; j < 8; ++j)
        high.v[j] = j < channels ? widen(static_cast<const T*>(a.high)[at + j * plane]) : 0.0f;
      const unsigned bits = blend_features<8>(taps, mean, slope, fade, high);
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (j < channels) static_cast<T*>(a.y)[at + j * plane] = narrow<T>(high.v[j]);
      a.mask[(n * bytes + byte) * plane + within] = uint8_t(bits);
    }
  }
}

template <class T, int N>
cudaError_t run_rows(const FromRgbFadeIn& a, cudaStream_t stream) {
  const int64_t tiles = ceil_div(a.shape.n * a.shape.h * a.shape.w, TILE), most = 8 * int64_t(multiprocessors());
  RUN((blend_rows<T, N>), unsigned(tiles < most ? tiles : most), THREADS, 0, stream, a);
  return cudaSuccess;
}

template <class T>
cudaError_t run_planes(const FromRgbFadeIn& a, cudaStream_t stream) {
  const int64_t bytes = ceil_div(a.shape.c, 8), most = ceil_div(16 * int64_t(multiprocessors()), bytes);
  const int64_t blocks = ceil_div(a.shape.n * a.shape.h * a.shape.w, THREADS);
  const dim3 grid(unsigned(blocks < most ? blocks : most), unsigned(bytes < 65535 ? bytes : 65535));
  RUN(blend_planes<T>, grid, THREADS, 0, stream, a);
  return cudaSuccess;
}

}  // namespace

cudaError_t from_rgb_fade_in_forward(const FromRgbFadeIn& a, cudaStream_t stream) {
  if (a.shape.n * a.shape.c * a.shape.h * a.shape.w == 0) return cudaSuccess;
  return with_dtype(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (!a.shape.channels_last) return run_planes<T>(a, stream);
    const bool vectors = a.shape.c % Vec<T>::SIZE == 0 && aligned(a.high) && aligned(a.y);
    return vectors ? run_rows<T, Vec<T>::SIZE>(a, stream) : run_rows<T, 1>(a, stream);
  });
}

}  // namespace pggan::cuda
