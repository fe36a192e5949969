// bias_act followed by a 2x2 mean, and its derivatives of any order. The activation's input cannot be told from the
// mean, so the forward pass keeps one bit per element, and the backward pass and its own adjoint read those.
#include "bias_act_backward.h"
#include "lines.h"
#include "signs.h"

namespace pggan::PGGAN_ISA {
namespace {

// Where one pixel's rows lie in a channels_last tensor of this shape.
struct Rows {
  Shape s;
  int64_t bytes;  // of the mask, per pixel
  explicit Rows(const Shape& shape) : s(shape), bytes(ceil_div(shape.c, 8)) {}
  int64_t pixel(int64_t n, int64_t h, int64_t w) const { return (n * s.h + h) * s.w + w; }
};

template <class T, class A>
int forward_rows(const BiasActForward& a) {
  const Rows in(a.shape);
  const int64_t c = a.shape.c, out_h = a.shape.h / 2, out_w = a.shape.w / 2, stride = padded<A>(c);
  const Chunks chunks(a.shape.n * out_h, 2 * a.shape.w * c);
  Scratch<A> scratch(stride * (1 + 2 * chunks.count));
  if (!scratch) return NO_MEMORY;
  const A* bias = scratch.data;
  if (int status = load_parameter(a.bias, a.bias_dtype, c, a.bias_scale, scratch.data)) return status;
  const A scale(a.scale), slope(a.slope);
  return chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
    A* v = scratch.data + stride * (1 + 2 * chunk);
    for (int64_t line = begin; line < end; ++line) {
      for (int64_t w = 0; w < out_w; ++w) {
        T* y = static_cast<T*>(a.y) + (line * out_w + w) * c;
        A* mean = target(y, v + stride);
        for (int64_t k = 0; k < 4; ++k) {
          const int64_t pixel = in.pixel(line / out_h, line % out_h * 2 + k / 2, w * 2 + k % 2);
          const A* u = load(static_cast<const T*>(a.u) + pixel * c, v, c);
          PGGAN_SIMD
          for (int64_t j = 0; j < c; ++j) {
            v[j] = scale * u[j] + bias[j];
            mean[j] = (k ? mean[j] : A(0)) + A(0.25) * leaky_relu(v[j], slope);
          }
          if (a.mask) pack_signs(v, c, a.mask + pixel * in.bytes);
        }
        store(y, mean, c);
      }
    }
  });
}

// Two lines of one plane: their part of the mean, and their mask bits.
template <class T, class A>
void forward_plane_lines(const T* u, T* y, uint8_t* mask, unsigned bit, int64_t w, A scale, A bias, A slope, A* v,
                         A* sum) {
  for (int64_t h = 0; h < 2; ++h) {
    const A* in = load(u + h * w, v, w);
    PGGAN_SIMD
    for (int64_t j = 0; j < w; ++j) {
      v[j] = scale * in[j] + bias;
      sum[j] = (h ? sum[j] : A(0)) + leaky_relu(v[j], slope);
    }
    if (mask) {
      uint8_t* bits = mask + h * w;
      PGGAN_SIMD
      for (int64_t j = 0; j < w; ++j) bits[j] = static_cast<uint8_t>((bit ? bits[j] : 0) | (v[j] > A(0)) << bit);
    }
  }
  A* mean = target(y, sum);
  add_pixel_pairs(sum, A(0.25), mean, w / 2, 1);
  store(y, mean, w / 2);
}

template <class T, class A>
int forward_planes(const BiasActForward& a) {
  const Shape& s = a.shape;
  const int64_t out_h = s.h / 2, out_w = s.w / 2, groups = ceil_div(s.c, 8), stride = padded<A>(s.w);
  const Chunks chunks(s.n * groups * out_h, 16 * s.w);  // a unit is two lines of the planes that share mask bytes
  Scratch<A> scratch(padded<A>(s.c) + 2 * stride * chunks.count);
  if (!scratch) return NO_MEMORY;
  if (int status = load_parameter(a.bias, a.bias_dtype, s.c, a.bias_scale, scratch.data)) return status;
  return chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
    A* v = scratch.data + padded<A>(s.c) + 2 * stride * chunk;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t group = unit / out_h, n = group / groups, h = unit % out_h, first = group % groups * 8;
      uint8_t* mask = a.mask ? a.mask + (group * s.h + 2 * h) * s.w : nullptr;
      for (int64_t c = first; c < minimum(first + 8, s.c); ++c) {
        const int64_t plane = n * s.c + c;
        forward_plane_lines(static_cast<const T*>(a.u) + (plane * s.h + 2 * h) * s.w,
                            static_cast<T*>(a.y) + (plane * out_h + h) * out_w, mask, static_cast<unsigned>(c - first),
                            s.w, A(a.scale), scratch.data[c], A(a.slope), v, v + stride);
      }
    }
  });
}

