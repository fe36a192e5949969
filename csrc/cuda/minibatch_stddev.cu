// minibatch_stddev: s = sqrt(sum over a group of d^2 / divisor + eps) per element, d = x - mean, and one more channel
// that holds each group's mean of s. Within a sample the statistics do not depend on the layout: a thread takes N
// neighbouring elements of all members of a group. Blocks write sums, which a second kernel adds up in their order.
#include "common.cuh"

namespace pggan::cuda {
namespace {

constexpr int THREADS = 128;
constexpr int HELD = 4;  // members that stay in registers; larger groups are read again, through the cache

// Where things lie in x [N, C, H, W] and in a tensor with one channel more.
struct Layout {
  int64_t groups, group, elements, plane, c;  // elements: of a sample
  bool strided, channels_last;

  DEVICE int64_t sample(int64_t in_group, int64_t member) const {
    return strided ? member * groups + in_group : in_group * group + member;
  }
  DEVICE int64_t group_of(int64_t of_sample) const { return strided ? of_sample % groups : of_sample / group; }
  DEVICE int64_t extended(int64_t in_sample, int64_t i) const {
    return in_sample * (elements + plane) + i + (channels_last ? i / c : 0);
  }
  DEVICE int64_t map(int64_t in_sample, int64_t pixel) const {
    return in_sample * (elements + plane) + (channels_last ? pixel * (c + 1) + c : elements + pixel);
  }
};

template <class Args>
Layout layout_of(const Args& a) {
  const Shape& s = a.shape;
  return {s.n / a.group, a.group, s.c * s.h * s.w, s.h * s.w, s.c, a.strided, s.channels_last};
}

// The sum over all threads of the block, in every thread; always in the same order. Once a kernel.
DEVICE float block_sum(float x) {
  SHARED(float, sums, THREADS / 32);
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  float total = 0.0f;
#pragma unroll
  for (int warp = 0; warp < THREADS / 32; ++warp) total += sums[warp];
  return total;
}

// Elements [i, i + N) of the members of a group, and their statistics.
template <class T, int N>
struct Members {
  const T* x;  // element i of sample 0
  const Layout& l;
  const int64_t group;
  Vec<T, N> held[HELD], mean, s;

  // f(values, sample) for each member.
  template <class F>
  DEVICE void each(const F& f) {
    for (int64_t first = 0; first < l.group; first += HELD) {
      if (l.group > HELD) load(first);
#pragma unroll
      for (int m = 0; m < HELD; ++m)
        if (first + m < l.group) f(held[m], l.sample(group, first + m));
    }
  }

  DEVICE void load(int64_t first) {
#pragma unroll
    for (int m = 0; m < HELD; ++m)
      if (first + m < l.group) held[m] = Vec<T, N>::read(x + l.sample(group, first + m) * l.elements);
  }

