// What follows a convolution, on sums in registers: bias, activation, pixel norm, 2x2 mean, and stores of 16 bytes.
//
// A warp has two rows of 16 pixels, their N * 8 channels in the lanes as multiply() of mma.cuh leaves them: v[row][n]
// holds of channels 8 n + 2 t and + 1 first those of pixel g, then of pixel g + 8, g = lane / 4, t = lane % 4.
#pragma once

#include "mma.cuh"

namespace pggan::cuda {

struct Epilogue {
  const void* bias;
  int bias_dtype, channels, norm;
  float bias_scale, slope, eps;
  bool eps_inside;

  explicit Epilogue(const ConvEpilogue& a, int64_t c)
      : bias(a.bias), bias_dtype(a.bias_dtype), channels(int(c)), norm(a.norm), bias_scale(float(a.bias_scale)),
        slope(float(a.slope)), eps(float(a.eps)), eps_inside(a.eps_inside) {}

  DEVICE float bias_of(int channel) const {
    return bias != nullptr && channel < channels ? bias_scale * read_parameter(bias, bias_dtype, channel) : 0.0f;
  }
};

constexpr unsigned ALL_LANES = 0xffffffffu;

// f(v[row][n][i], its channel) for all of a lane's sums.
template <int N, class F>
DEVICE void each_sum(float (&v)[2][N][4], const F& f) {
  const int t = int(threadIdx.x) & 3;
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int row = 0; row < 2; ++row)
#pragma unroll
      for (int i = 0; i < 4; ++i) f(v[row][n][i], 8 * n + 2 * t + (i & 1));
}

// Pixel norm; r[row][pixel / 8] is its factor. Channels of the padding are zero.
template <int N>
DEVICE void normalise(float (&v)[2][N][4], float (&r)[2][2], const Epilogue& e) {
#pragma unroll
  for (int row = 0; row < 2; ++row)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = 0.0f;
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int j = 0; j < 2; ++j) sum += v[row][n][2 * half + j] * v[row][n][2 * half + j];
      sum += __shfl_xor_sync(ALL_LANES, sum, 1);
      sum += __shfl_xor_sync(ALL_LANES, sum, 2);
      const float mean = sum / float(e.channels);
      const float factor = e.eps_inside ? rsqrtf(mean + e.eps) : 1.0f / (sqrtf(mean) + e.eps);
      r[row][half] = factor;
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int j = 0; j < 2; ++j) v[row][n][2 * half + j] *= factor;
    }
}

template <int N>
DEVICE void leaky_relu(float (&v)[2][N][4], float slope) {
  if (slope == 1.0f) return;
  each_sum(v, [=](float& x, int) { x = x > 0.0f ? x : slope * x; });
}

// The sums with `bias` [N * 8], in shared memory; channels of the padding as zero, whatever x was.
template <int N>
DEVICE void add_bias(float (&v)[2][N][4], const float* bias, int channels) {
  each_sum(v, [=](float& x, int channel) { x = channel < channels ? x + bias[channel] : 0.0f; });
}

template <int N>
DEVICE void activate(float (&v)[2][N][4], float (&r)[2][2], const Epilogue& e) {
  if (e.norm == NORM_BEFORE_ACT) normalise(v, r, e);
  leaky_relu(v, e.slope);
  if (e.norm == NORM_AFTER_ACT) normalise(v, r, e);
}

// Two elements in one register.
template <class T>
DEVICE uint32_t pair_of(float a, float b) {
  const T two[2] = {narrow<T>(a), narrow<T>(b)};
  uint32_t out;
  memcpy(&out, two, 4);
  return out;
}

// In a lane that is not `second` of its two, whose numbers differ by `lane`: mine becomes (mine, the other's first), in
// the other (this one's second, its own).
DEVICE void exchange(uint32_t& first, uint32_t& second, bool is_second, int lane) {
  const uint32_t other = __shfl_xor_sync(ALL_LANES, is_second ? first : second, lane);
  (is_second ? first : second) = other;
}

// A lane's channels of H pixels, v[pixel * N + n] = {8 n + 2 t, 8 n + 2 t + 1}, to where pixel_at(pixel) says, or
// nowhere where that is null. Four lanes exchange theirs, so that each has 16 bytes of one pixel.
template <class T, int N, int H, class PixelAt>
DEVICE void store_halves(const float (&v)[H * N][2], int channels, const PixelAt& pixel_at) {
  const int t = int(threadIdx.x) & 3;
#pragma unroll
  for (int first = 0; first < H * N; first += 4) {  // lane t gets all eight channels of first + t
    uint32_t w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = first + i < H * N ? pair_of<T>(v[first + i][0], v[first + i][1]) : 0;
    exchange(w[0], w[1], t & 1, 1);
    exchange(w[2], w[3], t & 1, 1);
    exchange(w[0], w[2], t & 2, 2);
    exchange(w[1], w[3], t & 2, 2);
    const int item = first + t, channel = item % N * 8;
    T* pixel = item < H * N ? pixel_at(item / N) : nullptr;
    if (pixel != nullptr && channel < channels) store128(pixel + channel, {w[0], w[1], w[2], w[3]});
  }
}

