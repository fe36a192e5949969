// The backward pass of bias_act from its output y and the norm's factor r alone, in one pass over memory:
//   t  = k * (r * mean_c(dy * y) + dr * r^2 / C),  k = 1 (eps inside) or 1 / (1 - eps * r) (outside)
//   dv = dy masked;  r * dy - y * t masked (norm after);  r * (dy masked) - (y unmasked) * t (norm before)
//   du = scale * dv;  db = bias_scale * sum(dv)
#include "bias_act_backward.h"

#include "pixel_norm.h"

namespace pggan::PGGAN_ISA {
namespace {

template <class A>
struct Gradient {
  A scale, slope, unslope, eps;  // unslope = 1 / slope
  bool eps_inside;
  int64_t c;

  A pixel(A r, A dy_dot_y, A dr) const {
    const A rest = A(1) - eps * r;  // rms * r
    const A k = eps_inside ? A(1) : rest > A(0) ? A(1) / rest : A(0);
    return k * (r * dy_dot_y + dr * r * r) / A(c);
  }

  template <int NORM>
  A element(A dy, A y, A r, A t) const {
    const A s = y > A(0) ? A(1) : slope;
    if constexpr (NORM == NORM_NONE) return s * dy;
    if constexpr (NORM == NORM_AFTER_ACT) return s * (r * dy - y * t);
    return r * (s * dy) - (y > A(0) ? y : unslope * y) * t;
  }
};

// A run of pixels in rows of C channels, handled in tiles of `wide` elements, a multiple of C. `sums` [wide] gathers dv.
template <int NORM, bool SUMS, class T, class A>
void backward_rows(const Gradient<A>& g, const T* dy, const A* dr, const T* y, const A* r, T* du, int64_t pixels,
                   int64_t wide, A* dy_buffer, A* y_buffer, A* sums) {
  const A scale = g.scale;
  const Gradient<A> k = g;  // a copy, which no store can change
  for (int64_t i = 0; i < pixels * g.c; i += wide) {
    const int64_t n = minimum(wide, pixels * g.c - i);
    const A* tile_dy = load(dy + i, dy_buffer, n);
    const A* tile_y = load(y + i, y_buffer, n);
    A* tile_du = target(du + i, dy_buffer);
    const int64_t row = NORM == NORM_NONE ? n : g.c;  // without a norm, pixels need not be told apart
    for (int64_t first = 0; first < n; first += row) {
      const A *grad = tile_dy + first, *out = tile_y + first;
      A *in_grad = tile_du + first, *sum = sums + first;
      A t = 0, factor = 0;
      if constexpr (NORM != NORM_NONE) {
        const int64_t p = (i + first) / g.c;
        A dot = 0;
        PGGAN_SIMD_SUM(dot)
        for (int64_t j = 0; j < row; ++j) dot += grad[j] * out[j];
        factor = r[p];
        t = g.pixel(factor, dot, dr ? dr[p] : A(0));
      }
      PGGAN_SIMD
      for (int64_t j = 0; j < row; ++j) {
        const A dv = k.template element<NORM>(grad[j], out[j], factor, t);
        if (SUMS) sum[j] += dv;
        in_grad[j] = scale * dv;
      }
    }
    store(du + i, tile_du, n);
  }
}

template <int NORM, class T, class A>
int rows(const BiasActBackward& a, const Gradient<A>& g) {
  const Shape& s = a.shape;
  const int64_t wide = s.c * maximum(1, 512 / s.c);
  const int64_t tile = 32 * (wide / s.c);  // pixels summed in one go: short sums round less
  const Chunks chunks(s.n * s.h * s.w, s.c);
  const int64_t stride = padded<A>(wide);
  Scratch<A> scratch(3 * stride * chunks.count);
  BiasSums total(a.db ? chunks.count : 0, s.c);
  if (!scratch || !total) return NO_MEMORY;
  const T *dy = static_cast<const T*>(a.dy), *y = static_cast<const T*>(a.y ? a.y : a.dy);
  const A *dr = static_cast<const A*>(a.dr), *r = static_cast<const A*>(a.r);
  T* du = static_cast<T*>(a.du);
  const int status = chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
    A* dy_buffer = scratch.data + 3 * stride * chunk;
    A *y_buffer = dy_buffer + stride, *sums = y_buffer + stride;
    for (int64_t p = begin; p < end; p += tile) {
      const int64_t n = minimum(tile, end - p), at = p * s.c;
      const A* dr_here = dr ? dr + p : nullptr;
      if (a.db) {
        const int64_t used = minimum(wide, n * s.c);
        for (int64_t j = 0; j < used; ++j) sums[j] = 0;
        backward_rows<NORM, true>(g, dy + at, dr_here, y + at, r + p, du + at, n, wide, dy_buffer, y_buffer, sums);
        for (int64_t j = 0; j < used; j += s.c) total.add(chunk, sums + j);
      } else {
        backward_rows<NORM, false>(g, dy + at, dr_here, y + at, r + p, du + at, n, wide, dy_buffer, y_buffer, sums);
      }
    }
  });
  total.finish(a.bias_scale, static_cast<A*>(a.db));
  return status;
}

// One plane without a norm; returns the sum of dv.
template <class T, class A>
double backward_plane(const Gradient<A>& g, const T* dy, const T* y, T* du, int64_t plane) {
  constexpr int64_t block = 1024;
  A dy_buffer[padded<A>(block)], y_buffer[padded<A>(block)];
  double total = 0;
  const A scale = g.scale, slope = g.slope;
  for (int64_t i = 0; i < plane; i += block) {
    const int64_t n = minimum(block, plane - i);
    const A* grad = load(dy + i, dy_buffer, n);
    const A* out = load(y + i, y_buffer, n);
    A* in_grad = target(du + i, dy_buffer);
    A sum = 0;
    PGGAN_SIMD_SUM(sum)
    for (int64_t j = 0; j < n; ++j) {
      const A dv = out[j] > A(0) ? grad[j] : slope * grad[j];
      sum += dv;
      in_grad[j] = scale * dv;
    }
    store(du + i, in_grad, n);
    total += sum;
  }
  return total;
}

