// bias_act with a pixel norm, forward and backward, in one pass over memory.
//
// Rows: `lanes` neighbouring threads share a pixel, and hold their channels of it between the sum over channels and
// what follows it; where there are too many, a warp reads them twice. Planes: a thread per pixel and slice of channels,
// which reads twice; a block's pixels stay in the cache.
#include <type_traits>

#include "pixel_norm.cuh"

namespace pggan::cuda {
namespace {

constexpr int KEPT_MAX = 16;  // elements a thread holds of each tensor
constexpr int BATCH = 4;      // channels of a slice that are read before any of them is written
constexpr int64_t MOST_CHANNELS = int64_t(1) << 30;  // so that their number plus a block's step is an int

// The sum over neighbouring threads, `lanes` of them, in each.
DEVICE float sum_lanes(float x, int lanes) {
  for (int apart = lanes / 2; apart > 0; apart /= 2) x += __shfl_xor_sync(0xffffffffu, x, apart);
  return x;
}

// u and y [pixels, channels]; a thread has KEPT times N channels.
template <class T, int N, int KEPT>
__global__ void __launch_bounds__(THREADS, 1)
    forward_rows_kernel(NormForward f, const T* u, T* y, float* r, int64_t pixels, int lanes) {
  using V = Vec<T, N>;
  const int lane = threadIdx.x % lanes, slots = THREADS / lanes;
  float shift[KEPT][N];
#pragma unroll
  for (int k = 0; k < KEPT; ++k) f.read_shift((k * lanes + lane) * N, shift[k]);
  for (int64_t first = int64_t(blockIdx.x) * slots; first < pixels; first += int64_t(gridDim.x) * slots) {
    const int64_t p = first + threadIdx.x / lanes, row = p * f.channels;
    const int end = p < pixels ? f.channels : 0;  // whole warps go on or stop
    V v[KEPT];
    float squares = 0.0f;
#pragma unroll
    for (int k = 0; k < KEPT; ++k) {
      const int c = (k * lanes + lane) * N;
      if (c < end) v[k] = V::read(u + row + c);
    }
#pragma unroll
    for (int k = 0; k < KEPT; ++k)
      if ((k * lanes + lane) * N < end)
#pragma unroll
        for (int j = 0; j < N; ++j) v[k].v[j] = f.activate(v[k].v[j], shift[k][j], squares);
    const float factor = f.factor(sum_lanes(squares, lanes));
    if (lane == 0 && end) r[p] = factor;
#pragma unroll
    for (int k = 0; k < KEPT; ++k) {
      const int c = (k * lanes + lane) * N;
      if (c >= end) continue;
#pragma unroll
      for (int j = 0; j < N; ++j) v[k].v[j] *= factor;
      v[k].write(y + row + c);
    }
  }
}

// A warp per pixel, whose channels are read twice.
template <class T, int N>
__global__ void __launch_bounds__(32)
    forward_long_rows_kernel(NormForward f, const T* u, T* y, float* r, int64_t pixels) {
  using V = Vec<T, N>;
  const int lane = int(threadIdx.x);
  for (int64_t p = blockIdx.x; p < pixels; p += gridDim.x) {
    const int64_t row = p * f.channels;
    float squares = 0.0f;
    for (int c = lane * N; c < f.channels; c += 32 * N) {
      const V v = V::read(u + row + c);
      float shift[N], of_vector = 0.0f;  // short sums round less
      f.read_shift(c, shift);
#pragma unroll
      for (int j = 0; j < N; ++j) f.activate(v.v[j], shift[j], of_vector);
      squares += of_vector;
    }
    const float factor = f.factor(warp_sum(squares));
    if (lane == 0) r[p] = factor;
    for (int c = lane * N; c < f.channels; c += 32 * N) {
      V v = V::read(u + row + c);
      float shift[N];
      f.read_shift(c, shift);
#pragma unroll
      for (int j = 0; j < N; ++j) v.v[j] = factor * f.activate(v.v[j], shift[j], squares);
      v.write(y + row + c);
    }
  }
}

// sums [blocks, channels] of dv, or null.
template <class T, int N, int KEPT>
__global__ void __launch_bounds__(THREADS, 1)
    backward_rows_kernel(NormBackward b, const T* dy, const T* y, T* du, float* sums, int64_t pixels, int lanes) {
  using V = Vec<T, N>;
  const int lane = threadIdx.x % lanes, slots = THREADS / lanes;
  float sum[KEPT * N] = {};
  for (int64_t first = int64_t(blockIdx.x) * slots; first < pixels; first += int64_t(gridDim.x) * slots) {
    const int64_t p = first + threadIdx.x / lanes, row = p * b.channels;
    const int end = p < pixels ? b.channels : 0;  // whole warps go on or stop
    V g[KEPT], out[KEPT];
    float dot = 0.0f;
#pragma unroll
    for (int k = 0; k < KEPT; ++k) {
      const int c = (k * lanes + lane) * N;
      if (c >= end) continue;
      g[k] = V::read(dy + row + c);
      out[k] = V::read(y + row + c);
    }
#pragma unroll
    for (int k = 0; k < KEPT; ++k)
      if ((k * lanes + lane) * N < end)
#pragma unroll
        for (int j = 0; j < N; ++j) dot += g[k].v[j] * out[k].v[j];
    dot = sum_lanes(dot, lanes);
    if (!end) continue;
    float factor, t;
    b.read(p, dot, factor, t);
#pragma unroll
    for (int k = 0; k < KEPT; ++k) {
      const int c = (k * lanes + lane) * N;
      if (c >= end) continue;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float dv = b.element(g[k].v[j], out[k].v[j], factor, t);
        sum[k * N + j] += dv;
        g[k].v[j] = b.scale * dv;
      }
      g[k].write(du + row + c);
    }
  }
  if (!sums) return;
  sum_slots<N, THREADS>(sum, lanes, [&](int c, float total) {
    if (c < b.channels) sums[int64_t(blockIdx.x) * b.channels + c] = total;
  });
}

// A warp per pixel, whose channels are read twice; a thread adds to its own part of the block's row of sums.
template <class T, int N>
__global__ void __launch_bounds__(32)
    backward_long_rows_kernel(NormBackward b, const T* dy, const T* y, T* du, float* sums, int64_t pixels) {
  using V = Vec<T, N>;
  const int lane = int(threadIdx.x);
  if (sums) sums += int64_t(blockIdx.x) * b.channels;
  for (int64_t p = blockIdx.x; p < pixels; p += gridDim.x) {
    const int64_t row = p * b.channels;
    float dot = 0.0f, factor, t;
    for (int c = lane * N; c < b.channels; c += 32 * N) {
      const V g = V::read(dy + row + c), out = V::read(y + row + c);
      float of_vector = 0.0f;
#pragma unroll
      for (int j = 0; j < N; ++j) of_vector += g.v[j] * out.v[j];
      dot += of_vector;
    }
    b.read(p, warp_sum(dot), factor, t);
    for (int c = lane * N; c < b.channels; c += 32 * N) {
      V g = V::read(dy + row + c);
      const V out = V::read(y + row + c);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float dv = b.element(g.v[j], out.v[j], factor, t);
        if (sums) sums[c + j] = (p == blockIdx.x ? 0.0f : sums[c + j]) + dv;
        g.v[j] = b.scale * dv;
      }
      g.write(du + row + c);
    }
  }
}