template <int N, int H, class PixelAt>
DEVICE void store_floats(const float (&v)[H * N][2], int channels, const PixelAt& pixel_at) {
  const int t = int(threadIdx.x) & 3;
#pragma unroll
  for (int first = 0; first < H * N; first += 2) {  // lanes 0 and 2 get both halves of `first`, 1 and 3 of the next
    uint32_t w[4];
    memcpy(w, v[first], 8);
    memcpy(w + 2, v[first + 1], 8);
    exchange(w[0], w[2], t & 1, 1);
    exchange(w[1], w[3], t & 1, 1);
    const int channel = (first % N + (t & 1)) * 8 + t / 2 * 4;
    float* pixel = pixel_at(first / N);
    if (pixel != nullptr && channel < channels) store128(pixel + channel, {w[0], w[1], w[2], w[3]});
  }
}

template <class T, int N, int H, class PixelAt>
DEVICE void store_elements(const float (&v)[H * N][2], int channels, const PixelAt& pixel_at) {
  const int t = int(threadIdx.x) & 3;
#pragma unroll
  for (int h = 0; h < H; ++h) {
    T* pixel = pixel_at(h);
    if (pixel == nullptr) continue;
    pixel += 2 * t;
#pragma unroll
    for (int i = 0; i < 2 * N; ++i) {
      const int channel = i / 2 * 8 + i % 2;
      if (channel + 2 * t < channels) pixel[channel] = narrow<T>(v[h * N + i / 2][i % 2]);
    }
  }
}

// `whole`: pixels are whole units of 16 bytes, on 16 bytes.
template <class T, int N, int H, class PixelAt>
DEVICE void store_pixels(const float (&v)[H * N][2], int channels, bool whole, const PixelAt& pixel_at) {
  if (!whole) {
    store_elements<T, N, H>(v, channels, pixel_at);
  } else if constexpr (sizeof(T) == 2) {
    store_halves<T, N, H>(v, channels, pixel_at);
  } else {
    store_floats<N, H>(v, channels, pixel_at);
  }
}

// Pixels [first, end) of a row of 16, `step` elements apart.
template <class T, int N>
DEVICE void store_row(const float (&v)[N][4], T* row, int step, int first, int end, int channels, bool whole) {
  const int g = int(threadIdx.x) / 4 % 8;
  float lane[2 * N][2];
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) lane[i / 2 * N + n][i & 1] = v[n][i];
  store_pixels<T, N, 2>(lane, channels, whole, [=](int half) -> T* {
    const int pixel = g + 8 * half;
    return first <= pixel && pixel < end ? row + pixel * step : nullptr;
  });
}

// The 2x2 means of both rows, `pixels` of 8, dense from `row` on. Even g stores those of pixels g, odd ones of g + 8.
template <class T, int N>
DEVICE void store_pooled(const float (&v)[2][N][4], T* row, int pixels, int channels, bool whole) {
  const int g = int(threadIdx.x) / 4 % 8, pixel = g / 2 + g % 2 * 4;
  float lane[N][2];
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float sum[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        sum[half] = v[0][n][2 * half + j] + v[1][n][2 * half + j];
        sum[half] += __shfl_xor_sync(ALL_LANES, sum[half], 4);
      }
      lane[n][j] = 0.25f * (g % 2 ? sum[1] : sum[0]);
    }
  store_pixels<T, N, 1>(lane, channels, whole,
                        [=](int) -> T* { return pixel < pixels ? row + pixel * channels : nullptr; });
}

// One bit per sum > 0 of a row, `pixels` of 16: [pixel][ceil(channels / 8)] bytes from `row` on.
template <int N>
DEVICE void store_mask(const float (&v)[N][4], uint8_t* row, int pixels, int channels) {
  const int lane = int(threadIdx.x) & 31, t = lane & 3, bytes = (channels + 7) / 8;
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int first = 0; first < N; first += 4) {  // four bytes at a time: lane t stores the t-th
      uint32_t bits = 0;
#pragma unroll
      for (int n = first; n < first + 4 && n < N; ++n)
#pragma unroll
        for (int j = 0; j < 2; ++j) bits |= uint32_t(v[n][2 * half + j] > 0.0f) << (8 * (n - first) + 2 * t + j);
      bits |= __shfl_xor_sync(ALL_LANES, bits, 1);
      bits |= __shfl_xor_sync(ALL_LANES, bits, 2);
      const int pixel = lane / 4 + 8 * half;
      if (pixel < pixels && first + t < bytes) row[pixel * bytes + first + t] = uint8_t(bits >> (8 * t));
    }
}

}  // namespace pggan::cuda
