// Fade-in: (1 - alpha) * low + alpha * high, with low repeated 2x2 where it has half the size.
// No channel mixes with another, so planes are handled as n * c images of one channel.
#include "lines.h"
#include "parallel.h"

namespace pggan::PGGAN_ISA {
namespace {

struct Lines {
  int64_t images, h, w, c;
  explicit Lines(const Shape& s)
      : images(s.channels_last ? s.n : s.n * s.c), h(s.h), w(s.w), c(s.channels_last ? s.c : 1) {}
  int64_t elements() const { return images * h * w * c; }
};

constexpr int64_t BLOCK = 2048;

// out[j] = wl * low[j] + wh * high[j]
template <class T, class A>
void blend(const A* low, const T* high, T* out, A wl, A wh, int64_t n, A* high_buffer, A* out_buffer) {
  const A* b = load(high, high_buffer, n);
  A* to = target(out, out_buffer);
  PGGAN_SIMD
  for (int64_t j = 0; j < n; ++j) to[j] = wl * low[j] + wh * b[j];
  store(out, to, n);
}

template <class T, class A>
int forward_same_size(const FadeInForward& a, A alpha) {
  const int64_t elements = Lines(a.shape).elements();
  const T *low = static_cast<const T*>(a.low), *high = static_cast<const T*>(a.high);
  T* out = static_cast<T*>(a.out);
  return Chunks(ceil_div(elements, BLOCK), BLOCK).run([&](int64_t, int64_t begin, int64_t end) {
    A low_buffer[padded<A>(BLOCK)], high_buffer[padded<A>(BLOCK)], out_buffer[padded<A>(BLOCK)];
    for (int64_t i = begin * BLOCK; i < minimum(end * BLOCK, elements); i += BLOCK) {
      const int64_t n = minimum(BLOCK, elements - i);
      blend(load(low + i, low_buffer, n), high + i, out + i, 1 - alpha, alpha, n, high_buffer, out_buffer);
    }
  });
}

template <class T, class A>
int forward_up(const FadeInForward& a, A alpha) {
  const Lines lines(a.shape);
  const int64_t wide = lines.w * lines.c, stride = padded<A>(wide);
  const Chunks chunks(lines.images * lines.h / 2, 2 * wide);  // a unit is a line of low: two of high
  Scratch<A> scratch(3 * stride * chunks.count);
  if (!scratch) return NO_MEMORY;
  return chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
    A* repeated = scratch.data + 3 * stride * chunk;
    for (int64_t line = begin; line < end; ++line) {
      const A* low = load(static_cast<const T*>(a.low) + line * wide / 2, repeated + stride, wide / 2);
      repeat_pixels(low, repeated, lines.w / 2, lines.c);
      for (int64_t at = line * 2 * wide; at < (line * 2 + 2) * wide; at += wide)
        blend(repeated, static_cast<const T*>(a.high) + at, static_cast<T*>(a.out) + at, 1 - alpha, alpha, wide,
              repeated + stride, repeated + 2 * stride);
    }
  });
}

template <class T, class A>
int backward_same_size(const FadeInBackward& a, A alpha) {
  const int64_t elements = Lines(a.shape).elements();
  return Chunks(ceil_div(elements, BLOCK), BLOCK).run([&](int64_t, int64_t begin, int64_t end) {
    A buffer[padded<A>(BLOCK)], low_buffer[padded<A>(BLOCK)], high_buffer[padded<A>(BLOCK)];
    for (int64_t i = begin * BLOCK; i < minimum(end * BLOCK, elements); i += BLOCK) {
      const int64_t n = minimum(BLOCK, elements - i);
      T *dlow = static_cast<T*>(a.dlow) + i, *dhigh = static_cast<T*>(a.dhigh) + i;
      const A* dy = load(static_cast<const T*>(a.dy) + i, buffer, n);
      A *low = target(dlow, low_buffer), *high = target(dhigh, high_buffer);
      PGGAN_SIMD
      for (int64_t j = 0; j < n; ++j) {
        low[j] = (1 - alpha) * dy[j];
        high[j] = alpha * dy[j];
      }
      store(dlow, low, n);
      store(dhigh, high, n);
    }
  });
}

