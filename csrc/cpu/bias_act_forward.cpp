// bias_act: v = scale * u + bias[c], leaky ReLU, pixel norm, in one pass over memory. ops/bias_act.py has the formulas.
#include "epilogue.h"

namespace pggan::PGGAN_ISA {
namespace {

// Pixels [0, n) of every plane of one sample; planes are `plane` apart. Sums of squares gather in r.
template <int NORM, class T, class A>
void forward_planes(const Epilogue<A>& e, const T* u, T* y, A* r, int64_t plane, int64_t n, A* buffer, A* partial) {
  const A slope = e.slope;
  for (int64_t j = 0; j < n; ++j) r[j] = 0;
  constexpr int64_t group = 16;  // channels summed before they are added to r: short sums round less
  for (int64_t first = 0; first < e.c; first += group) {
    for (int64_t j = 0; j < n; ++j) partial[j] = 0;
    for (int64_t c = first; c < minimum(first + group, e.c); ++c) {
      const A* in = load(u + c * plane, buffer, n);
      const A scale = e.scale, bias = e.bias[c];
      PGGAN_SIMD
      for (int64_t j = 0; j < n; ++j) {
        A v = scale * in[j] + bias;
        if (NORM == NORM_AFTER_ACT) v = leaky_relu(v, slope);
        partial[j] += v * v;
      }
    }
    PGGAN_SIMD
    for (int64_t j = 0; j < n; ++j) r[j] += partial[j];
  }
  for (int64_t j = 0; j < n; ++j) r[j] = inverse_rms(r[j] / A(e.c), e.eps, e.eps_inside);
  for (int64_t c = 0; c < e.c; ++c) {
    const A* in = load(u + c * plane, buffer, n);
    A* out = target(y + c * plane, buffer);
    const A scale = e.scale, bias = e.bias[c];
    PGGAN_SIMD
    for (int64_t j = 0; j < n; ++j) out[j] = leaky_relu(scale * in[j] + bias, slope) * r[j];
    store(y + c * plane, out, n);
  }
}

template <int NORM, class T, class A>
int rows(const BiasActForward& a, Epilogue<A> e) {
  const Shape& s = a.shape;
  e.wide = wide_rows<A>(s.c);
  const Chunks chunks(s.n * s.h * s.w, s.c);
  Scratch<A> scratch(padded<A>(e.wide) * (1 + chunks.count));
  if (!scratch) return NO_MEMORY;
  if (int status = load_bias(a.bias, a.bias_dtype, s.c, a.bias_scale, scratch.data)) return status;
  e.bias = scratch.data;
  const T* u = static_cast<const T*>(a.u);
  T* y = static_cast<T*>(a.y);
  A* r = static_cast<A*>(a.r);
  return chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
    A* buffer = scratch.data + padded<A>(e.wide) * (1 + chunk);
    epilogue_rows<NORM>(e, u + begin * s.c, y + begin * s.c, r + begin, end - begin, buffer);
  });
}

template <int NORM, class T, class A>
int planes(const BiasActForward& a, Epilogue<A> e) {
  const Shape& s = a.shape;
  const int64_t plane = s.h * s.w;
  const T* u = static_cast<const T*>(a.u);
  T* y = static_cast<T*>(a.y);
  A* r = static_cast<A*>(a.r);
  Scratch<A> bias(s.c);
  if (!bias) return NO_MEMORY;
  if (int status = load_parameter(a.bias, a.bias_dtype, s.c, a.bias_scale, bias.data)) return status;
  e.bias = bias.data;
  if constexpr (NORM == NORM_NONE) {
    constexpr int64_t block = 2048;
    return Chunks(s.n * s.c, plane).run([&](int64_t, int64_t begin, int64_t end) {
      A buffer[padded<A>(block)];
      for (int64_t p = begin; p < end; ++p) {
        const A scale = e.scale, slope = e.slope, shift = e.bias[p % s.c];
        for (int64_t i = p * plane; i < (p + 1) * plane; i += block) {
          const int64_t n = minimum(block, (p + 1) * plane - i);
          const A* in = load(u + i, buffer, n);
          A* out = target(y + i, buffer);
          PGGAN_SIMD
          for (int64_t j = 0; j < n; ++j) out[j] = leaky_relu(scale * in[j] + shift, slope);
          store(y + i, out, n);
        }
      }
    });
  } else {
    const int64_t block = planes_block(s.c, sizeof(T));
    const int64_t blocks = ceil_div(plane, block);
    return Chunks(s.n * blocks, s.c * minimum(block, plane)).run([&](int64_t, int64_t begin, int64_t end) {
      A buffer[padded<A>(PLANES_BLOCK_MAX)], partial[padded<A>(PLANES_BLOCK_MAX)];
      for (int64_t b = begin; b < end; ++b) {
        const int64_t n = b / blocks, first = (b % blocks) * block;
        const int64_t at = n * s.c * plane + first;
        forward_planes<NORM>(e, u + at, y + at, r + n * plane + first, plane, minimum(block, plane - first), buffer,
                             partial);
      }
    });
  }
}

template <class T, class A>
int run(const BiasActForward& a) {
  const Epilogue<A> e{A(a.scale), A(a.slope), A(a.eps), a.eps_inside, nullptr, a.shape.c, a.shape.c};
  // One pixel per plane is one row.
  const bool in_rows = a.shape.channels_last || a.shape.h * a.shape.w == 1;
  switch (a.norm) {
    case NORM_NONE: return in_rows ? rows<NORM_NONE, T, A>(a, e) : planes<NORM_NONE, T, A>(a, e);
    case NORM_AFTER_ACT: return in_rows ? rows<NORM_AFTER_ACT, T, A>(a, e) : planes<NORM_AFTER_ACT, T, A>(a, e);
    default: return in_rows ? rows<NORM_BEFORE_ACT, T, A>(a, e) : planes<NORM_BEFORE_ACT, T, A>(a, e);
  }
}

}  // namespace

int bias_act_forward(const BiasActForward& a) {
  if (a.shape.n * a.shape.c * a.shape.h * a.shape.w == 0) return OK;
  if (a.pool) return bias_act_pool_forward(a);
  return dispatch(a.dtype, [&](auto t) { return run<typename decltype(t)::T, typename decltype(t)::A>(a); });
}

}  // namespace pggan::PGGAN_ISA
