// Products on tensor cores, one interface for every element type and precision.
//
// A k-step is 32 bytes of channels in every type, 16 halves or 8 floats: ldmatrix moves rows of 16 bytes whatever they
// hold, and of floats it gives each lane just what m16n8k8 wants from it. So kernels address bytes, in one source.
#pragma once

#include "common.cuh"

namespace pggan::cuda {

constexpr int STEP_BYTES = 32;

// N registers of an operand, and what its rounding lost where products are to be exact.
template <int N>
struct Operand {
  uint32_t high[N], low[N];
};

template <int N>
DEVICE Operand<N> as_it_is(const uint32_t (&raw)[N]) {
  Operand<N> out{};
#pragma unroll
  for (int i = 0; i < N; ++i) out.high[i] = raw[i];
  return out;
}

// A product has the type of its elements; operand(registers from memory), and packed_operand of what has been rounded
// when it was packed (pack_weight); multiply: d += a * b, d [16, 8] in lanes (rows l / 4, + 8, columns 2 (l % 4), + 1).
template <class T>
struct SixteenBits {
  using Element = T;
  template <int N>
  static DEVICE Operand<N> operand(const uint32_t (&raw)[N]) {
    return as_it_is(raw);
  }
  template <int N>
  static DEVICE Operand<N> packed_operand(const uint32_t (&raw)[N]) {
    return as_it_is(raw);
  }
};

struct HalfProduct : SixteenBits<Half> {
  static DEVICE void multiply(float (&d)[4], const Operand<4>& a, const Operand<2>& b) { mma_f16(d, a.high, b.high); }
};

struct BFloatProduct : SixteenBits<BFloat> {
  static DEVICE void multiply(float (&d)[4], const Operand<4>& a, const Operand<2>& b) { mma_bf16(d, a.high, b.high); }
};

DEVICE float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// float32 rounded to TF32, ten bits of mantissa.
struct Tf32Product {
  using Element = float;
  template <int N>
  static DEVICE Operand<N> operand(const uint32_t (&raw)[N]) {
    Operand<N> out{};
#pragma unroll
    for (int i = 0; i < N; ++i) out.high[i] = round_tf32(float_of(raw[i]));
    return out;
  }
  template <int N>
  static DEVICE Operand<N> packed_operand(const uint32_t (&raw)[N]) {
    return as_it_is(raw);
  }
  static DEVICE void multiply(float (&d)[4], const Operand<4>& a, const Operand<2>& b) { mma_tf32(d, a.high, b.high); }
};

// float32 to about 2^-21: each factor is the sum of two TF32 numbers, and of the four products the one of both low
// parts is too small to count. A third of TF32's rate, which is still more than float32 multiply-adds have. Tensor
// cores cut off what they add to a large sum: three times a step that would be seen, so ordinary additions add steps.
// What is infinite comes out as NaN: infinity less its high part is none.
struct IeeeProduct {
  using Element = float;
  template <int N>
  static DEVICE Operand<N> operand(const uint32_t (&raw)[N]) {
    Operand<N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      out.high[i] = round_tf32(float_of(raw[i]));
      out.low[i] = round_tf32(float_of(raw[i]) - float_of(out.high[i]));
    }
    return out;
  }
  template <int N>
  static DEVICE Operand<N> packed_operand(const uint32_t (&raw)[N]) {
    return operand(raw);
  }
  static DEVICE void multiply(float (&d)[4], const Operand<4>& a, const Operand<2>& b) {
    float step[4] = {};
    mma_tf32(step, a.low, b.high);  // small terms first
    mma_tf32(step, a.high, b.low);
    mma_tf32(step, a.high, b.high);
#pragma unroll
    for (int i = 0; i < 4; ++i) d[i] += step[i];
  }
};

// f(a product) for the code of csrc/kernels.h; `ieee`: float32 exact.
template <class F>
cudaError_t with_product(int dtype, bool ieee, const F& f) {
  switch (dtype) {
    case F32: return ieee ? f(IeeeProduct()) : f(Tf32Product());
    case F16: return f(HalfProduct());
    case BF16: return f(BFloatProduct());
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace pggan::cuda
