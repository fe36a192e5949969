// Factor-two resampling of lines of pixels with c contiguous channels each. Planes are lines with c = 1.
#pragma once

#include "element.h"

namespace pggan::PGGAN_ISA {

// wide [2 * pixels, c]: every pixel of narrow [pixels, c] twice.
template <class A>
inline void repeat_pixels(const A* narrow, A* wide, int64_t pixels, int64_t c) {
  if (c == 1) {
    PGGAN_SIMD
    for (int64_t p = 0; p < pixels; ++p) {
      wide[2 * p] = narrow[p];
      wide[2 * p + 1] = narrow[p];
    }
    return;
  }
  for (int64_t p = 0; p < pixels; ++p, narrow += c, wide += 2 * c) {
    PGGAN_SIMD
    for (int64_t j = 0; j < c; ++j) {
      wide[j] = narrow[j];
      wide[c + j] = narrow[j];
    }
  }
}

// narrow [pixels, c] = factor * the sum of each two neighbours of wide [2 * pixels, c]; they may begin at the
// same place, since no element is written before it is read.
template <class A>
inline void add_pixel_pairs(const A* wide, A factor, A* narrow, int64_t pixels, int64_t c) {
  if (c == 1) {
    PGGAN_SIMD
    for (int64_t p = 0; p < pixels; ++p) narrow[p] = factor * (wide[2 * p] + wide[2 * p + 1]);
    return;
  }
  for (int64_t p = 0; p < pixels; ++p, wide += 2 * c, narrow += c) {
    PGGAN_SIMD
    for (int64_t j = 0; j < c; ++j) narrow[j] = factor * (wide[j] + wide[c + j]);
  }
}

}  // namespace pggan::PGGAN_ISA
