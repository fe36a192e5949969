// The scaled weights of a 1x1 convolution to or from RGB.
#pragma once

#include "element.h"
#include "parallel.h"
#include "vector.h"

namespace pggan::PGGAN_ISA {

// weight [rows, c] in at least MAX_IMAGE_CHANNELS rows, the missing ones zero; bias [rows].
template <class A>
struct Weights {
  int64_t c;
  Scratch<A> memory;
  A *weight, *bias;
  int status;

  Weights(const Pointwise& p, int64_t rows, int64_t c_) : c(c_), memory(all(rows) * (c_ + 1)), status(NO_MEMORY) {
    if (!memory) return;
    weight = memory.data;
    bias = weight + all(rows) * c;
    std::memset(weight, 0, all(rows) * c * sizeof(A));
    status = load_parameter(p.weight, p.weight_dtype, rows * c, p.weight_scale, weight);
    if (status == OK) status = load_parameter(p.bias, p.bias_dtype, rows, p.bias_scale, bias);
  }
  explicit operator bool() const { return static_cast<bool>(memory); }

 private:
  static int64_t all(int64_t rows) { return maximum(rows, MAX_IMAGE_CHANNELS); }
};

template <class T, class A>
inline void store_one(T* dst, A value) {
  if constexpr (std::is_same_v<T, A>)
    *dst = value;
  else
    narrow(value, *dst);
}

// Elements of rows of c channels that rgb_of_rows handles at once.
template <class A>
inline int64_t rgb_buffer(int64_t c) {
  return c * LANES<A>;
}

// rgb [image channels, pixels] of x [pixels, c]; `buffer` has room for rgb_buffer elements where T is not A.
template <class T, class A>
void rgb_of_rows(const Weights<A>& conv, const T* x, int64_t pixels, int64_t image_channels, A* rgb, A* buffer) {
  constexpr int64_t lanes = LANES<A>;
  const int64_t c = conv.c, whole = c / lanes * lanes;
  for (int64_t p = 0; p < pixels; p += lanes) {
    const int64_t some = minimum(lanes, pixels - p);
    const A* in = load(x + p * c, buffer, some * c);
    for (int64_t k = 0; k < image_channels; ++k) {
      const A* weight = conv.weight + k * c;
      Vector<A> products[lanes] = {};
      for (int64_t q = 0; q < some; ++q)
        for (int64_t j = 0; j < whole; j += lanes)
          products[q] += read_vector<A>(weight + j) * read_vector<A>(in + q * c + j);
      A sums[lanes];
      write_vector<A>(sums, sums_of<A>(products) + conv.bias[k]);
      for (int64_t q = 0; q < some; ++q) {
        for (int64_t j = whole; j < c; ++j) sums[q] += weight[j] * in[q * c + j];
        rgb[k * pixels + p + q] = sums[q];
      }
    }
  }
}

// Line h of sample n of an image: rgb [C, W], or (1 - alpha) * low [C, W / 2], each element twice, + alpha * rgb.
template <class T, class A>
void store_image_line(T* image, const Shape& s, int64_t n, int64_t h, A* rgb, const A* low, A alpha) {
  for (int64_t k = 0; k < s.c; ++k) {
    A* line = rgb + k * s.w;
    if (low)
      for (int64_t w = 0; w < s.w; ++w) line[w] = (1 - alpha) * low[k * (s.w / 2) + w / 2] + alpha * line[w];
    if (s.channels_last)
      for (int64_t w = 0; w < s.w; ++w) store_one(image + ((n * s.h + h) * s.w + w) * s.c + k, line[w]);
    else
      for (int64_t w = 0; w < s.w; ++w) store_one(image + ((n * s.c + k) * s.h + h) * s.w + w, line[w]);
  }
}

}  // namespace pggan::PGGAN_ISA
