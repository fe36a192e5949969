// What follows a convolution, on rows of C channels: v = scale * u + bias[c], leaky ReLU, pixel norm.
// ops/bias_act.py has the formulas.
#pragma once

#include "parallel.h"
#include "pixel_norm.h"
#include "vector.h"

namespace pggan::PGGAN_ISA {

template <class A>
struct Epilogue {
  A scale, slope, eps;
  bool eps_inside;
  const A* bias;  // of one row, times bias_scale, repeated over `wide`
  int64_t c;
  int64_t wide;  // elements of rows to handle at once: a multiple of c
};

// Few channels are normalised for as many pixels at once as a vector has lanes, whose sums then become one vector.
constexpr int64_t MOST_GROUPED_CHANNELS = 128;

template <class A>
inline int64_t wide_rows(int64_t c) {
  return c * maximum(c <= MOST_GROUPED_CHANNELS ? LANES<A> : 1, 512 / c);
}

// One pixel, [c] -> [c]; returns the norm's factor.
template <int NORM, class A>
A normalise_row(const Epilogue<A>& e, const A* in, A* out) {
  const int64_t c = e.c;
  const A scale = e.scale, slope = e.slope;
  const A* bias = e.bias;
  A squares = 0;
  PGGAN_SIMD_SUM(squares)
  for (int64_t j = 0; j < c; ++j) {
    A v = scale * in[j] + bias[j];
    if (NORM == NORM_AFTER_ACT) v = leaky_relu(v, slope);
    squares += v * v;
  }
  const A factor = inverse_rms(squares / A(c), e.eps, e.eps_inside);
  PGGAN_SIMD
  for (int64_t j = 0; j < c; ++j) {
    // factor > 0, so that both orders of norm and activation have this form
    out[j] = leaky_relu(scale * in[j] + bias[j], slope) * factor;
  }
  return factor;
}

// LANES pixels of whole vectors of channels; writes their factors where r is not null.
template <int NORM, class A>
void normalise_pixels(const Epilogue<A>& e, const A* in, A* out, A* r) {
  constexpr int64_t lanes = LANES<A>;
  const int64_t c = e.c;
  const A scale = e.scale, slope = e.slope;
  Vector<A> squares[lanes];
  for (int64_t p = 0; p < lanes; ++p) {
    Vector<A> sum{};
    for (int64_t j = 0; j < c; j += lanes) {
      Vector<A> v = scale * read_vector<A>(in + p * c + j) + read_vector<A>(e.bias + j);
      if (NORM == NORM_AFTER_ACT) v = leaky_relu(v, slope);
      sum += v * v;
    }
    squares[p] = sum;
  }
  A factor[lanes];
  write_vector<A>(factor, sums_of<A>(squares));
  PGGAN_SIMD
  for (int64_t p = 0; p < lanes; ++p) factor[p] = inverse_rms(factor[p] / A(c), e.eps, e.eps_inside);
  if (r) std::memcpy(r, factor, sizeof factor);
  for (int64_t p = 0; p < lanes; ++p)
    for (int64_t j = p * c; j < (p + 1) * c; j += lanes) {
      const Vector<A> v = scale * read_vector<A>(in + j) + read_vector<A>(e.bias + j);
      write_vector<A>(out + j, leaky_relu(v, slope) * factor[p]);
    }
}

// A run of pixels in rows of C channels and their factors, where r is not null; `buffer` has room for e.wide elements
// where T or U is not A.
template <int NORM, class U, class T, class A>
void epilogue_rows(const Epilogue<A>& e, const U* u, T* y, A* r, int64_t pixels, A* buffer) {
  const A scale = e.scale, slope = e.slope;
  const A* bias = e.bias;
  const bool grouped = e.c <= MOST_GROUPED_CHANNELS && e.c % LANES<A> == 0;
  for (int64_t i = 0; i < pixels * e.c; i += e.wide) {
    const int64_t n = minimum(e.wide, pixels * e.c - i);
    const A* in = load(u + i, buffer, n);
    A* out = target(y + i, buffer);
    if constexpr (NORM == NORM_NONE) {
      PGGAN_SIMD
      for (int64_t j = 0; j < n; ++j) out[j] = leaky_relu(scale * in[j] + bias[j], slope);
    } else {
      int64_t j = 0;
      if (grouped)
        for (const int64_t step = LANES<A> * e.c; j + step <= n; j += step)
          normalise_pixels<NORM>(e, in + j, out + j, r ? r + (i + j) / e.c : nullptr);
      for (; j < n; j += e.c) {
        const A factor = normalise_row<NORM>(e, in + j, out + j);
        if (r) r[(i + j) / e.c] = factor;
      }
    }
    store(y + i, out, n);
  }
}

// The bias over wide_rows(c) elements; null gives zeros.
template <class A>
int load_bias(const void* bias, int dtype, int64_t c, double scale, A* to) {
  if (int status = load_parameter(bias, dtype, c, scale, to)) return status;
  for (int64_t j = c; j < wide_rows<A>(c); ++j) to[j] = to[j - c];
  return OK;
}

}  // namespace pggan::PGGAN_ISA
