// Element types. Arithmetic is in float (double for double); half rows are converted through buffers in L1:
//
//   const A* in = load(u, buffer, n);      // u itself where T is A
//   A* out = target(y, buffer);            // y itself where T is A
//   for (j < n) out[j] = f(in[j]);
//   store(y, out, n);                      // nothing to do where T is A
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "isa.h"

#define PGGAN_SIMD _Pragma("omp simd")
#define PGGAN_SIMD_SUM(s) PGGAN_PRAGMA(omp simd reduction(+ : s))
#define PGGAN_PRAGMA(x) _Pragma(#x)

namespace pggan::PGGAN_ISA {

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

inline float as_float(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

inline uint32_t as_bits(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof bits);
  return bits;
}

inline float widen(Half h) {
  // The exponent is rebased by a multiplication, which also normalises subnormals; infinity and NaN land at 65536 up.
  const uint32_t magnitude = as_bits(as_float((h.bits & 0x7fffu) << 13) * 0x1p112f);
  const uint32_t special = magnitude >= 0x47800000u ? 0x7f800000u : 0u;
  return as_float(magnitude | special | (h.bits & 0x8000u) << 16);
}

inline float widen(BFloat b) { return as_float(static_cast<uint32_t>(b.bits) << 16); }

// Rounds to nearest even.
inline void narrow(float f, Half& out) {
  const uint32_t bits = as_bits(f), magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;  // exponent rebased, carry rounds
  const uint32_t subnormal = as_bits(as_float(magnitude) + 0.5f) - 0x3f000000u;        // 0.5 has the ulp 2^-24
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  out.bits = static_cast<uint16_t>((magnitude >= 0x47800000u ? special : finite) | (bits >> 16 & 0x8000u));
}

// Rounds to nearest even; NaN stays NaN.
inline void narrow(float f, BFloat& out) {
  const uint32_t bits = as_bits(f);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  out.bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16 | 0x40u) : rounded);
}

#if defined(__F16C__)
// Builtins of the compilers: <immintrin.h> alone takes half a second to read.
typedef float EightFloats __attribute__((vector_size(32)));
typedef short EightHalves __attribute__((vector_size(16)));
#endif

template <class T>
inline void widen_row(const T* src, float* dst, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  if constexpr (std::is_same_v<T, Half>)
    for (; i + 8 <= n; i += 8) {
      EightHalves narrow;
      std::memcpy(&narrow, src + i, sizeof narrow);
      const EightFloats wide = __builtin_ia32_vcvtph2ps256(narrow);
      std::memcpy(dst + i, &wide, sizeof wide);
    }
#endif
  PGGAN_SIMD
  for (int64_t j = i; j < n; ++j) dst[j] = widen(src[j]);
}

template <class T>
inline void narrow_row(const float* src, T* dst, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  if constexpr (std::is_same_v<T, Half>)
    for (; i + 8 <= n; i += 8) {
      EightFloats wide;
      std::memcpy(&wide, src + i, sizeof wide);
      const EightHalves narrow = __builtin_ia32_vcvtps2ph256(wide, 0);
      std::memcpy(dst + i, &narrow, sizeof narrow);
    }
#endif
  PGGAN_SIMD
  for (int64_t j = i; j < n; ++j) narrow(src[j], dst[j]);
}

template <class T, class A>
inline const A* load(const T* src, A* buffer, int64_t n) {
  if constexpr (std::is_same_v<T, A>) {
    return src;
  } else {
    widen_row(src, buffer, n);
    return buffer;
  }
}

template <class T, class A>
inline A* target(T* dst, A* buffer) {
  if constexpr (std::is_same_v<T, A>)
    return dst;
  else
    return buffer;
}

template <class T, class A>
inline void store(T* dst, const A* row, int64_t n) {
  if constexpr (!std::is_same_v<T, A>) narrow_row(row, dst, n);
}

template <class T_, class A_>
struct Types {
  using T = T_;
  using A = A_;
};

// f(Types<T, A>) for a dtype code.
template <class F>
int dispatch(int dtype, const F& f) {
  switch (dtype) {
    case F32: return f(Types<float, float>{});
    case F16: return f(Types<Half, float>{});
    case BF16: return f(Types<BFloat, float>{});
    case F64: return f(Types<double, double>{});
    default: return BAD_DTYPE;
  }
}

// dst[i] = factor * src[i] for a parameter of any dtype, zeros for null.
template <class A>
int load_parameter(const void* src, int dtype, int64_t n, double factor, A* dst) {
  if (!src) {
    std::memset(dst, 0, n * sizeof(A));
    return OK;
  }
  return dispatch(dtype, [&](auto types) {
    using T = typename decltype(types)::T;
    const T* from = static_cast<const T*>(src);
    for (int64_t i = 0; i < n; ++i) {
      if constexpr (std::is_arithmetic_v<T>)
        dst[i] = static_cast<A>(factor) * static_cast<A>(from[i]);
      else
        dst[i] = static_cast<A>(factor) * static_cast<A>(widen(from[i]));
    }
    return OK;
  });
}

template <class A>
inline A leaky_relu(A v, A slope) {
  return v > A(0) ? v : slope * v;
}

inline float clamped(const float* alpha) {
  const float a = *alpha;
  return a < 0.0f ? 0.0f : a > 1.0f ? 1.0f : a;
}

}  // namespace pggan::PGGAN_ISA
