// 3x3 convolutions with fewer products (bilinear forms), one dimension of each. From IN pixels, STEP apart from tile to
// tile and the first BEFORE the tile's own, a form makes POINTS values; multiplied by as many values of the weight they
// give OUT pixels. In two dimensions rows and columns are taken in turn, and products are POINTS squared.
//
// spread and gather are the transposes of output and weight, which the weight's gradient needs. L is one value or many,
// A one; elements are `step` apart.
#pragma once

#include <cstdint>

#include "isa.h"

namespace pggan::PGGAN_ISA {

// A 1x1 convolution: a pixel's values are those to be multiplied.
struct Single {
  static constexpr int K = 1, IN = 1, STEP = 1, BEFORE = 0, POINTS = 1, OUT = 1;
  static constexpr double SCALE = 1.0;

  template <class L>
  static void input(const L* d, int64_t, L* out, int64_t) {
    out[0] = d[0];
  }
  template <class A, class L>
  static void weight(const L* g, int64_t, L* out, int64_t) {
    out[0] = g[0];
  }
  template <class A, class L>
  static void gather(const L* u, int64_t, L* out, int64_t) {
    out[0] = u[0];
  }
};

// Winograd's F(2, 3) (Lavin & Gray 2015): 4 products for 2 pixels in place of 6.
struct Winograd {
  static constexpr int K = 3, IN = 4, STEP = 2, BEFORE = 1, POINTS = 4, OUT = 2;
  static constexpr double SCALE = 1.0;

  template <class L>
  static void input(const L* d, int64_t step, L* out, int64_t out_step) {  // B^T
    out[0] = d[0] - d[2 * step];
    out[out_step] = d[step] + d[2 * step];
    out[2 * out_step] = d[2 * step] - d[step];
    out[3 * out_step] = d[step] - d[3 * step];
  }
  template <class L>
  static void output(const L* m, int64_t step, L* out, int64_t out_step) {  // A^T
    out[0] = m[0] + m[step] + m[2 * step];
    out[out_step] = m[step] - m[2 * step] - m[3 * step];
  }
  template <class L>
  static void spread(const L* y, int64_t step, L* out, int64_t out_step) {  // A
    out[0] = y[0];
    out[out_step] = y[0] + y[step];
    out[2 * out_step] = y[0] - y[step];
    out[3 * out_step] = L{} - y[step];
  }
  template <class A, class L>
  static void weight(const L* g, int64_t step, L* out, int64_t out_step) {  // G
    const L half_sum = A(0.5) * (g[0] + g[2 * step]), half = A(0.5) * g[step];
    out[0] = g[0];
    out[out_step] = half_sum + half;
    out[2 * out_step] = half_sum - half;
    out[3 * out_step] = g[2 * step];
  }
  template <class A, class L>
  static void gather(const L* u, int64_t step, L* out, int64_t out_step) {  // G^T
    const L half_sum = A(0.5) * (u[step] + u[2 * step]);
    out[0] = u[0] + half_sum;
    out[out_step] = A(0.5) * (u[step] - u[2 * step]);
    out[2 * out_step] = u[3 * step] + half_sum;
  }
};

// F(4, 3): 6 products for 4 pixels in place of 12. Its constants make it round about 10 times as much.
struct LargeWinograd {
  static constexpr int K = 3, IN = 6, STEP = 4, BEFORE = 1, POINTS = 6, OUT = 4;
  static constexpr double SCALE = 1.0;

