// bias_act without a norm: v = scale * u + bias[c] and leaky ReLU, then a 2x2 mean or none; its backward pass, and the
// adjoint of that. A thread keeps its channels and goes over pixels: of the small image where there is a mean, whose
// TAPS = 4 pixels of the large image it takes together.
#include "bias_act.cuh"

#include <algorithm>

namespace pggan::cuda {
namespace {

// A block takes THREADS / lanes pixels at once, `lanes` neighbouring threads one of them; then those `rows` blocks on.
struct Cover {
  int64_t pixels;
  unsigned rows, channel_blocks;
  int lanes;
};

template <class A>
Cover cover(const Shape& s, bool pool, int least_lanes = 1) {
  const int64_t pixels = s.n * s.h * s.w / (pool ? 4 : 1), groups = ceil_div(s.c, A::SIZE);
  int lanes = A::side_by_side ? lanes_for(groups) : 1;
  if (lanes < least_lanes) lanes = least_lanes;
  const int64_t channel_blocks = ceil_div(groups, lanes);
  return {pixels, pixel_blocks(pixels, THREADS / lanes, channel_blocks), unsigned(channel_blocks), lanes};
}

// This thread's part of it.
struct Part {
  unsigned row;
  int64_t c, first, step, slot;  // channels from c on; pixels first + slot, first + step + slot, ...
  DEVICE Part(const Cover& cover, int size)
      : row(blockIdx.x / cover.channel_blocks),
        c((int64_t(blockIdx.x % cover.channel_blocks) * cover.lanes + threadIdx.x % cover.lanes) * size),
        first(row * int64_t(THREADS / cover.lanes)),
        step(cover.rows * int64_t(THREADS / cover.lanes)),
        slot(threadIdx.x / cover.lanes) {}
};

DEVICE Shape halved(const Shape& s) { return {s.n, s.c, s.h / 2, s.w / 2, s.channels_last}; }

// The pixel of the large image that is tap k of pixel p of the small one, whose lines are w wide.
template <int TAPS>
DEVICE int64_t source(int64_t p, int k, int64_t w) {
  return TAPS == 1 ? p : 2 * p + (divide(p, w) + k / 2) * (2 * w) + k % 2;
}

// Bits of channels from c on, one thread's share of a byte; whole warps call it, and those outside have no bits.
template <class A>
DEVICE void write_bits(unsigned bits, uint8_t* mask, const Shape& s, int64_t p, int64_t c, bool inside) {
  bits <<= c % 8;
#pragma unroll
  for (int apart = 1; apart < 8 / A::SIZE; apart *= 2) bits |= __shfl_xor_sync(0xffffffffu, bits, apart);
  if (inside && c % 8 == 0) mask[A::byte(s, p, c)] = uint8_t(bits);
}

template <class A, int TAPS>
__global__ void __launch_bounds__(THREADS, 1) forward_kernel(BiasActForward a, Cover cover) {
  const Part part(cover, A::SIZE);
  const Shape large = a.shape, small = TAPS == 1 ? large : halved(large);
  const float scale = float(a.scale), slope = float(a.slope);
  float bias[A::SIZE];
  read_bias(a.bias, a.bias_dtype, part.c, large.c, float(a.bias_scale), bias);
  for (int64_t first = part.first; first < cover.pixels; first += part.step) {  // whole warps go on or stop
    const int64_t p = first + part.slot;
    const bool inside = p < cover.pixels && part.c < large.c;
    typename A::Values y = {};
    unsigned bits[TAPS] = {};
#pragma unroll
    for (int k = 0; k < TAPS; ++k) {
      if (!inside) continue;
      const typename A::Values u = A::read(a.u, large, source<TAPS>(p, k, small.w), part.c);
#pragma unroll
      for (int j = 0; j < A::SIZE; ++j) {
        const float v = scale * u.v[j] + bias[j];
        y.v[j] += leaky(v, slope);
        if (part.c + j < large.c) bits[k] |= unsigned(v > 0.0f) << j;
      }
    }
    if (TAPS > 1 && a.mask)
#pragma unroll
      for (int k = 0; k < TAPS; ++k)
        write_bits<A>(bits[k], a.mask, large, source<TAPS>(p, k, small.w), part.c, inside);
    if (!inside) continue;
#pragma unroll
    for (int j = 0; j < A::SIZE; ++j) y.v[j] *= 1.0f / TAPS;
    A::write(y, a.y, small, p, part.c);
  }
}

// Bit j: whether the activation was positive in channel c + j of pixel p.
template <class A>
DEVICE unsigned positive(const uint8_t* mask, const void* y, const Shape& s, int64_t p, int64_t c) {
  if (mask) return unsigned(mask[A::byte(s, p, c)]) >> c % 8;
  if (!y) return ~0u;
  const typename A::Values v = A::read(y, s, p, c);
  unsigned bits = 0;
#pragma unroll
  for (int j = 0; j < A::SIZE; ++j) bits |= unsigned(v.v[j] > 0.0f) << j;
  return bits;
}

template <class A, int TAPS>
__global__ void __launch_bounds__(THREADS, 1) backward_kernel(BiasActBackward a, Cover cover) {
  const Part part(cover, A::SIZE);
  const Shape large = a.shape, small = TAPS == 1 ? large : halved(large);
  const float scale = float(a.scale), slope = float(a.slope);
  float sums[A::SIZE] = {};
  for (int64_t p = part.first + part.slot; p < cover.pixels && part.c < large.c; p += part.step) {
    const typename A::Values dy = A::read(a.dy, small, p, part.c);
    const bool of_taps = TAPS == 1 || a.mask;  // else y, of the small image, has one bit for all
    const unsigned of_y = of_taps ? 0 : positive<A>(nullptr, a.y, small, p, part.c);
    unsigned bits[TAPS];
#pragma unroll
    for (int k = 0; k < TAPS; ++k)
      bits[k] = of_taps ? positive<A>(a.mask, a.y, large, source<TAPS>(p, k, small.w), part.c) : of_y;
#pragma unroll
    for (int k = 0; k < TAPS; ++k) {
      typename A::Values du;
#pragma unroll
      for (int j = 0; j < A::SIZE; ++j) {
        const float dv = (bits[k] >> j & 1 ? 1.0f / TAPS : slope / TAPS) * dy.v[j];
        if (of_taps)
          sums[j] += dv;
        else if (k == 0)  // for all taps at once, as is summed where they are one pixel
          sums[j] += TAPS * dv;
        du.v[j] = scale * dv;
      }
      A::write(du, a.du, large, source<TAPS>(p, k, small.w), part.c);
    }
  }
  if (!a.db) return;
  float* row = a.workspace + part.row * large.c;
  const int64_t first = part.c - threadIdx.x % cover.lanes * A::SIZE;  // of the block
  sum_slots<A::SIZE, THREADS>(sums, cover.lanes, [&](int c, float sum) {
    if (first + c < large.c) row[first + c] = sum;
  });
}

template <class A>
__global__ void __launch_bounds__(THREADS, 1) masked_pool_kernel(MaskedPool a, Cover cover) {
  constexpr int TAPS = 4;
  const Part part(cover, A::SIZE);
  const Shape large = a.shape, small = halved(large);
  const float slope = float(a.slope), share = float(a.scale / TAPS);
  for (int64_t p = part.first + part.slot; p < cover.pixels && part.c < large.c; p += part.step) {
    typename A::Values out = {};
#pragma unroll
    for (int k = 0; k < TAPS; ++k) {
      const int64_t from = source<TAPS>(p, k, small.w);
      const typename A::Values g = A::read(a.g, large, from, part.c);
      const unsigned bits = positive<A>(a.mask, nullptr, large, from, part.c);
#pragma unroll
      for (int j = 0; j < A::SIZE; ++j)
        out.v[j] += bits >> j & 1 ? g.v[j] : slope * g.v[j];
    }
#pragma unroll
    for (int j = 0; j < A::SIZE; ++j) out.v[j] *= share;
    A::write(out, a.out, small, p, part.c);
  }
}

constexpr int ADD_THREADS = 1024;

__global__ void __launch_bounds__(ADD_THREADS)
    add_rows_kernel(const float* workspace, int64_t rows, int64_t channels, int lanes, float bias_scale, float* db) {
  const int64_t first = int64_t(blockIdx.x) * lanes, c = first + threadIdx.x % lanes;
  float sum[1] = {};
  if (c < channels) {
#pragma unroll 4
    for (int64_t row = threadIdx.x / lanes; row < rows; row += ADD_THREADS / lanes)
      sum[0] += workspace[row * channels + c];
  }
  sum_slots<1, ADD_THREADS>(sum, lanes, [&](int lane, float total) {
    if (first + lane < channels) db[first + lane] = bias_scale * total;
  });
}

// db [C] from the rows of the workspace.
cudaError_t add_rows(const BiasActBackward& a, int64_t rows, cudaStream_t stream) {
  if (!a.db) return cudaSuccess;
  const int lanes = lanes_for(a.shape.c);
  RUN(add_rows_kernel, unsigned(ceil_div(a.shape.c, lanes)), ADD_THREADS, 0, stream, a.workspace, rows, a.shape.c,
      lanes, float(a.bias_scale), static_cast<float*>(a.db));
  return cudaSuccess;
}

// Where an argument is read, it has to allow 16 bytes at a time.
bool to_16(const BiasActForward& a) { return aligned(a.u) && aligned(a.y); }
bool to_16(const BiasActBackward& a) { return aligned(a.dy) && aligned(a.y) && aligned(a.du); }

bool empty(const Shape& s) { return s.n * s.c * s.h * s.w == 0; }
bool without_norm(const BiasActBackward& a) { return a.norm == NORM_NONE || a.pool || a.mask; }

}  // namespace

cudaError_t bias_act_forward(const BiasActForward& a, cudaStream_t stream) {
  if (empty(a.shape)) return cudaSuccess;
  if (a.norm != NORM_NONE) return a.pool ? cudaErrorInvalidValue : norm_forward(a, stream);
  return with_access(a.dtype, a.shape, to_16(a), [&](auto access) {
    using A = decltype(access);
    // A byte of the mask is written by neighbouring threads together.
    const Cover c = cover<A>(a.shape, a.pool, a.pool && A::side_by_side ? 8 / A::SIZE : 1);
    const unsigned grid = c.rows * c.channel_blocks;
    if (a.pool)
      RUN((forward_kernel<A, 4>), grid, THREADS, 0, stream, a, c);
    else
      RUN((forward_kernel<A, 1>), grid, THREADS, 0, stream, a, c);
    return cudaSuccess;
  });
}

int64_t bias_act_backward_workspace(const BiasActBackward& a) {
  if (!a.db || empty(a.shape)) return 0;
  int64_t rows = 0;
  for (const bool aligned_to_16 : {false, true}) {
    if (!without_norm(a)) {
      rows = std::max(rows, norm_backward_rows(a, aligned_to_16));
      continue;
    }
    with_access(a.dtype, a.shape, aligned_to_16, [&](auto access) {
      rows = std::max(rows, int64_t(cover<decltype(access)>(a.shape, a.pool).rows));
      return cudaSuccess;
    });
  }
  return rows * a.shape.c;
}

cudaError_t bias_act_backward(const BiasActBackward& a, cudaStream_t stream) {
  if (a.shape.c == 0) return cudaSuccess;
  if (empty(a.shape)) return add_rows(a, 0, stream);  // db is zero
  if (!without_norm(a)) {
    const cudaError_t status = norm_backward(a, stream);
    return status == cudaSuccess ? add_rows(a, norm_backward_rows(a, to_16(a)), stream) : status;
  }
  return with_access(a.dtype, a.shape, to_16(a), [&](auto access) {
    using A = decltype(access);
    BiasActBackward b = a;
    if (a.mask || a.slope == 1.0) b.y = nullptr;  // not read
    const Cover c = cover<A>(a.shape, a.pool);
    if (a.pool)
      RUN((backward_kernel<A, 4>), c.rows * c.channel_blocks, THREADS, 0, stream, b, c);
    else
      RUN((backward_kernel<A, 1>), c.rows * c.channel_blocks, THREADS, 0, stream, b, c);
    return add_rows(a, c.rows, stream);
  });
}

cudaError_t masked_pool(const MaskedPool& a, cudaStream_t stream) {
  if (empty(a.shape)) return cudaSuccess;
  return with_access(a.dtype, a.shape, aligned(a.g) && aligned(a.out), [&](auto access) {
    using A = decltype(access);
    const Cover c = cover<A>(a.shape, true);
    RUN(masked_pool_kernel<A>, c.rows * c.channel_blocks, THREADS, 0, stream, a, c);
    return cudaSuccess;
  });
}

}  // namespace pggan::cuda