  // mean and s: of the differences from the mean, which lose no digits.
  DEVICE Members(const T* from, const Layout& in, int64_t of_group, int64_t i, float divisor, float eps)
      : x(from + i), l(in), group(of_group), mean(), s() {
    load(0);
    each([&](const Vec<T, N>& v, int64_t) {
#pragma unroll
      for (int j = 0; j < N; ++j) mean.v[j] += v.v[j];
    });
#pragma unroll
    for (int j = 0; j < N; ++j) mean.v[j] /= float(l.group);
    each([&](const Vec<T, N>& v, int64_t) {
#pragma unroll
      for (int j = 0; j < N; ++j) s.v[j] += (v.v[j] - mean.v[j]) * (v.v[j] - mean.v[j]);
    });
#pragma unroll
    for (int j = 0; j < N; ++j) s.v[j] = sqrtf(s.v[j] / divisor + eps);
  }
};

// x into its channels of out; sums [groups, pieces] of s over a block's elements.
template <class T, int N>
__global__ void __launch_bounds__(THREADS, 4) copy_and_sum(const T* __restrict__ x, T* __restrict__ out,
                                                        float* __restrict__ sums, Layout l, int64_t pieces,
                                                        float divisor, float eps) {
  const int64_t group = blockIdx.x / pieces, i = (blockIdx.x % pieces * THREADS + threadIdx.x) * N;
  float sum = 0.0f;
  if (i < l.elements) {
    Members<T, N> members(x, l, group, i, divisor, eps);
    const int64_t at = l.extended(0, i);
    members.each([&](const Vec<T, N>& v, int64_t sample) { v.write(out + l.extended(sample, 0) + at); });
#pragma unroll
    for (int j = 0; j < N; ++j) sum += members.s.v[j];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// A block's pixels of one sample's additional channel, from sums [groups, pieces].
template <class T>
__global__ void __launch_bounds__(THREADS, 4) write_map(const float* __restrict__ sums, T* __restrict__ out, Layout l,
                                                     int64_t pieces, int64_t blocks) {
  const int64_t sample = blockIdx.x / blocks, pixel = blockIdx.x % blocks * THREADS + threadIdx.x;
  const float* of_group = sums + l.group_of(sample) * pieces;
  float sum = 0.0f;
  for (int64_t i = threadIdx.x; i < pieces; i += THREADS) sum += of_group[i];
  sum = block_sum(sum);
  if (pixel < l.plane) out[l.map(sample, pixel)] = narrow<T>(sum / float(l.elements));
}

// sums [N] of dy's additional channel over a sample, one block each.
template <class T>
__global__ void __launch_bounds__(THREADS, 4) sum_map(const T* __restrict__ dy, float* __restrict__ sums, Layout l) {
  float sum = 0.0f;
  for (int64_t i = threadIdx.x; i < l.plane; i += THREADS) sum += widen(dy[l.map(blockIdx.x, i)]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// dx = dy + q * d / s, q = the sum of the additional channel's gradient over the group / (divisor * elements).
template <class T, int N>
__global__ void __launch_bounds__(THREADS, 4) add_gradient(const T* __restrict__ dy, const T* __restrict__ x,
                                                        const float* __restrict__ sums, T* __restrict__ dx, Layout l,
                                                        int64_t pieces, float divisor, float eps) {
  const int64_t group = blockIdx.x / pieces, i = (blockIdx.x % pieces * THREADS + threadIdx.x) * N;
  if (i >= l.elements) return;
  float q = 0.0f;
  for (int64_t member = 0; member < l.group; ++member) q += sums[l.sample(group, member)];
  q /= divisor * float(l.elements);
  Members<T, N> members(x, l, group, i, divisor, eps);
  Vec<T, N> slope;
#pragma unroll
  for (int j = 0; j < N; ++j) slope.v[j] = q / members.s.v[j];
  const int64_t at = l.extended(0, i);
  members.each([&](const Vec<T, N>& v, int64_t sample) {
    auto g = Vec<T, N>::read(dy + l.extended(sample, 0) + at);
#pragma unroll
    for (int j = 0; j < N; ++j) g.v[j] += (v.v[j] - members.mean.v[j]) * slope.v[j];
    g.write(dx + sample * l.elements + i);
  });
}

// Elements that a thread takes: in channels_last rows one, since a channel more shifts each pixel's by one.
template <class T, class Args>
int elements_at_once(const Args& a, const void* extended, const void* dense) {
  const Shape& s = a.shape;
  const bool vectors = !s.channels_last && s.h * s.w % Vec<T>::SIZE == 0 && aligned(extended) && aligned(dense);
  return vectors && aligned(a.x) ? Vec<T>::SIZE : 1;
}

int64_t pieces_of(const Layout& l, int elements) { return ceil_div(l.elements, THREADS * elements); }

template <class T, int N>
cudaError_t forward(const MinibatchStddevForward& a, cudaStream_t stream) {
  const Layout l = layout_of(a);
  const int64_t pieces = pieces_of(l, N), blocks = ceil_div(l.plane, THREADS);
  RUN((copy_and_sum<T, N>), unsigned(l.groups * pieces), THREADS, 0, stream, static_cast<const T*>(a.x),
      static_cast<T*>(a.out), a.workspace, l, pieces, float(a.divisor), float(a.eps));
  RUN(write_map<T>, unsigned(a.shape.n * blocks), THREADS, 0, stream, a.workspace, static_cast<T*>(a.out), l, pieces,
      blocks);
  return cudaSuccess;
}

template <class T, int N>
cudaError_t backward(const MinibatchStddevBackward& a, cudaStream_t stream) {
  const Layout l = layout_of(a);
  const int64_t pieces = pieces_of(l, N);
  RUN(sum_map<T>, unsigned(a.shape.n), THREADS, 0, stream, static_cast<const T*>(a.dy), a.workspace, l);
  RUN((add_gradient<T, N>), unsigned(l.groups * pieces), THREADS, 0, stream, static_cast<const T*>(a.dy),
      static_cast<const T*>(a.x), a.workspace, static_cast<T*>(a.dx), l, pieces, float(a.divisor), float(a.eps));
  return cudaSuccess;
}

template <class Args>
bool is_empty(const Args& a) {
  return a.shape.n * a.shape.c * a.shape.h * a.shape.w == 0;
}

}  // namespace

int64_t minibatch_stddev_forward_workspace(const MinibatchStddevForward& a) {
  const Layout l = layout_of(a);
  return l.groups * pieces_of(l, 1);  // with vectors there are fewer pieces
}

int64_t minibatch_stddev_backward_workspace(const MinibatchStddevBackward& a) { return a.shape.n; }

cudaError_t minibatch_stddev_forward(const MinibatchStddevForward& a, cudaStream_t stream) {
  if (is_empty(a)) return cudaSuccess;
  return with_dtype(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    return elements_at_once<T>(a, a.out, a.x) > 1 ? forward<T, Vec<T>::SIZE>(a, stream) : forward<T, 1>(a, stream);
  });
}

cudaError_t minibatch_stddev_backward(const MinibatchStddevBackward& a, cudaStream_t stream) {
  if (is_empty(a)) return cudaSuccess;
  return with_dtype(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    return elements_at_once<T>(a, a.dy, a.dx) > 1 ? backward<T, Vec<T>::SIZE>(a, stream) : backward<T, 1>(a, stream);
  });
}

}  // namespace pggan::cuda