template <class T, class A>
int backward_rows(const BiasActBackward& a) {
  const Shape& s = a.shape;
  const int64_t c = s.c, factor = a.pool ? 2 : 1, stride = padded<A>(c);
  const int64_t bytes = ceil_div(c, 8), grad_h = s.h / factor, grad_w = s.w / factor;
  const Chunks chunks(s.n * s.h, s.w * c);
  Scratch<A> scratch(4 * stride * chunks.count);
  BiasSums total(a.db ? chunks.count : 0, c);
  if (!scratch || !total) return NO_MEMORY;
  const Derivatives<A> derivatives(A(a.slope));
  const A scale(a.scale), share(a.pool ? 0.25 : 1.0);
  const int status = chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
    A* derivative = scratch.data + 4 * stride * chunk;
    A *buffer = derivative + stride, *du_buffer = buffer + stride, *sums = du_buffer + stride;
    for (int64_t line = begin; line < end; ++line) {
      const int64_t grad_line = line / s.h * grad_h + line % s.h / factor;
      for (int64_t w = 0; w < s.w; ++w) {
        const int64_t pixel = line * s.w + w;
        const A* dy = load(static_cast<const T*>(a.dy) + (grad_line * grad_w + w / factor) * c, buffer, c);
        T* du = static_cast<T*>(a.du) + pixel * c;
        A* out = target(du, du_buffer);
        derivatives.fill(a.mask ? a.mask + pixel * bytes : nullptr, c, derivative);
        const bool fresh = w % 64 == 0;  // short sums round less
        PGGAN_SIMD
        for (int64_t j = 0; j < c; ++j) {
          const A dv = share * dy[j] * derivative[j];
          sums[j] = (fresh ? A(0) : sums[j]) + dv;
          out[j] = scale * dv;
        }
        store(du, out, c);
        if (a.db && (w % 64 == 63 || w + 1 == s.w)) total.add(chunk, sums);
      }
    }
  });
  total.finish(a.bias_scale, static_cast<A*>(a.db));
  return status;
}

template <class T, class A>
int backward_planes(const BiasActBackward& a) {
  const Shape& s = a.shape;
  const int64_t factor = a.pool ? 2 : 1, grad_h = s.h / factor, grad_w = s.w / factor;
  const int64_t groups = ceil_div(s.c, 8), stride = padded<A>(s.w);
  const Chunks chunks(s.n * s.c, s.h * s.w);
  Scratch<A> scratch(4 * stride * chunks.count);
  BiasSums total(a.db ? s.n : 0, s.c);
  if (!scratch || !total) return NO_MEMORY;
  const A scale(a.scale), slope(a.slope), share(a.pool ? 0.25 : 1.0);
  const int status = chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
    A* narrow = scratch.data + 4 * stride * chunk;
    A *wide = narrow + stride, *du_buffer = wide + stride, *derivative = du_buffer + stride;
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t n = plane / s.c, c = plane % s.c;
      double plane_sum = 0;
      for (int64_t h = 0; h < s.h; ++h) {
        const A* dy = load(static_cast<const T*>(a.dy) + (plane * grad_h + h / factor) * grad_w, narrow, grad_w);
        if (a.pool) repeat_pixels(dy, wide, grad_w, 1);
        const A* grad = a.pool ? wide : dy;
        T* du = static_cast<T*>(a.du) + (plane * s.h + h) * s.w;
        A* out = target(du, du_buffer);
        A sum = 0;
        const uint8_t* mask = a.mask ? a.mask + ((n * groups + c / 8) * s.h + h) * s.w : nullptr;
        plane_derivatives(mask, c, slope, derivative, s.w);
        PGGAN_SIMD_SUM(sum)
        for (int64_t j = 0; j < s.w; ++j) {
          const A dv = share * grad[j] * derivative[j];
          sum += dv;
          out[j] = scale * dv;
        }
        store(du, out, s.w);
        plane_sum += sum;
      }
      if (a.db) total.of(n)[c] = plane_sum;
    }
  });
  total.finish(a.bias_scale, static_cast<A*>(a.db));
  return status;
}