// Blocks of 32 pixels by `slices` warps, which share the channels among them.

DEVICE float sum_batch(const float (&x)[BATCH]) { return (x[0] + x[1]) + (x[2] + x[3]); }

// Sums over the slices, the same in each; two barriers, so that calls may follow one another.
DEVICE float sum_slices(float x, int slices) {
  SHARED(float, partial, 32 * 32);  // [slices, 32]
  partial[threadIdx.x] = x;
  __syncthreads();
  const float sum = sum_in_four(partial + threadIdx.x % 32, slices, 32);
  __syncthreads();
  return sum;
}

// A thread's pixel and channels: c, c + slices, ...
struct Column {
  int64_t plane;
  int channels, slices, slice;
  DEVICE Column(int64_t pixels_of_plane, int channels_)
      : plane(pixels_of_plane), channels(channels_), slices(int(blockDim.x) / 32), slice(int(threadIdx.x) / 32) {}
  DEVICE int64_t start(int64_t p) const { return divide(p, plane) * (channels - 1) * plane + p; }  // of channel 0
  DEVICE int channel(int c, int i) const { return c + i * slices; }

  // BATCH channels from c on of x at channel 0 of a pixel; zeros beyond the last, and without a pixel.
  template <class T>
  DEVICE void read(const T* x, int c, bool inside, float (&v)[BATCH]) const {
#pragma unroll
    for (int i = 0; i < BATCH; ++i)
      v[i] = inside && channel(c, i) < channels ? widen(x[channel(c, i) * plane]) : 0.0f;
  }
};