  template <class L>
  static void input(const L* d, int64_t step, L* out, int64_t out_step) {
    const L &d0 = d[0], &d1 = d[step], &d2 = d[2 * step], &d3 = d[3 * step], &d4 = d[4 * step], &d5 = d[5 * step];
    const L even = d4 - 4.0f * d2, odd = d3 - 4.0f * d1, even_half = d4 - d2, odd_half = 2.0f * (d3 - d1);
    out[0] = 4.0f * d0 - 5.0f * d2 + d4;
    out[out_step] = even + odd;
    out[2 * out_step] = even - odd;
    out[3 * out_step] = even_half + odd_half;
    out[4 * out_step] = even_half - odd_half;
    out[5 * out_step] = 4.0f * d1 - 5.0f * d3 + d5;
  }
  template <class L>
  static void output(const L* m, int64_t step, L* out, int64_t out_step) {
    const L sum = m[step] + m[2 * step], difference = m[step] - m[2 * step];
    const L far_sum = m[3 * step] + m[4 * step], far_difference = m[3 * step] - m[4 * step];
    out[0] = m[0] + sum + far_sum;
    out[out_step] = difference + 2.0f * far_difference;
    out[2 * out_step] = sum + 4.0f * far_sum;
    out[3 * out_step] = difference + 8.0f * far_difference + m[5 * step];
  }
  template <class L>
  static void spread(const L* y, int64_t step, L* out, int64_t out_step) {
    const L &y0 = y[0], &y1 = y[step], &y2 = y[2 * step], &y3 = y[3 * step];
    const L even = y0 + y2, odd = y1 + y3, far_even = y0 + 4.0f * y2, far_odd = 2.0f * y1 + 8.0f * y3;
    out[0] = y0;
    out[out_step] = even + odd;
    out[2 * out_step] = even - odd;
    out[3 * out_step] = far_even + far_odd;
    out[4 * out_step] = far_even - far_odd;
    out[5 * out_step] = y3;
  }
  template <class A, class L>
  static void weight(const L* g, int64_t step, L* out, int64_t out_step) {
    const L &g0 = g[0], &g1 = g[step], &g2 = g[2 * step];
    const L near = A(-1.0 / 6) * (g0 + g2), middle = A(-1.0 / 6) * g1;
    const L far = A(1.0 / 24) * g0 + A(1.0 / 6) * g2, far_middle = A(1.0 / 12) * g1;
    out[0] = A(0.25) * g0;
    out[out_step] = near + middle;
    out[2 * out_step] = near - middle;
    out[3 * out_step] = far + far_middle;
    out[4 * out_step] = far - far_middle;
    out[5 * out_step] = g2;
  }
  template <class A, class L>
  static void gather(const L* u, int64_t step, L* out, int64_t out_step) {
    const L near = A(-1.0 / 6) * (u[step] + u[2 * step]), far = u[3 * step] + u[4 * step];
    out[0] = A(0.25) * u[0] + near + A(1.0 / 24) * far;
    out[out_step] = A(-1.0 / 6) * (u[step] - u[2 * step]) + A(1.0 / 12) * (u[3 * step] - u[4 * step]);
    out[2 * out_step] = near + A(1.0 / 6) * far + u[5 * step];
  }
};

// The weights of both resampling forms: the sum of all taps, the first and the last.
struct ByDifferences {
  template <class A, class L>
  static void weight(const L* g, int64_t step, L* out, int64_t out_step) {
    out[0] = g[0] + g[step] + g[2 * step];
    out[out_step] = g[0];
    out[2 * out_step] = g[2 * step];
  }
  template <class A, class L>
  static void gather(const L* u, int64_t step, L* out, int64_t out_step) {
    out[0] = u[0] + u[step];
    out[out_step] = u[0];
    out[2 * out_step] = u[0] + u[2 * step];
  }
};

// After nearest x2, whose phases see two equal pixels in a row, with taps u, v, w and S = u + v + w:
//   y[2i] = u x[i-1] + (v + w) x[i] = S x[i] + u (x[i-1] - x[i]),   y[2i+1] = S x[i] + w (x[i+1] - x[i])
// 3 products for 2 pixels in place of the phases' 4 and the plain 6.
struct Doubled : ByDifferences {
  static constexpr int K = 3, IN = 3, STEP = 1, BEFORE = 1, POINTS = 3, OUT = 2;
  static constexpr double SCALE = 1.0;

  template <class L>
  static void input(const L* d, int64_t step, L* out, int64_t out_step) {
    out[0] = d[step];
    out[out_step] = d[0] - d[step];
    out[2 * out_step] = d[2 * step] - d[step];
  }
  template <class L>
  static void output(const L* m, int64_t step, L* out, int64_t out_step) {
    out[0] = m[0] + m[step];
    out[out_step] = m[0] + m[2 * step];
  }
  template <class L>
  static void spread(const L* y, int64_t step, L* out, int64_t out_step) {
    out[0] = y[0] + y[step];
    out[out_step] = y[0];
    out[2 * out_step] = y[step];
  }
};

// Before a mean of two, its transpose:
//   z[2i] + z[2i+1] = S (x[2i] + x[2i+1]) + u (x[2i-1] - x[2i+1]) + w (x[2i+2] - x[2i])
// Output and spread are sums and copies of all, which the products do by themselves.
struct Halved : ByDifferences {
  static constexpr int K = 3, IN = 4, STEP = 2, BEFORE = 1, POINTS = 3, OUT = 1;
  static constexpr double SCALE = 0.25;

  template <class L>
  static void input(const L* d, int64_t step, L* out, int64_t out_step) {
    out[0] = d[step] + d[2 * step];
    out[out_step] = d[0] - d[2 * step];
    out[2 * out_step] = d[3 * step] - d[step];
  }
};

// Pixels of an image after a resampling.
constexpr int64_t resampled_pixels(int resample, int64_t pixels) {
  return resample == RESAMPLE_UP ? 4 * pixels : resample == RESAMPLE_DOWN ? pixels / 4 : pixels;
}

// f(the form of a convolution); `large`: that of more pixels and more rounding, where there is one.
template <class F>
int with_form(int k, int resample, bool large, const F& f) {
  if (k == 1) return f(Single{});
  switch (resample) {
    case RESAMPLE_UP: return f(Doubled{});
    case RESAMPLE_DOWN: return f(Halved{});
    default: return large ? f(LargeWinograd{}) : f(Winograd{});
  }
}

}  // namespace pggan::PGGAN_ISA