template <class T, class A>
int masked_pool_rows(const MaskedPool& a) {
  const Rows in(a.shape);
  const int64_t c = a.shape.c, out_h = a.shape.h / 2, out_w = a.shape.w / 2, stride = padded<A>(c);
  const Chunks chunks(a.shape.n * out_h, 2 * a.shape.w * c);
  Scratch<A> scratch(3 * stride * chunks.count);
  if (!scratch) return NO_MEMORY;
  const Derivatives<A> derivatives(A(a.slope));
  const A quarter(a.scale / 4);
  return chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
    A* derivative = scratch.data + 3 * stride * chunk;
    for (int64_t line = begin; line < end; ++line) {
      for (int64_t w = 0; w < out_w; ++w) {
        T* out = static_cast<T*>(a.out) + (line * out_w + w) * c;
        A* mean = target(out, derivative + 2 * stride);
        for (int64_t k = 0; k < 4; ++k) {
          const int64_t pixel = in.pixel(line / out_h, line % out_h * 2 + k / 2, w * 2 + k % 2);
          const A* g = load(static_cast<const T*>(a.g) + pixel * c, derivative + stride, c);
          derivatives.fill(a.mask ? a.mask + pixel * in.bytes : nullptr, c, derivative);
          PGGAN_SIMD
          for (int64_t j = 0; j < c; ++j) mean[j] = (k ? mean[j] : A(0)) + quarter * (g[j] * derivative[j]);
        }
        store(out, mean, c);
      }
    }
  });
}

template <class T, class A>
int masked_pool_planes(const MaskedPool& a) {
  const Shape& s = a.shape;
  const int64_t out_h = s.h / 2, out_w = s.w / 2, groups = ceil_div(s.c, 8), stride = padded<A>(s.w);
  const Chunks chunks(s.n * s.c * out_h, 2 * s.w);
  Scratch<A> scratch(3 * stride * chunks.count);
  if (!scratch) return NO_MEMORY;
  const A slope(a.slope);
  return chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
    A* derivative = scratch.data + 3 * stride * chunk;
    A *buffer = derivative + stride, *sum = buffer + stride;
    for (int64_t line = begin; line < end; ++line) {
      const int64_t plane = line / out_h, n = plane / s.c, c = plane % s.c;
      for (int64_t k = 0; k < 2; ++k) {
        const int64_t h = line % out_h * 2 + k;
        const A* g = load(static_cast<const T*>(a.g) + (plane * s.h + h) * s.w, buffer, s.w);
        const uint8_t* mask = a.mask ? a.mask + ((n * groups + c / 8) * s.h + h) * s.w : nullptr;
        plane_derivatives(mask, c, slope, derivative, s.w);
        PGGAN_SIMD
        for (int64_t j = 0; j < s.w; ++j) sum[j] = (k ? sum[j] : A(0)) + g[j] * derivative[j];
      }
      T* out = static_cast<T*>(a.out) + line * out_w;
      A* mean = target(out, sum);
      add_pixel_pairs(sum, A(a.scale / 4), mean, out_w, 1);
      store(out, mean, out_w);
    }
  });
}

}  // namespace

int bias_act_pool_forward(const BiasActForward& a) {
  return dispatch(a.dtype, [&](auto t) {
    using T = typename decltype(t)::T;
    using A = typename decltype(t)::A;
    return a.shape.channels_last ? forward_rows<T, A>(a) : forward_planes<T, A>(a);
  });
}

int bias_act_mask_backward(const BiasActBackward& a) {
  return dispatch(a.dtype, [&](auto t) {
    using T = typename decltype(t)::T;
    using A = typename decltype(t)::A;
    return a.shape.channels_last ? backward_rows<T, A>(a) : backward_planes<T, A>(a);
  });
}

int masked_pool(const MaskedPool& a) {
  return dispatch(a.dtype, [&](auto t) {
    using T = typename decltype(t)::T;
    using A = typename decltype(t)::A;
    return a.shape.channels_last ? masked_pool_rows<T, A>(a) : masked_pool_planes<T, A>(a);
  });
}

}  // namespace pggan::PGGAN_ISA
