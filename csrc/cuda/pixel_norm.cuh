// The formulas of bias_act's pixel norm, of ops/bias_act.py. With t' = k * (mean_c(dy * y) + dr * r / C):
// dv = r * (dy - y * t') masked (norm after), or r * (dy masked - (y unmasked) * t') (norm before): terms cancel before
// they are multiplied.
#pragma once

#include "bias_act.cuh"

namespace pggan::cuda {

struct NormForward {
  const void* bias;
  int bias_dtype, channels;
  float scale, bias_scale, slope, eps;
  bool after, eps_inside;

  explicit NormForward(const BiasActForward& a)
      : bias(a.bias), bias_dtype(a.bias_dtype), channels(int(a.shape.c)), scale(float(a.scale)),
        bias_scale(float(a.bias_scale)), slope(float(a.slope)), eps(float(a.eps)), after(a.norm == NORM_AFTER_ACT),
        eps_inside(a.eps_inside) {}

  DEVICE float shift(int c) const { return bias ? bias_scale * read_parameter(bias, bias_dtype, c) : 0.0f; }
  template <int N>
  DEVICE void read_shift(int c, float (&v)[N]) const {
    read_bias(bias, bias_dtype, c, channels, bias_scale, v);
  }
  // The activation of u; adds the square of what is normalised. r > 0, so that y is r * the activation either way.
  DEVICE float activate(float u, float shift, float& squares) const {
    const float v = scale * u + shift, act = leaky(v, slope);
    squares += after ? act * act : v * v;
    return act;
  }
  DEVICE float factor(float squares) const {
    const float mean = squares / float(channels);
    return eps_inside ? 1.0f / sqrtf(mean + eps) : 1.0f / (sqrtf(mean) + eps);
  }
};

struct NormBackward {
  const float *r, *dr;
  int channels;
  float scale, slope, unslope, eps;  // unslope = 1 / slope
  bool after, eps_inside;

  explicit NormBackward(const BiasActBackward& a)
      : r(static_cast<const float*>(a.r)), dr(static_cast<const float*>(a.dr)), channels(int(a.shape.c)),
        scale(float(a.scale)), slope(float(a.slope)), unslope(float(1.0 / a.slope)), eps(float(a.eps)),
        after(a.norm == NORM_AFTER_ACT), eps_inside(a.eps_inside) {}

  // r of pixel p, and t' from the sum over channels of dy * y.
  DEVICE void read(int64_t p, float dot, float& factor, float& t) const {
    factor = r[p];
    const float rest = 1.0f - eps * factor;  // rms * r
    const float k = eps_inside ? 1.0f : rest > 0.0f ? 1.0f / rest : 0.0f;
    t = k * ((dot + (dr ? dr[p] * factor : 0.0f)) / float(channels));
  }
  DEVICE float element(float dy, float y, float factor, float t) const {
    const bool positive = y > 0.0f;
    if (after) return factor * ((positive ? 1.0f : slope) * (dy - y * t));
    return factor * ((positive ? dy : slope * dy) - (positive ? y : unslope * y) * t);
  }
};

}  // namespace pggan::cuda
