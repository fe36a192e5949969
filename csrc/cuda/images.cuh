// Images of two resolutions: which 2x2 pixels of the full size belong to one of half the size.
#pragma once

#include "common.cuh"

namespace pggan::cuda {

// A tensor of half the size as lines of pixels, sample after sample. No channel mixes with another in a fade: there
// planes are N * C images of one channel.
struct Lines {
  int64_t elements;   // of the half-size tensor
  int64_t c;          // channels of a pixel
  int64_t half_wide;  // pixels of a line of half the size

  // Where the upper left of the 2x2 pixels over element `low` lies in the full-size tensor.
  DEVICE int64_t high(int64_t low) const {
    const int64_t pixel = low / c;
    return low + pixel * c + pixel / half_wide * wide();
  }
  DEVICE int64_t wide() const { return 2 * half_wide * c; }  // elements of a line of full size
};

// `s` is the full-size tensor's.
inline Lines lines_of(const Shape& s) {
  return {s.n * s.c * (s.h / 2) * (s.w / 2), s.channels_last ? s.c : 1, s.w / 2};
}

// 2x2 pixels: N channels of them, or of a plane N times 2x2 pixels side by side.
template <class T_, int N_, bool PLANE>
struct Quad {
  using T = T_;
  static constexpr int N = N_;
  float v[4][N];  // upper left, upper right, lower left, lower right

  static DEVICE Quad read(const T* first, const Lines& l) {
    Quad out;
#pragma unroll
    for (int row = 0; row < 2; ++row, first += l.wide()) {
      if constexpr (PLANE) {
        const auto line = Vec<T, 2 * N>::read(first);
#pragma unroll
        for (int j = 0; j < 2 * N; ++j) out.v[2 * row + j % 2][j / 2] = line.v[j];
      } else {
#pragma unroll
        for (int column = 0; column < 2; ++column) {
          const auto pixel = Vec<T, N>::read(first + column * l.c);
#pragma unroll
          for (int j = 0; j < N; ++j) out.v[2 * row + column][j] = pixel.v[j];
        }
      }
    }
    return out;
  }

  DEVICE void write(T* first, const Lines& l) const {
#pragma unroll
    for (int row = 0; row < 2; ++row, first += l.wide()) {
      if constexpr (PLANE) {
        Vec<T, 2 * N> line;
#pragma unroll
        for (int j = 0; j < 2 * N; ++j) line.v[j] = v[2 * row + j % 2][j / 2];
        line.write(first);
      } else {
#pragma unroll
        for (int column = 0; column < 2; ++column) {
          Vec<T, N> pixel;
#pragma unroll
          for (int j = 0; j < N; ++j) pixel.v[j] = v[2 * row + column][j];
          pixel.write(first + column * l.c);
        }
      }
    }
  }

  DEVICE Vec<T, N> sum() const {
    Vec<T, N> out;
#pragma unroll
    for (int j = 0; j < N; ++j) out.v[j] = (v[0][j] + v[1][j]) + (v[2][j] + v[3][j]);
    return out;
  }
};

// f(a Quad): in 16-byte accesses where the tensors allow it. `on_16`: all tensors begin on 16 bytes.
template <class T, class F>
cudaError_t with_quad(const Lines& l, bool on_16, const F& f) {
  constexpr int N = Vec<T>::SIZE;
  if (on_16 && l.c % N == 0) return f(Quad<T, N, false>());
  if (on_16 && l.c == 1 && l.half_wide % (N / 2) == 0) return f(Quad<T, N / 2, true>());
  return f(Quad<T, 1, false>());
}

// The pixels of a dense [N, C, H, W], numbered through all samples.
struct Pixels {
  int64_t c, plane;  // plane: H * W
  bool channels_last;

  DEVICE int64_t at(int64_t pixel) const {
    return channels_last ? pixel * c : pixel + pixel / plane * plane * (c - 1);
  }
  // The steps to the next pixel of a line and to the next channel.
  DEVICE int64_t right() const { return channels_last ? c : 1; }
  DEVICE int64_t channel() const { return channels_last ? 1 : plane; }
};

// The upper left of the 2x2 pixels over pixel `low`, whose lines have `half_wide` pixels.
DEVICE int64_t pixel_over(int64_t low, int64_t half_wide) { return 2 * (low + low / half_wide * half_wide); }

}  // namespace pggan::cuda