template <class T, class A>
int backward_up(const FadeInBackward& a, A alpha) {
  const Lines lines(a.shape);
  const int64_t wide = lines.w * lines.c, stride = padded<A>(wide);
  const Chunks chunks(lines.images * lines.h / 2, 2 * wide);
  Scratch<A> scratch(3 * stride * chunks.count);
  if (!scratch) return NO_MEMORY;
  return chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
    A *sum = scratch.data + 3 * stride * chunk, *dy_buffer = sum + stride, *high_buffer = dy_buffer + stride;
    for (int64_t line = begin; line < end; ++line) {
      for (int64_t k = 0; k < 2; ++k) {
        const int64_t at = (line * 2 + k) * wide;
        T* dhigh = static_cast<T*>(a.dhigh) + at;
        const A* dy = load(static_cast<const T*>(a.dy) + at, dy_buffer, wide);
        A* high = target(dhigh, high_buffer);
        PGGAN_SIMD
        for (int64_t j = 0; j < wide; ++j) {
          sum[j] = (k ? sum[j] : A(0)) + dy[j];
          high[j] = alpha * dy[j];
        }
        store(dhigh, high, wide);
      }
      T* dlow = static_cast<T*>(a.dlow) + line * wide / 2;
      A* low = target(dlow, sum);
      add_pixel_pairs(sum, A(1 - alpha), low, lines.w / 2, lines.c);
      store(dlow, low, wide / 2);
    }
  });
}

// Two lines of the image at a time: their 2x2 means, repeated, are the low resolution.
template <class T, class A>
int reals(const FadeReals& a, A alpha) {
  const Lines lines(a.shape);
  const int64_t wide = lines.w * lines.c, stride = padded<A>(wide);
  const Chunks chunks(lines.images * lines.h / 2, 2 * wide);
  Scratch<A> scratch(3 * stride * chunks.count);
  if (!scratch) return NO_MEMORY;
  return chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
    A *sum = scratch.data + 3 * stride * chunk, *repeated = sum + stride, *buffer = repeated + stride;
    for (int64_t line = begin; line < end; ++line) {
      const T* image = static_cast<const T*>(a.image) + line * 2 * wide;
      T* out = static_cast<T*>(a.out) + line * 2 * wide;
      for (int64_t k = 0; k < 2; ++k) {
        const A* in = load(image + k * wide, buffer, wide);
        PGGAN_SIMD
        for (int64_t j = 0; j < wide; ++j) sum[j] = (k ? sum[j] : A(0)) + in[j];
      }
      add_pixel_pairs(sum, A(0.25), sum, lines.w / 2, lines.c);
      repeat_pixels(sum, repeated, lines.w / 2, lines.c);
      for (int64_t k = 0; k < 2; ++k)
        blend(repeated, image + k * wide, out + k * wide, 1 - alpha, alpha, wide, buffer, sum);
    }
  });
}

}  // namespace

int fade_in_forward(const FadeInForward& a) {
  return dispatch(a.dtype, [&](auto t) {
    using T = typename decltype(t)::T;
    using A = typename decltype(t)::A;
    const A alpha = clamped(a.alpha);
    return a.up ? forward_up<T, A>(a, alpha) : forward_same_size<T, A>(a, alpha);
  });
}

int fade_in_backward(const FadeInBackward& a) {
  return dispatch(a.dtype, [&](auto t) {
    using T = typename decltype(t)::T;
    using A = typename decltype(t)::A;
    const A alpha = clamped(a.alpha);
    return a.up ? backward_up<T, A>(a, alpha) : backward_same_size<T, A>(a, alpha);
  });
}

int fade_reals(const FadeReals& a) {
  return dispatch(a.dtype, [&](auto t) {
    return reals<typename decltype(t)::T>(a, static_cast<typename decltype(t)::A>(clamped(a.alpha)));
  });
}

}  // namespace pggan::PGGAN_ISA
