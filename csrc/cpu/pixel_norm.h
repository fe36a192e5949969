// What the forward and the backward pass of the pixel norm share.
#pragma once

#include "element.h"

namespace pggan::PGGAN_ISA {

inline float square_root(float x) { return __builtin_sqrtf(x); }
inline double square_root(double x) { return __builtin_sqrt(x); }

template <class A>
inline A inverse_rms(A mean_square, A eps, bool inside) {
  return inside ? A(1) / square_root(mean_square + eps) : A(1) / (square_root(mean_square) + eps);
}

// Pixels of a plane to handle at once, so that all C planes' blocks stay in the L2 cache between two passes.
constexpr int64_t PLANES_BLOCK_MAX = 1024;

inline int64_t planes_block(int64_t c, int64_t element_size) {
  constexpr int64_t bytes = 256 * 1024, least = 64;
  const int64_t fitting = bytes / (c * element_size) / least * least;
  return fitting < least ? least : fitting > PLANES_BLOCK_MAX ? PLANES_BLOCK_MAX : fitting;
}

}  // namespace pggan::PGGAN_ISA