template <class T, class A>
int planes_without_norm(const BiasActBackward& a, const Gradient<A>& g) {
  const Shape& s = a.shape;
  const int64_t plane = s.h * s.w;
  BiasSums total(a.db ? s.n : 0, s.c);
  if (!total) return NO_MEMORY;
  const T *dy = static_cast<const T*>(a.dy), *y = static_cast<const T*>(a.y ? a.y : a.dy);
  T* du = static_cast<T*>(a.du);
  const int status = Chunks(s.n * s.c, plane).run([&](int64_t, int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const double sum = backward_plane(g, dy + p * plane, y + p * plane, du + p * plane, plane);
      if (a.db) total.of(p / s.c)[p % s.c] = sum;
    }
  });
  total.finish(a.bias_scale, static_cast<A*>(a.db));
  return status;
}

// Pixels [0, n) of every plane of one sample, with a norm. t [n] is scratch.
template <int NORM, class T, class A>
void backward_planes(const Gradient<A>& g, const T* dy, const A* dr, const T* y, const A* r, T* du, int64_t plane,
                     int64_t n, A* dy_buffer, A* y_buffer, A* t, double* sums) {
  const A scale = g.scale;
  const Gradient<A> k = g;  // a copy, which no store can change
  for (int64_t j = 0; j < n; ++j) t[j] = 0;
  for (int64_t c = 0; c < g.c; ++c) {
    const A* grad = load(dy + c * plane, dy_buffer, n);
    const A* out = load(y + c * plane, y_buffer, n);
    PGGAN_SIMD
    for (int64_t j = 0; j < n; ++j) t[j] += grad[j] * out[j];
  }
  for (int64_t j = 0; j < n; ++j) t[j] = g.pixel(r[j], t[j], dr ? dr[j] : A(0));
  for (int64_t c = 0; c < g.c; ++c) {
    const A* grad = load(dy + c * plane, dy_buffer, n);
    const A* out = load(y + c * plane, y_buffer, n);
    A* in_grad = target(du + c * plane, dy_buffer);
    A sum = 0;
    PGGAN_SIMD_SUM(sum)
    for (int64_t j = 0; j < n; ++j) {
      const A dv = k.template element<NORM>(grad[j], out[j], r[j], t[j]);
      sum += dv;
      in_grad[j] = scale * dv;
    }
    store(du + c * plane, in_grad, n);
    if (sums) sums[c] += sum;
  }
}

template <int NORM, class T, class A>
int planes(const BiasActBackward& a, const Gradient<A>& g) {
  if constexpr (NORM == NORM_NONE) {
    return planes_without_norm<T>(a, g);
  } else {
    const Shape& s = a.shape;
    const int64_t plane = s.h * s.w, block = planes_block(s.c, 2 * sizeof(T)), blocks = ceil_div(plane, block);
    const Chunks chunks(s.n * blocks, s.c * minimum(block, plane));
    BiasSums total(a.db ? chunks.count : 0, s.c);
    if (!total) return NO_MEMORY;
    const T *dy = static_cast<const T*>(a.dy), *y = static_cast<const T*>(a.y);
    const A *dr = static_cast<const A*>(a.dr), *r = static_cast<const A*>(a.r);
    T* du = static_cast<T*>(a.du);
    const int status = chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
      A dy_buffer[padded<A>(PLANES_BLOCK_MAX)], y_buffer[padded<A>(PLANES_BLOCK_MAX)], t[padded<A>(PLANES_BLOCK_MAX)];
      for (int64_t b = begin; b < end; ++b) {
        const int64_t n = b / blocks, first = (b % blocks) * block;
        const int64_t at = n * s.c * plane + first, pixel = n * plane + first;
        backward_planes<NORM>(g, dy + at, dr ? dr + pixel : nullptr, y + at, r + pixel, du + at, plane,
                              minimum(block, plane - first), dy_buffer, y_buffer, t, a.db ? total.of(chunk) : nullptr);
      }
    });
    total.finish(a.bias_scale, static_cast<A*>(a.db));
    return status;
  }
}

template <class T, class A>
int run(const BiasActBackward& a) {
  const Gradient<A> g{A(a.scale), A(a.slope), A(1 / a.slope), A(a.eps), a.eps_inside, a.shape.c};
  const bool in_rows = a.shape.channels_last || a.shape.h * a.shape.w == 1;
  switch (a.norm) {
    case NORM_NONE: return in_rows ? rows<NORM_NONE, T>(a, g) : planes<NORM_NONE, T>(a, g);
    case NORM_AFTER_ACT: return in_rows ? rows<NORM_AFTER_ACT, T>(a, g) : planes<NORM_AFTER_ACT, T>(a, g);
    default: return in_rows ? rows<NORM_BEFORE_ACT, T>(a, g) : planes<NORM_BEFORE_ACT, T>(a, g);
  }
}

}  // namespace

int bias_act_backward(const BiasActBackward& a) {
  if (a.shape.c == 0) return OK;
  if (a.pool || a.mask) return bias_act_mask_backward(a);
  return dispatch(a.dtype, [&](auto t) { return run<typename decltype(t)::T, typename decltype(t)::A>(a); });
}

}  // namespace pggan::PGGAN_ISA
