// The generator's output while fading: 1x1 convolutions to RGB at two resolutions, the lower one repeated 2x2, blended.
#include "parallel.h"
#include "pointwise.h"

namespace pggan::PGGAN_ISA {
namespace {

// rgb_of_rows of one line of planes: channel j of it begins at x + j * plane.
template <class T, class A>
void line_from_planes(const Weights<A>& conv, const T* x, int64_t plane, int64_t pixels, int64_t image_channels, A* rgb,
                      A* buffer) {
  for (int64_t k = 0; k < image_channels; ++k)
    for (int64_t p = 0; p < pixels; ++p) rgb[k * pixels + p] = conv.bias[k];
  for (int64_t j = 0; j < conv.c; ++j) {
    const A* in = load(x + j * plane, buffer, pixels);
    for (int64_t k = 0; k < image_channels; ++k) {
      const A w = conv.weight[k * conv.c + j];
      A* to = rgb + k * pixels;
      PGGAN_SIMD
      for (int64_t p = 0; p < pixels; ++p) to[p] += w * in[p];
    }
  }
}

// Line `line` of n * h lines.
template <class T, class A>
void to_rgb(const Weights<A>& conv, const void* x, int64_t line, int64_t h, int64_t w, const ToRgbFadeIn& a, A* rgb,
            A* buffer) {
  const T* from = static_cast<const T*>(x);
  if (a.shape.channels_last)
    rgb_of_rows(conv, from + line * w * conv.c, w, a.shape.c, rgb, buffer);
  else
    line_from_planes(conv, from + (line / h * conv.c * h + line % h) * w, h * w, w, a.shape.c, rgb, buffer);
}

template <class T, class A>
int run(const ToRgbFadeIn& a) {
  const Shape& s = a.shape;
  const A alpha = clamped(a.alpha);
  const int64_t half_h = s.h / 2, half_w = s.w / 2, longest = maximum(rgb_buffer<A>(maximum(a.c_low, a.c_high)), s.w);
  const int64_t image_line = s.c * s.w, stride = padded<A>(2 * image_line + longest);
  const Chunks chunks(s.n * half_h, 2 * s.w * a.c_high + half_w * a.c_low);  // a unit is a line of x_low
  Scratch<A> scratch(stride * chunks.count);
  Weights<A> low(a.low, s.c, a.c_low), high(a.high, s.c, a.c_high);
  if (!scratch || !low || !high) return NO_MEMORY;
  if (low.status != OK || high.status != OK) return BAD_DTYPE;
  T* image = static_cast<T*>(a.image);
  return chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
    A* low_rgb = scratch.data + stride * chunk;
    A *high_rgb = low_rgb + image_line, *buffer = high_rgb + image_line;
    for (int64_t unit = begin; unit < end; ++unit) {
      to_rgb<T>(low, a.x_low, unit, half_h, half_w, a, low_rgb, buffer);
      for (int64_t line = unit * 2; line < unit * 2 + 2; ++line) {
        to_rgb<T>(high, a.x_high, line, s.h, s.w, a, high_rgb, buffer);
        store_image_line(image, s, line / s.h, line % s.h, high_rgb, low_rgb, alpha);
      }
    }
  });
}

}  // namespace

int to_rgb_fade_in_forward(const ToRgbFadeIn& a) {
  return dispatch(a.dtype, [&](auto t) { return run<typename decltype(t)::T, typename decltype(t)::A>(a); });
}

}  // namespace pggan::PGGAN_ISA
