// Images of up to four channels from features: weights in shared memory, and the products with sums in registers.
#pragma once

#include "common.cuh"

namespace pggan::cuda {

constexpr int K = MAX_IMAGE_CHANNELS;  // sums of a pixel; the weights of channels that the image lacks are zero

// `to` [N, padded / N, K] in shared memory: factor * scale * weight, of channel N * v + j at [j, v], so that lanes
// which take neighbouring vectors read neighbouring weights; zeros from channel c on.
template <int N>
DEVICE void stage_weights(const Pointwise& p, int64_t c, int64_t padded, int64_t image_channels, float factor,
                          float* to, int threads) {
  const int vectors = int(padded / N);
  for (int i = threadIdx.x; i < K * int(padded); i += threads) {
    const int k = i / int(padded), channel = i % int(padded);
    const bool real = k < image_channels && channel < c;
    const float w = real ? read_parameter(p.weight, p.weight_dtype, k * c + channel) * float(p.weight_scale) : 0.0f;
    to[(channel % N * vectors + channel / N) * K + k] = factor * w;
  }
}

DEVICE float rgb_bias(const Pointwise& p, int k) {
  return p.bias ? read_parameter(p.bias, p.bias_dtype, k) * float(p.bias_scale) : 0.0f;
}

// The sums over four lanes of s[0..3], of s[t] in lane t of them.
DEVICE float transpose_sum(const float (&s)[K]) {
  const int t = int(threadIdx.x) & 3;
  const bool odd = t & 1, upper = t & 2;
  const float a = (odd ? s[1] : s[0]) + __shfl_xor_sync(0xffffffffu, odd ? s[0] : s[1], 1);
  const float b = (odd ? s[3] : s[2]) + __shfl_xor_sync(0xffffffffu, odd ? s[2] : s[3], 1);
  return (upper ? b : a) + __shfl_xor_sync(0xffffffffu, upper ? a : b, 2);
}

// store(row, pixel, k, the product) for two rows of 16 pixels, v as in conv_epilogue.cuh; `weights` [N * 8, K].
template <int N, class Store>
DEVICE void to_rgb(const float (&v)[2][N][4], const float* weights, const Store& store) {
  const int g = int(threadIdx.x) / 4 % 8, t = int(threadIdx.x) & 3;
  float sums[2][2][K] = {};  // of pixels g and g + 8
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const auto w = Vec<float, K>::read(weights + (8 * n + 2 * t + j) * K);
#pragma unroll
      for (int row = 0; row < 2; ++row)
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int k = 0; k < K; ++k) sums[row][half][k] += w.v[k] * v[row][n][2 * half + j];
    }
#pragma unroll
  for (int row = 0; row < 2; ++row)
#pragma unroll
    for (int half = 0; half < 2; ++half) store(row, g + 8 * half, t, transpose_sum(sums[row][half]));
}

}  // namespace pggan::cuda
