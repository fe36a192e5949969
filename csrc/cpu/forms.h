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

// Winograd's F(2, 3) (Lavin & Gray 2015): 4 products for 2 pixels in place of 6.
struct Winograd {
  static constexpr int IN = 4, STEP = 2, BEFORE = 1, POINTS = 4, OUT = 2;
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
  static constexpr int IN = 3, STEP = 1, BEFORE = 1, POINTS = 3, OUT = 2;
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
  static constexpr int IN = 4, STEP = 2, BEFORE = 1, POINTS = 3, OUT = 1;
  static constexpr double SCALE = 0.25;

  template <class L>
  static void input(const L* d, int64_t step, L* out, int64_t out_step) {
    out[0] = d[step] + d[2 * step];
    out[out_step] = d[0] - d[2 * step];
    out[2 * out_step] = d[3 * step] - d[step];
  }
};

// f(the form of a resampling).
template <class F>
int with_form(int resample, const F& f) {
  switch (resample) {
    case RESAMPLE_UP: return f(Doubled{});
    case RESAMPLE_DOWN: return f(Halved{});
    default: return f(Winograd{});
  }
}

}  // namespace pggan::PGGAN_ISA
