// fade_reals: out = (1 - alpha) * up2(mean2x2(image)) + alpha * image, one thread per 2x2 pixels of a plane or channel.
#include "common.cuh"

namespace pggan::cuda {
namespace {

constexpr int THREADS = 256;

// Strides of a dense tensor in either layout.
struct Steps {
  int64_t n, c, h, w;
};

Steps steps_of(const Shape& s) {
  if (s.channels_last) return {s.h * s.w * s.c, 1, s.w * s.c, s.c};
  return {s.c * s.h * s.w, s.h * s.w, s.w, 1};
}

template <class T>
__global__ void __launch_bounds__(THREADS) fade_reals_kernel(const T* image, const float* alpha, T* out, Shape s, Steps at) {
  const float fade = read_alpha(alpha);
  const int64_t columns = s.w / 2, quads = s.n * s.c * (s.h / 2) * columns;
  for (int64_t i = blockIdx.x * int64_t(THREADS) + threadIdx.x; i < quads; i += int64_t(gridDim.x) * THREADS) {
    // Neighbouring threads take neighbouring elements in memory.
    const int64_t c = s.channels_last ? i % s.c : i / (columns * (s.h / 2)) % s.c;
    const int64_t q = s.channels_last ? i / s.c : i % (columns * (s.h / 2)) + i / (columns * (s.h / 2) * s.c) * columns * (s.h / 2);
    const int64_t first = q / columns / (s.h / 2) * at.n + c * at.c + q / columns % (s.h / 2) * 2 * at.h + q % columns * 2 * at.w;
    float v[4], sum = 0.0f;
#pragma unroll
    for (int k = 0; k < 4; ++k) sum += v[k] = widen(image[first + k / 2 * at.h + k % 2 * at.w]);
#pragma unroll
    for (int k = 0; k < 4; ++k)
      out[first + k / 2 * at.h + k % 2 * at.w] = narrow<T>((1.0f - fade) * (0.25f * sum) + fade * v[k]);
  }
}

}  // namespace

cudaError_t fade_reals(const FadeReals& a, cudaStream_t stream) {
  const int64_t quads = a.shape.n * a.shape.c * (a.shape.h / 2) * (a.shape.w / 2);
  if (quads == 0) return cudaSuccess;
  return with_dtype(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    RUN(fade_reals_kernel<T>, grid_for(quads, THREADS), THREADS, 0, stream, static_cast<const T*>(a.image), a.alpha,
        static_cast<T*>(a.out), a.shape, steps_of(a.shape));
    return cudaSuccess;
  });
}

}  // namespace pggan::cuda
