// The discriminator's input while fading: a leaky ReLU of the 1x1 convolution of the image's 2x2 means, blended with
// the features of the new resolution. The convolution's signs are kept for the backward pass.
#include "lines.h"
#include "parallel.h"
#include "pointwise.h"
#include "signs.h"

namespace pggan::PGGAN_ISA {
namespace {

// mean [MAX_IMAGE_CHANNELS, w]: the 2x2 means under line `line` of n * h; missing channels are zero.
template <class T, class A>
void mean_line(const FromRgbFadeIn& a, int64_t line, A* mean, A* sum, A* buffer) {
  const Shape& s = a.shape;
  const int64_t channels = a.image_channels, n = line / s.h, h = line % s.h;
  const bool rows = s.channels_last;
  const int64_t c = rows ? channels : 1, wide = 2 * s.w * c;
  for (int64_t k = 0; k < MAX_IMAGE_CHANNELS * s.w; ++k) mean[k] = 0;
  for (int64_t plane = 0; plane < channels / c; ++plane) {
    const T* image = static_cast<const T*>(a.image) + ((n * (channels / c) + plane) * 2 * s.h + 2 * h) * wide;
    for (int64_t k = 0; k < 2; ++k) {
      const A* in = load(image + k * wide, buffer, wide);
      PGGAN_SIMD
      for (int64_t j = 0; j < wide; ++j) sum[j] = (k ? sum[j] : A(0)) + in[j];
    }
    add_pixel_pairs(sum, A(0.25), sum, s.w, c);
    for (int64_t w = 0; w < s.w; ++w)
      for (int64_t k = 0; k < c; ++k) mean[(plane + k) * s.w + w] = sum[w * c + k];
  }
}

// One line of pixels in rows. weight [MAX_IMAGE_CHANNELS, c].
template <class T, class A>
void blend_rows(const FromRgbFadeIn& a, const A* weight, const A* bias, int64_t line, const A* mean, A alpha, A* v,
                A* buffer) {
  static_assert(MAX_IMAGE_CHANNELS == 4, "one term per image channel below");
  const int64_t c = a.shape.c, w = a.shape.w, bytes = ceil_div(c, 8);
  const A slope(a.slope);
  const A *w0 = weight, *w1 = w0 + c, *w2 = w1 + c, *w3 = w2 + c;
  for (int64_t p = 0; p < w; ++p) {
    const int64_t pixel = line * w + p;
    const A m0 = mean[p], m1 = mean[w + p], m2 = mean[2 * w + p], m3 = mean[3 * w + p];
    const A* high = load(static_cast<const T*>(a.high) + pixel * c, buffer, c);
    T* y = static_cast<T*>(a.y) + pixel * c;
    A* out = target(y, buffer);
    PGGAN_SIMD
    for (int64_t j = 0; j < c; ++j) {
      v[j] = bias[j] + (w0[j] * m0 + w1[j] * m1) + (w2[j] * m2 + w3[j] * m3);
      out[j] = (1 - alpha) * leaky_relu(v[j], slope) + alpha * high[j];
    }
    store(y, out, c);
    pack_signs(v, c, a.mask + pixel * bytes);
  }
}

// One line of every plane.
template <class T, class A>
void blend_planes(const FromRgbFadeIn& a, const A* weight, const A* bias, int64_t line, const A* mean, A alpha, A* v,
                  A* buffer) {
  const Shape& s = a.shape;
  const int64_t n = line / s.h, h = line % s.h, groups = ceil_div(s.c, 8);
  const A slope(a.slope);
  const A *m0 = mean, *m1 = m0 + s.w, *m2 = m1 + s.w, *m3 = m2 + s.w;
  for (int64_t c = 0; c < s.c; ++c) {
    const A w0 = weight[c], w1 = weight[s.c + c], w2 = weight[2 * s.c + c], w3 = weight[3 * s.c + c], shift = bias[c];
    const int64_t at = ((n * s.c + c) * s.h + h) * s.w;
    const A* high = load(static_cast<const T*>(a.high) + at, buffer, s.w);
    T* y = static_cast<T*>(a.y) + at;
    A* out = target(y, buffer);
    PGGAN_SIMD
    for (int64_t p = 0; p < s.w; ++p) {
      v[p] = shift + (w0 * m0[p] + w1 * m1[p]) + (w2 * m2[p] + w3 * m3[p]);
      out[p] = (1 - alpha) * leaky_relu(v[p], slope) + alpha * high[p];
    }
    store(y, out, s.w);
    uint8_t* bits = a.mask + ((n * groups + c / 8) * s.h + h) * s.w;
    const unsigned bit = static_cast<unsigned>(c & 7);
    for (int64_t p = 0; p < s.w; ++p) bits[p] = static_cast<uint8_t>((bit ? bits[p] : 0) | (v[p] > A(0)) << bit);
  }
}

template <class T, class A>
int run(const FromRgbFadeIn& a) {
  const Shape& s = a.shape;
  const A alpha = clamped(a.alpha);
  const int64_t longest = maximum(2 * s.w * MAX_IMAGE_CHANNELS, s.c);
  const int64_t stride = padded<A>(MAX_IMAGE_CHANNELS * s.w + 2 * longest);
  const Chunks chunks(s.n * s.h, s.w * s.c);
  Scratch<A> scratch(stride * chunks.count), transposed(MAX_IMAGE_CHANNELS * s.c);
  Weights<A> conv(a.conv, s.c, a.image_channels);
  if (!scratch || !transposed || !conv) return NO_MEMORY;
  if (conv.status != OK) return conv.status;
  for (int64_t c = 0; c < s.c; ++c)
    for (int64_t k = 0; k < MAX_IMAGE_CHANNELS; ++k)
      transposed.data[k * s.c + c] = k < a.image_channels ? conv.weight[c * a.image_channels + k] : A(0);
  return chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
    A* mean = scratch.data + stride * chunk;
    A *v = mean + MAX_IMAGE_CHANNELS * s.w, *buffer = v + longest;
    for (int64_t line = begin; line < end; ++line) {
      mean_line<T>(a, line, mean, v, buffer);
      if (s.channels_last)
        blend_rows<T>(a, transposed.data, conv.bias, line, mean, alpha, v, buffer);
      else
        blend_planes<T>(a, transposed.data, conv.bias, line, mean, alpha, v, buffer);
    }
  });
}

}  // namespace

int from_rgb_fade_in_forward(const FromRgbFadeIn& a) {
  return dispatch(a.dtype, [&](auto t) { return run<typename decltype(t)::T, typename decltype(t)::A>(a); });
}

}  // namespace pggan::PGGAN_ISA
