// LANE neighbouring channels as one value: the transforms of small kernels and tiles are written once, for all of them.
#pragma once

#include "element.h"

namespace pggan::PGGAN_ISA {

constexpr int64_t LANE = 16;  // channels at a time: 4x4 values of them stay in registers

template <class A>
struct Lane {
  A v[LANE];

  static Lane zero() { return {}; }

  static Lane read(const A* from, int64_t n) {
    Lane out{};
    if (n == LANE) {
      PGGAN_SIMD
      for (int64_t j = 0; j < LANE; ++j) out.v[j] = from[j];
    } else {
      for (int64_t j = 0; j < n; ++j) out.v[j] = from[j];
    }
    return out;
  }

  void write(A* to, int64_t n) const {
    if (n == LANE) {
      PGGAN_SIMD
      for (int64_t j = 0; j < LANE; ++j) to[j] = v[j];
    } else {
      for (int64_t j = 0; j < n; ++j) to[j] = v[j];
    }
  }

  // Elements `step` apart.
  static Lane gather(const A* from, int64_t step, int64_t n) {
    if (step == 1) return read(from, n);
    Lane out{};
    if (n == LANE) {
      PGGAN_SIMD
      for (int64_t j = 0; j < LANE; ++j) out.v[j] = from[j * step];
    } else {
      for (int64_t j = 0; j < n; ++j) out.v[j] = from[j * step];
    }
    return out;
  }

  void scatter(A* to, int64_t step, int64_t n) const {
    if (step == 1) return write(to, n);
    for (int64_t j = 0; j < n; ++j) to[j * step] = v[j];
  }

  friend Lane operator+(const Lane& a, const Lane& b) {
    Lane out;
    PGGAN_SIMD
    for (int64_t j = 0; j < LANE; ++j) out.v[j] = a.v[j] + b.v[j];
    return out;
  }

  friend Lane operator-(const Lane& a, const Lane& b) {
    Lane out;
    PGGAN_SIMD
    for (int64_t j = 0; j < LANE; ++j) out.v[j] = a.v[j] - b.v[j];
    return out;
  }

  friend Lane operator*(A factor, const Lane& a) {
    Lane out;
    PGGAN_SIMD
    for (int64_t j = 0; j < LANE; ++j) out.v[j] = factor * a.v[j];
    return out;
  }
};

}  // namespace pggan::PGGAN_ISA
