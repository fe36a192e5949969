// One bit per channel: which values were positive before the leaky ReLU.
#pragma once

#include "element.h"

namespace pggan::PGGAN_ISA {

template <class A>
inline uint8_t sign_byte(const A* v) {
#if defined(__F16C__)
  if constexpr (std::is_same_v<A, float>) {
    EightFloats eight;
    std::memcpy(&eight, v, sizeof eight);
    return static_cast<uint8_t>(__builtin_ia32_movmskps256(reinterpret_cast<EightFloats>(eight > 0.0f)));
  }
#endif
  unsigned bits = 0;
  for (unsigned i = 0; i < 8; ++i) bits |= static_cast<unsigned>(v[i] > A(0)) << i;
  return static_cast<uint8_t>(bits);
}

// The bits of one pixel's channels v [c] into ceil(c / 8) bytes.
template <class A>
inline void pack_signs(const A* v, int64_t c, uint8_t* mask) {
  int64_t j = 0;
  for (; j + 8 <= c; j += 8) *mask++ = sign_byte(v + j);
  if (j < c) {
    unsigned bits = 0;
    for (unsigned i = 0; j + i < c; ++i) bits |= static_cast<unsigned>(v[j + i] > A(0)) << i;
    *mask = static_cast<uint8_t>(bits);
  }
}

// The leaky ReLU's derivatives, from mask bits: 1 or slope. Four bits at a time are looked up.
template <class A>
class Derivatives {
 public:
  explicit Derivatives(A slope) {
    for (unsigned bits = 0; bits < 16; ++bits)
      for (unsigned i = 0; i < 4; ++i) table_[bits][i] = bits >> i & 1 ? A(1) : slope;
  }

  // Of one pixel's channels, row [c rounded up to 8]; all ones without a mask.
  void fill(const uint8_t* mask, int64_t c, A* row) const {
    for (int64_t j = 0; j < c; j += 8, row += 8) {
      const unsigned bits = mask ? *mask++ : 0xffu;
      std::memcpy(row, table_[bits & 15], sizeof table_[0]);
      std::memcpy(row + 4, table_[bits >> 4], sizeof table_[0]);
    }
  }

 private:
  alignas(64) A table_[16][4];
};

// The same for a line of channel c's plane: mask [n] holds channel c in bit (c & 7); all ones without a mask.
template <class A>
inline void plane_derivatives(const uint8_t* mask, int64_t c, A slope, A* row, int64_t n) {
  const int32_t bit = 1 << (c & 7);
  if (mask) {
    PGGAN_SIMD
    for (int64_t j = 0; j < n; ++j) row[j] = (mask[j] & bit) ? A(1) : slope;
  } else {
    for (int64_t j = 0; j < n; ++j) row[j] = A(1);
  }
}

}  // namespace pggan::PGGAN_ISA