template <class T>
__global__ void __launch_bounds__(1024, 1)
    forward_planes_kernel(NormForward f, const T* u, T* y, float* r, int64_t pixels, int64_t plane) {
  const Column at(plane, f.channels);
  for (int64_t first = int64_t(blockIdx.x) * 32; first < pixels; first += int64_t(gridDim.x) * 32) {
    const int64_t p = first + threadIdx.x % 32, start = at.start(p);
    const bool inside = p < pixels;
    float v[BATCH], squares[BATCH] = {};
    for (int c = at.slice; c < f.channels; c += BATCH * at.slices) {
      at.read(u + start, c, inside, v);
#pragma unroll
      for (int i = 0; i < BATCH; ++i)
        if (at.channel(c, i) < f.channels) f.activate(v[i], f.shift(at.channel(c, i)), squares[i]);
    }
    const float factor = f.factor(sum_slices(sum_batch(squares), at.slices));
    if (!inside) continue;
    if (at.slice == 0) r[p] = factor;
    for (int c = at.slice; c < f.channels; c += BATCH * at.slices) {
      at.read(u + start, c, true, v);
#pragma unroll
      for (int i = 0; i < BATCH; ++i) {
        const int channel = at.channel(c, i);
        if (channel < f.channels)
          y[start + channel * plane] = narrow<T>(factor * f.activate(v[i], f.shift(channel), squares[i]));
      }
    }
  }
}

// sums [blocks, channels] of dv, or null; one warp adds to a channel's.
template <class T>
__global__ void __launch_bounds__(1024, 1)
    backward_planes_kernel(NormBackward b, const T* dy, const T* y, T* du, float* sums, int64_t pixels, int64_t plane) {
  const Column at(plane, b.channels);
  if (sums) sums += int64_t(blockIdx.x) * b.channels;
  for (int64_t first = int64_t(blockIdx.x) * 32; first < pixels; first += int64_t(gridDim.x) * 32) {
    const int64_t p = first + threadIdx.x % 32, start = at.start(p);
    const bool inside = p < pixels, fresh = first == int64_t(blockIdx.x) * 32;
    float g[BATCH], out[BATCH], dots[BATCH] = {}, factor = 0.0f, t = 0.0f;
    for (int c = at.slice; c < b.channels; c += BATCH * at.slices) {
      at.read(dy + start, c, inside, g);
      at.read(y + start, c, inside, out);
#pragma unroll
      for (int i = 0; i < BATCH; ++i) dots[i] += g[i] * out[i];
    }
    const float dot = sum_slices(sum_batch(dots), at.slices);
    if (inside) b.read(p, dot, factor, t);
    for (int c = at.slice; c < b.channels; c += BATCH * at.slices) {
      at.read(dy + start, c, inside, g);
      at.read(y + start, c, inside, out);
#pragma unroll
      for (int i = 0; i < BATCH; ++i) {
        const int channel = at.channel(c, i);
        if (channel >= b.channels) break;  // for the whole warp
        const float dv = b.element(g[i], out[i], factor, t);  // 0 outside
        if (inside) du[start + channel * plane] = narrow<T>(b.scale * dv);
        if (!sums) continue;
        const float sum = warp_sum(dv);
        if (threadIdx.x % 32 == 0) sums[channel] = (fresh ? 0.0f : sums[channel]) + sum;
      }
    }
  }
}

enum class Form { planes, rows, long_rows };

// Which kernels a shape and its alignment ask for, and their launch.
struct Plan {
  Form form;
  int size, kept;  // elements at a time, and how many times, of a thread in rows
  int64_t pixels;
  unsigned blocks, threads;
  int lanes;

