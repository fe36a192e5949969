// Minibatch standard deviation: s = sqrt(var over the samples of a group + eps) per element, and one more channel that
// holds each group's mean of s. Within a sample the statistics do not depend on the layout, so blocks of consecutive
// elements are handled; only the extra channel lies differently.
#include "parallel.h"
#include "pixel_norm.h"
#include "pointwise.h"

namespace pggan::PGGAN_ISA {
namespace {

template <class Args>
struct Groups {
  const Args& a;
  const int64_t count, elements, block, blocks;  // groups; per sample: elements, and blocks of whole rows

  explicit Groups(const Args& args)
      : a(args),
        count(args.shape.n / args.group),
        elements(args.shape.c * args.shape.h * args.shape.w),
        block(args.shape.channels_last ? args.shape.c * maximum(1, 1024 / args.shape.c) : 1024),
        blocks(ceil_div(elements, block)) {}

  int64_t sample(int64_t group, int64_t member) const {
    return a.strided ? member * count + group : group * a.group + member;
  }

  // Where element i of a sample lies in a tensor with one more channel.
  int64_t extended(int64_t n, int64_t i) const {
    const Shape& s = a.shape;
    return n * (s.c + 1) * s.h * s.w + (s.channels_last ? i / s.c * (s.c + 1) + i % s.c : i);
  }

  int64_t extra(int64_t n, int64_t pixel) const {
    const Shape& s = a.shape;
    const int64_t plane = s.h * s.w;
    return n * (s.c + 1) * plane + (s.channels_last ? pixel * (s.c + 1) + s.c : s.c * plane + pixel);
  }

  // Elements [i, i + n) of a tensor with one more channel, in contiguous pieces: f(offset from i, length, position).
  template <class F>
  void pieces(int64_t sample, int64_t i, int64_t n, const F& f) const {
    const int64_t piece = a.shape.channels_last ? a.shape.c : n;
    for (int64_t j = 0; j < n; j += piece) f(j, piece, extended(sample, i + j));
  }

  // mean [n] and s [n] of elements [i, i + n) over the samples of a group.
  template <class T, class A>
  void statistics(const T* x, int64_t group, int64_t i, int64_t n, A* mean, A* s, A* buffer) const {
    for (int64_t j = 0; j < n; ++j) mean[j] = s[j] = 0;
    for (int64_t g = 0; g < a.group; ++g) {
      const A* in = load(x + sample(group, g) * elements + i, buffer, n);
      PGGAN_SIMD
      for (int64_t j = 0; j < n; ++j) mean[j] += in[j];
    }
    PGGAN_SIMD
    for (int64_t j = 0; j < n; ++j) mean[j] /= A(a.group);
    for (int64_t g = 0; g < a.group; ++g) {
      const A* in = load(x + sample(group, g) * elements + i, buffer, n);
      PGGAN_SIMD
      for (int64_t j = 0; j < n; ++j) s[j] += (in[j] - mean[j]) * (in[j] - mean[j]);
    }
    PGGAN_SIMD
    for (int64_t j = 0; j < n; ++j) s[j] = square_root(s[j] / A(a.divisor) + A(a.eps));
  }
};

template <class T, class A>
int forward(const MinibatchStddevForward& a) {
  const Groups<MinibatchStddevForward> groups(a);
  const int64_t pixels = a.shape.h * a.shape.w, stride = padded<A>(groups.block);
  const Chunks chunks(groups.count * groups.blocks, groups.block * a.group);
  Scratch<A> scratch(3 * stride * chunks.count);
  Scratch<double> sums(groups.count * groups.blocks);
  if (!scratch || !sums) return NO_MEMORY;
  const T* x = static_cast<const T*>(a.x);
  T* out = static_cast<T*>(a.out);
  const int status = chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
    A* mean = scratch.data + 3 * stride * chunk;
    A *s = mean + stride, *buffer = s + stride;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t group = unit / groups.blocks, i = unit % groups.blocks * groups.block;
      const int64_t n = minimum(groups.block, groups.elements - i);
      groups.statistics(x, group, i, n, mean, s, buffer);
      double sum = 0;
      for (int64_t j = 0; j < n; ++j) sum += s[j];
      sums.data[unit] = sum;
      for (int64_t g = 0; g < a.group; ++g) {
        const int64_t sample = groups.sample(group, g);
        const T* from = x + sample * groups.elements + i;
        groups.pieces(sample, i, n,
                      [&](int64_t j, int64_t length, int64_t at) { std::memcpy(out + at, from + j, length * sizeof(T)); });
      }
    }
  });
  for (int64_t group = 0; group < groups.count; ++group) {
    double sum = 0;
    for (int64_t b = 0; b < groups.blocks; ++b) sum += sums.data[group * groups.blocks + b];
    for (int64_t g = 0; g < a.group; ++g)
      for (int64_t p = 0; p < pixels; ++p)
        store_one(out + groups.extra(groups.sample(group, g), p), static_cast<A>(sum / groups.elements));
  }
  return status;
}

template <class T, class A>
int backward(const MinibatchStddevBackward& a) {
  const Groups<MinibatchStddevBackward> groups(a);
  const int64_t pixels = a.shape.h * a.shape.w, stride = padded<A>(groups.block);
  const Chunks chunks(groups.count * groups.blocks, groups.block * a.group);
  Scratch<A> scratch(4 * stride * chunks.count), factors(groups.count);
  if (!scratch || !factors) return NO_MEMORY;
  const T *dy = static_cast<const T*>(a.dy), *x = static_cast<const T*>(a.x);
  for (int64_t group = 0; group < groups.count; ++group) {
    double sum = 0;
    for (int64_t g = 0; g < a.group; ++g)
      for (int64_t p = 0; p < pixels; ++p) {
        A one;
        sum += *load(dy + groups.extra(groups.sample(group, g), p), &one, 1);
      }
    factors.data[group] = static_cast<A>(sum / (static_cast<double>(groups.elements) * a.divisor));
  }
  return chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
    A* mean = scratch.data + 4 * stride * chunk;
    A *s = mean + stride, *buffer = s + stride, *grad = buffer + stride;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t group = unit / groups.blocks, i = unit % groups.blocks * groups.block;
      const int64_t n = minimum(groups.block, groups.elements - i);
      const A factor = factors.data[group];
      groups.statistics(x, group, i, n, mean, s, buffer);
      for (int64_t g = 0; g < a.group; ++g) {
        const int64_t sample = groups.sample(group, g), at = sample * groups.elements + i;
        const A* in = load(x + at, buffer, n);
        T* dx = static_cast<T*>(a.dx) + at;
        A* out = target(dx, buffer);
        groups.pieces(sample, i, n, [&](int64_t j, int64_t length, int64_t from) {
          const A* piece = load(dy + from, grad, length);
          PGGAN_SIMD
          for (int64_t k = j; k < j + length; ++k) out[k] = piece[k - j] + factor * (in[k] - mean[k]) / s[k];
        });
        store(dx, out, n);
      }
    }
  });
}

}  // namespace

int minibatch_stddev_forward(const MinibatchStddevForward& a) {
  if (a.shape.n * a.shape.c == 0) return OK;
  return dispatch(a.dtype, [&](auto t) { return forward<typename decltype(t)::T, typename decltype(t)::A>(a); });
}

int minibatch_stddev_backward(const MinibatchStddevBackward& a) {
  if (a.shape.n * a.shape.c == 0) return OK;
  return dispatch(a.dtype, [&](auto t) { return backward<typename decltype(t)::T, typename decltype(t)::A>(a); });
}

}  // namespace pggan::PGGAN_ISA
