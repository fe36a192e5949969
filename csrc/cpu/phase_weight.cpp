// The weights of resampling convolutions: S(w), the 3x3 kernel box-summed to 4x4, and its transpose for the gradient.
//
//   S[a][b] = sum of w[i][j] over i in {a - 1, a}, j in {b - 1, b}      S(flip(w)) = flip(S(w))
#include "element.h"
#include "parallel.h"

namespace pggan::PGGAN_ISA {
namespace {

// to[4] = the full convolution of from[3] with (1, 1); elements `step` apart.
template <class A>
void box_1d(const A* from, A* to, int64_t step) {
  to[0] = from[0];
  to[step] = from[0] + from[step];
  to[2 * step] = from[step] + from[2 * step];
  to[3 * step] = from[2 * step];
}

template <class A>
void box_transposed_1d(const A* from, A* to, int64_t step) {
  for (int64_t i = 0; i < 3; ++i) to[i * step] = from[i * step] + from[(i + 1) * step];
}

// f(output channel, input channel) for all kernels, in parallel over output channels.
template <class F>
int each_kernel(const PhaseWeight& a, const F& f) {
  return Chunks(a.out_channels, 16 * a.in_channels).run([&](int64_t, int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o)
      for (int64_t i = 0; i < a.in_channels; ++i) f(o, i);
  });
}

template <class A>
int forward(const PhaseWeight& a) {
  const A* weight = static_cast<const A*>(a.weight);
  A* summed = static_cast<A*>(a.summed);
  const A scale = static_cast<A>(a.scale);
  return each_kernel(a, [&](int64_t o, int64_t i) {
    const A* w = weight + (o * a.in_channels + i) * 9;
    A rows[12], s[16];
    for (int64_t j = 0; j < 3; ++j) box_1d(w + j, rows + j, 3);
    for (int64_t r = 0; r < 4; ++r) {
      A line[4];
      box_1d(rows + 3 * r, line, 1);
      for (int64_t j = 0; j < 4; ++j) s[4 * r + j] = scale * line[j];
    }
    A* to = summed + o * a.stride[0] + i * a.stride[1];
    for (int64_t k = 0; k < 16; ++k) to[k / 4 * a.stride[2] + k % 4 * a.stride[3]] = s[a.flip ? 15 - k : k];
  });
}

template <class A>
int gradient(const PhaseWeight& a) {
  A* weight = static_cast<A*>(a.weight);
  const A* summed = static_cast<const A*>(a.summed);
  const A scale = static_cast<A>(a.scale);
  return each_kernel(a, [&](int64_t o, int64_t i) {
    const A* from = summed + o * a.stride[0] + i * a.stride[1];
    A s[16], rows[12];
    for (int64_t k = 0; k < 16; ++k) s[a.flip ? 15 - k : k] = from[k / 4 * a.stride[2] + k % 4 * a.stride[3]];
    for (int64_t j = 0; j < 4; ++j) box_transposed_1d(s + j, rows + j, 4);
    A* w = weight + (o * a.in_channels + i) * 9;
    for (int64_t r = 0; r < 3; ++r)
      for (int64_t j = 0; j < 3; ++j) w[3 * r + j] = scale * (rows[4 * r + j] + rows[4 * r + j + 1]);
  });
}

}  // namespace

int phase_weight(const PhaseWeight& a) {
  if (a.dtype == F32) return forward<float>(a);
  return a.dtype == F64 ? forward<double>(a) : BAD_DTYPE;
}

int phase_weight_gradient(const PhaseWeight& a) {
  if (a.dtype == F32) return gradient<float>(a);
  return a.dtype == F64 ? gradient<double>(a) : BAD_DTYPE;
}

}  // namespace pggan::PGGAN_ISA
