// What the lanes of a warp do together: the last one to come does it for all.
#include <cuda_fp16.h>

#include <algorithm>
#include <cstring>

#include "shadow.h"

namespace cusim {

namespace {

constexpr unsigned ALL = 0xffffffffu;

struct Warp {
  unsigned waiting, exited;  // lanes in a warp operation; lanes that have run to the end
};
Warp warps[32];

template <class F>
void each(unsigned mask, const F& f) {
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) f(__builtin_ctz(rest));
}

void check_mask(const Thread& t, const WarpOp& op, unsigned mask) {
  const auto fault = [&](const char* what, int lane) {
    fail(Fault::warp_op, text("%s of lanes %#x: %s %d ", op.name, mask, what, lane) + at(t.site.address));
  };
  if (!(mask >> t.lane & 1)) fault("the mask lacks the calling lane", t.lane);
  const int lanes = lane_count(t.warp);
  if (lanes < 32 && mask >> lanes != 0) fault("the mask names lanes that do not exist, from", lanes);
  if (const unsigned gone = mask & warps[t.warp].exited) fault("the mask names an exited lane,", __builtin_ctz(gone));
}

void check_lines(const WarpOp& op, const Thread* lanes, unsigned mask) {
  const Thread& first = lanes[__builtin_ctz(mask)];
  each(mask, [&](int l) {
    const Site &here = lanes[l].site, &there = first.site;
    if (here.line == there.line || !is_new(Fault::divergent, here.address, there.address)) return;
    note(Fault::divergent, text("%s: lanes %d and %d meet from two places: ", op.name, first.lane, l) +
                               at(there.address) + " and " + at(here.address));
  });
}

// Waits for all lanes in `mask` to come to the same operation.
void meet(const WarpOp& op, unsigned mask, Site site) {
  Thread& t = *current;
  t.site = site;
  check_mask(t, op, mask);
  t.op = &op;
  t.mask = mask;
  Warp& warp = warps[t.warp];
  warp.waiting |= 1u << t.lane;
  Thread* lanes = lanes_of_warp(t.warp);
  bool complete = (warp.waiting & mask) == mask;
  if (complete) each(mask, [&](int l) { complete &= lanes[l].op == &op && lanes[l].mask == mask; });
  if (complete) {
    if (op.same_line) check_lines(op, lanes, mask);
    op.complete(lanes, mask);
    warp.waiting &= ~mask;
    each(mask, [&](int l) { make_ready(lanes[l]); });
  }
  wait_as(complete ? State::ready : State::in_warp_op);
}

// Every lane knows what any of them knew, and begins a new clock.
void complete_barrier(Thread* lanes, unsigned mask) {
  uint32_t known[32] = {};
  each(mask, [&](int l) {
    for (int k = 0; k < 32; ++k) known[k] = std::max(known[k], lanes[l].known[k]);
  });
  each(mask, [&](int l) {
    std::copy_n(known, 32, lanes[l].known);
    ++lanes[l].known[l];
  });
}

// The lane that `t` reads, in its group of `width` lanes; its own past the group's ends.
int source(const Thread& t) {
  const int first = t.lane & ~(t.width - 1), last = first + t.width - 1;
  switch (t.how) {
    case Shuffle::from: return first + (t.by & (t.width - 1));
    case Shuffle::up: return t.lane - t.by < first ? t.lane : t.lane - t.by;
    case Shuffle::down: return t.lane + t.by > last ? t.lane : t.lane + t.by;
    default: return (t.lane ^ t.by) > last ? t.lane : t.lane ^ t.by;
  }
}

void complete_shuffle(Thread* lanes, unsigned mask) {
  each(mask, [&](int l) {
    Thread& t = lanes[l];
    const int from = source(t);
    const bool there = from >= 0 && from < 32 && mask >> from & 1;
    if (!there && is_new(Fault::shuffle, t.site.address)) {
      const std::string what = text("lane %d reads lane %d, which is not in the mask %#x ", l, from, mask);
      note(Fault::shuffle, what + at(t.site.address));
    }
    t.result = there ? lanes[from].value : ~uint64_t(0);  // NaN in every type
  });
}

void complete_ballot(Thread* lanes, unsigned mask) {
  uint64_t votes = 0;
  each(mask, [&](int l) { votes |= lanes[l].value << l; });
  each(mask, [&](int l) { lanes[l].result = votes; });
}

float from_f16(uint16_t bits) {
  static const std::vector<float> all = [] {  // CUDA's own conversion is slow on the host
    std::vector<float> floats(1 << 16);
    for (unsigned i = 0; i < floats.size(); ++i) floats[i] = __half2float(__half(__half_raw{uint16_t(i)}));
    return floats;
  }();
  return all[bits];
}

float from_bf16(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float x;
  memcpy(&x, &wide, 4);
  return x;
}

// Hardware ignores the lower 13 bits.
float from_tf32(uint32_t bits) {
  bits &= ~0x1fffu;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// d [16, 8] += a [16, K] * b [K, 8]. Registers r of a hold rows lane / 4 + 8 (r % 2), those of b column lane / 4, both
// of half r / 2 (b: r) of K; `take(half of a line, lane % 4, register)` unpacks one.
template <int K, class Take>
void multiply(Thread* lanes, const Take& take) {
  ++counts.mma;
  float a[16][K], b[8][K];
  for (int l = 0; l < 32; ++l) {
    const auto* of_a = static_cast<const uint32_t*>(lanes[l].in[0]);
    const auto* of_b = static_cast<const uint32_t*>(lanes[l].in[1]);
    for (int r = 0; r < 4; ++r) take(a[l / 4 + r % 2 * 8] + r / 2 * (K / 2), l % 4, of_a[r]);
    for (int r = 0; r < 2; ++r) take(b[l / 4] + r * (K / 2), l % 4, of_b[r]);
  }
  for (int l = 0; l < 32; ++l) {
    float* d = static_cast<float*>(lanes[l].out);
    for (int i = 0; i < 4; ++i) {
      const float *row = a[l / 4 + i / 2 * 8], *column = b[l % 4 * 2 + i % 2];
      double sum = d[i];  // one rounding, at the end
      for (int k = 0; k < K; ++k) sum += double(row[k]) * column[k];
      d[i] = float(sum);
    }
  }
}

template <float (*widen)(uint16_t)>
void complete_mma_half(Thread* lanes, unsigned) {
  multiply<16>(lanes, [](float* line, int t, uint32_t word) {
    line[2 * t] = widen(uint16_t(word));
    line[2 * t + 1] = widen(uint16_t(word >> 16));
  });
}

void complete_mma_tf32(Thread* lanes, unsigned) {
  multiply<8>(lanes, [](float* line, int t, uint32_t word) { line[t] = from_tf32(word); });
}

template <bool transposed>
void complete_ldmatrix(Thread* lanes, unsigned) {
  uint16_t rows[4][8][8];
  for (int l = 0; l < 32; ++l) memcpy(rows[l / 8][l % 8], lanes[l].in[0], 16);
  for (int l = 0; l < 32; ++l) {
    auto* out = static_cast<uint32_t*>(lanes[l].out);
    const int i = l / 4, j = l % 4 * 2;
    for (int m = 0; m < 4; ++m) {
      const auto& at = rows[m];
      out[m] = transposed ? at[j][i] | uint32_t(at[j + 1][i]) << 16 : at[i][j] | uint32_t(at[i][j + 1]) << 16;
    }
  }
}

const WarpOp BARRIER{"__syncwarp", complete_barrier, false};
const WarpOp SHUFFLE{"__shfl_sync", complete_shuffle, true};
const WarpOp BALLOT{"__ballot_sync", complete_ballot, true};
const WarpOp MMA_F16{"mma_f16", complete_mma_half<from_f16>, true};
const WarpOp MMA_BF16{"mma_bf16", complete_mma_half<from_bf16>, true};
const WarpOp MMA_TF32{"mma_tf32", complete_mma_tf32, true};
const WarpOp LDMATRIX{"ldmatrix", complete_ldmatrix<false>, true};
const WarpOp LDMATRIX_TRANSPOSED{"ldmatrix_transposed", complete_ldmatrix<true>, true};

void mma(const WarpOp& op, float* d, const uint32_t* a, const uint32_t* b, Site site) {
  Thread& t = *current;
  t.in[0] = a;
  t.in[1] = b;
  t.out = d;
  meet(op, ALL, site);
}

void load_matrix(const WarpOp& op, uint32_t* out, const void* row, Site site) {
  const auto address = reinterpret_cast<uintptr_t>(row);
  Thread& t = *current;
  if (shared_memory == nullptr || !shared_memory->contains(address)) {
    fail(Fault::out_of_bounds, text("%s: row %d is not in shared memory ", op.name, t.lane) + at(site.address));
  }
  watch(address, 16, Kind::read, site.address);
  t.in[0] = row;
  t.out = out;
  meet(op, ALL, site);
}

}  // namespace

void begin_warps() { std::fill_n(warps, 32, Warp{}); }

void lane_exits(const Thread& thread) { warps[thread.warp].exited |= 1u << thread.lane; }

uint64_t shuffle(unsigned mask, uint64_t value, int by, int width, Shuffle how, int line) {
  Thread& t = *current;
  const Site site{CUSIM_CALLER, line};
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
    fail(Fault::shuffle, text("a width of %d is no power of two up to 32 ", width) + at(site.address));
  }
  t.value = value;
  t.by = by;
  t.width = width;
  t.how = how;
  meet(SHUFFLE, mask, site);
  return t.result;
}

}  // namespace cusim

void __syncwarp(unsigned mask, int line) { cusim::meet(cusim::BARRIER, mask, {CUSIM_CALLER, line}); }

unsigned __ballot_sync(unsigned mask, int predicate, int line) {
  cusim::Thread& t = *cusim::current;
  t.value = predicate != 0;
  cusim::meet(cusim::BALLOT, mask, {CUSIM_CALLER, line});
  return unsigned(t.result);
}

namespace pggan {

void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line) {
  cusim::mma(cusim::MMA_F16, d, a, b, {CUSIM_CALLER, line});
}
void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line) {
  cusim::mma(cusim::MMA_BF16, d, a, b, {CUSIM_CALLER, line});
}
void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line) {
  cusim::mma(cusim::MMA_TF32, d, a, b, {CUSIM_CALLER, line});
}
void ldmatrix(uint32_t (&out)[4], const void* row, int line) {
  cusim::load_matrix(cusim::LDMATRIX, out, row, {CUSIM_CALLER, line});
}
void ldmatrix_transposed(uint32_t (&out)[4], const void* row, int line) {
  cusim::load_matrix(cusim::LDMATRIX_TRANSPOSED, out, row, {CUSIM_CALLER, line});
}

}  // namespace pggan
