// The weights of resampling convolutions: S(w), the 3x3 kernel box-summed to 4x4, and its transpose for the gradient.
//
//   S[a][b] = sum of w[i][j] over i in {a - 1, a}, j in {b - 1, b}      S(flip(w)) = flip(S(w))
#include "element.h"
#include "lane.h"
#include "parallel.h"

namespace pggan::PGGAN_ISA {
namespace {

// to[4] = the full convolution of from[3] with (1, 1); elements `step` apart.
template <class L>
void box_1d(const L* from, L* to, int64_t step) {
  to[0] = from[0];
  to[step] = from[0] + from[step];
  to[2 * step] = from[step] + from[2 * step];
  to[3 * step] = from[2 * step];
}

template <class L>
void box_transposed_1d(const L* from, L* to, int64_t step) {
  for (int64_t i = 0; i < 3; ++i) to[i * step] = from[i * step] + from[(i + 1) * step];
}

// Where LANE kernels lie: tap k of lane j at weight + j * weight_step + k and summed + j * step + offset(k).
struct Kernels16 {
  int64_t weight, weight_step, summed, step, lanes;
};

// f(Kernels16) for all kernels, in parallel. Lanes run along the channel that is denser in `summed`: with channels last
// its taps lie far apart, and single elements would touch one cache line each.
template <class F>
int each_lane(const PhaseWeight& a, const F& f) {
  const bool along_out = a.stride[0] < a.stride[1];
  const int64_t lane_channels = along_out ? a.out_channels : a.in_channels;
  const int64_t other = along_out ? a.in_channels : a.out_channels;
  const int64_t weight_step = along_out ? 9 * a.in_channels : 9, weight_other = along_out ? 9 : 9 * a.in_channels;
  const int64_t step = a.stride[along_out ? 0 : 1], step_other = a.stride[along_out ? 1 : 0];
  const int64_t blocks = ceil_div(lane_channels, LANE);
  // Other channels are the inner loop where weights are read far apart: neighbours share the lines.
  return Chunks(blocks * other, 16 * LANE).run([&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t lane = (along_out ? i / other : i % blocks) * LANE, o = along_out ? i % other : i / blocks;
      f(Kernels16{lane * weight_step + o * weight_other, weight_step, lane * step + o * step_other, step,
                  minimum(LANE, lane_channels - lane)});
    }
  });
}

int64_t offset(const PhaseWeight& a, int64_t k) {
  const int64_t tap = a.flip ? 15 - k : k;
  return tap / 4 * a.stride[2] + tap % 4 * a.stride[3];
}

template <class A>
int forward(const PhaseWeight& a) {
  return each_lane(a, [&](const Kernels16& at) {
    const A* weight = static_cast<const A*>(a.weight) + at.weight;
    A* summed = static_cast<A*>(a.summed) + at.summed;
    Lane<A> w[9], rows[12], s[16];
    for (int64_t k = 0; k < 9; ++k) w[k] = A(a.scale) * Lane<A>::gather(weight + k, at.weight_step, at.lanes);
    for (int64_t j = 0; j < 3; ++j) box_1d(w + j, rows + j, 3);
    for (int64_t r = 0; r < 4; ++r) box_1d(rows + 3 * r, s + 4 * r, 1);
    for (int64_t k = 0; k < 16; ++k) s[k].scatter(summed + offset(a, k), at.step, at.lanes);
  });
}

template <class A>
int gradient(const PhaseWeight& a) {
  return each_lane(a, [&](const Kernels16& at) {
    A* weight = static_cast<A*>(a.weight) + at.weight;
    const A* summed = static_cast<const A*>(a.summed) + at.summed;
    Lane<A> s[16], rows[12], w[9];
    for (int64_t k = 0; k < 16; ++k) s[k] = Lane<A>::gather(summed + offset(a, k), at.step, at.lanes);
    for (int64_t j = 0; j < 4; ++j) box_transposed_1d(s + j, rows + j, 4);
    for (int64_t r = 0; r < 3; ++r) box_transposed_1d(rows + 4 * r, w + 3 * r, 1);
    for (int64_t k = 0; k < 9; ++k) (A(a.scale) * w[k]).scatter(weight + k, at.weight_step, at.lanes);
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
