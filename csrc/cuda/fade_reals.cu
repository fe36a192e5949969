// fade_reals: out = (1 - alpha) * up2(mean2x2(image)) + alpha * image, one thread per vector of 2x2 pixels.
#include "images.cuh"

namespace pggan::cuda {
namespace {

constexpr int THREADS = 256;

template <class Q, class T = typename Q::T>
__global__ void __launch_bounds__(THREADS)
    fade_reals_kernel(const T* __restrict__ image, const float* __restrict__ alpha, T* __restrict__ out, Lines l) {
  const float fade = read_alpha(alpha);
  const int64_t quads = l.elements / Q::N;
  for (int64_t i = blockIdx.x * int64_t(THREADS) + threadIdx.x; i < quads; i += int64_t(gridDim.x) * THREADS) {
    const int64_t first = l.high(i * Q::N);
    Q q = Q::read(image + first, l);
    const auto sum = q.sum();
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int j = 0; j < Q::N; ++j) q.v[k][j] = blend(0.25f * sum.v[j], q.v[k][j], fade);
    q.write(out + first, l);
  }
}

}  // namespace

cudaError_t fade_reals(const FadeReals& a, cudaStream_t stream) {
  const Lines l = lines_of(a.shape);
  if (l.elements == 0) return cudaSuccess;
  return with_dtype(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    return with_quad<T>(l, aligned(a.image) && aligned(a.out), [&](auto quad) {
      using Q = decltype(quad);
      RUN(fade_reals_kernel<Q>, grid_for(l.elements / Q::N, THREADS), THREADS, 0, stream,
          static_cast<const T*>(a.image), a.alpha, static_cast<T*>(a.out), l);
      return cudaSuccess;
    });
  });
}

}  // namespace pggan::cuda