  Plan(const Shape& s, int dtype, bool to_16) : pixels(s.n * s.h * s.w) {
    const int vector = dtype == F32 ? 4 : 8;
    size = to_16 && s.c % vector == 0 ? vector : 1;
    lanes = lanes_for(ceil_div(s.c, size));
    const int64_t times = ceil_div(s.c, 32 * size);
    kept = times <= 1 ? 1 : times == 2 ? 2 : 4;
    if (!in_rows(s)) {
      form = Form::planes;
      const int64_t tiles = ceil_div(pixels, 32);
      const int slices = tiles < 2 * multiprocessors() ? 32 : 8;  // more where pixels alone do not fill the device
      threads = unsigned(32 * (s.c < slices ? s.c : slices));
      blocks = pixel_blocks(pixels, 32);
    } else if (times > kept || kept * size > KEPT_MAX || (kept > 1 && size == 1)) {
      form = Form::long_rows;
      threads = 32;
      blocks = pixel_blocks(pixels, 1);
    } else {
      form = Form::rows;
      threads = THREADS;
      blocks = pixel_blocks(pixels, THREADS / lanes);
    }
  }
};

// f(N, KEPT), both as types, for rows of T by this plan.
template <class T, class F>
cudaError_t with_vectors(const Plan& plan, const F& f) {
  constexpr std::integral_constant<int, 1> one{};
  constexpr std::integral_constant<int, Vec<T>::SIZE> vector{};
  if (plan.size == 1) return f(one, one);
  if (plan.kept == 1 || plan.form == Form::long_rows) return f(vector, one);
  if constexpr (4 * vector <= KEPT_MAX)
    if (plan.kept == 4) return f(vector, std::integral_constant<int, 4>());
  return f(vector, std::integral_constant<int, 2>());
}

}  // namespace

cudaError_t norm_forward(const BiasActForward& a, cudaStream_t stream) {
  const Shape& s = a.shape;
  if (s.c > MOST_CHANNELS) return cudaErrorInvalidValue;
  const Plan plan(s, a.dtype, aligned(a.u) && aligned(a.y));
  const NormForward f(a);
  float* r = static_cast<float*>(a.r);
  return with_dtype(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* u = static_cast<const T*>(a.u);
    T* y = static_cast<T*>(a.y);
    if (plan.form == Form::planes) {
      RUN(forward_planes_kernel<T>, plan.blocks, plan.threads, 0, stream, f, u, y, r, plan.pixels, s.h * s.w);
      return cudaSuccess;
    }
    return with_vectors<T>(plan, [&](auto n, auto kept) {
      if (plan.form == Form::rows)
        RUN((forward_rows_kernel<T, n.value, kept.value>), plan.blocks, THREADS, 0, stream, f, u, y, r, plan.pixels,
            plan.lanes);
      else
        RUN((forward_long_rows_kernel<T, n.value>), plan.blocks, 32, 0, stream, f, u, y, r, plan.pixels);
      return cudaSuccess;
    });
  });
}

int64_t norm_backward_rows(const BiasActBackward& a, bool to_16) { return Plan(a.shape, a.dtype, to_16).blocks; }

cudaError_t norm_backward(const BiasActBackward& a, cudaStream_t stream) {
  const Shape& s = a.shape;
  if (s.c > MOST_CHANNELS) return cudaErrorInvalidValue;
  const Plan plan(s, a.dtype, aligned(a.dy) && aligned(a.y) && aligned(a.du));
  const NormBackward b(a);
  float* sums = a.db ? a.workspace : nullptr;
  return with_dtype(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *dy = static_cast<const T*>(a.dy), *y = static_cast<const T*>(a.y);
    T* du = static_cast<T*>(a.du);
    if (plan.form == Form::planes) {
      RUN(backward_planes_kernel<T>, plan.blocks, plan.threads, 0, stream, b, dy, y, du, sums, plan.pixels, s.h * s.w);
      return cudaSuccess;
    }
    return with_vectors<T>(plan, [&](auto n, auto kept) {
      if (plan.form == Form::rows)
        RUN((backward_rows_kernel<T, n.value, kept.value>), plan.blocks, THREADS, 0, stream, b, dy, y, du, sums,
            plan.pixels, plan.lanes);
      else
        RUN((backward_long_rows_kernel<T, n.value>), plan.blocks, 32, 0, stream, b, dy, y, du, sums, plan.pixels);
      return cudaSuccess;
    });
  });
}

}  // namespace pggan::cuda
