// pack_weight: a convolution's weights as scaled_conv2d multiplies with them, one thread an element.
#include "tile.cuh"

namespace pggan::cuda {
namespace {

constexpr int THREADS = 256;

// Whether element kk of the kernel's k in one direction is a term of packed tap `tap` of `phase`.
DEVICE bool contributes(int kk, int tap, int phase, int k, int resample) {
  if (resample == RESAMPLE_UP) return k == 1 || (phase + kk + 1) / 2 - phase == tap;
  if (resample == RESAMPLE_DOWN) return tap == kk || tap == kk + 1;
  return tap == kk;
}

struct Packing {
  PackWeight a;
  Taps taps;
  int outputs, inputs;                    // of the convolution that is run
  int padded_outputs, padded_inputs;      // of `packed`
  int64_t output_step, input_step, total;  // in weight; elements of packed
  float scale;

  explicit Packing(const PackWeight& w) : a(w), taps(taps_of(w.resample, w.k)) {
    const int size = w.dtype == F32 ? 4 : 2;
    outputs = int(w.adjoint ? w.in_channels : w.out_channels);
    inputs = int(w.adjoint ? w.out_channels : w.in_channels);
    padded_outputs = 8 * n_tiles(outputs);
    padded_inputs = units_of(inputs, size) * 16 / size;
    output_step = w.adjoint ? w.k * w.k : w.k * w.k * w.in_channels;
    input_step = w.adjoint ? w.k * w.k * w.in_channels : w.k * w.k;
    total = int64_t(taps.phases) * taps.phases * taps.taps * taps.taps * padded_outputs * padded_inputs;
    scale = float(w.resample == RESAMPLE_DOWN ? 0.25 * w.scale : w.scale);  // the mean of four
  }
};

template <class T>
__global__ void __launch_bounds__(THREADS) pack_weight_kernel(const Packing p) {
  const int k = int(p.a.k), taps = p.taps.taps, phases = p.taps.phases;
  for (int64_t i = blockIdx.x * int64_t(THREADS) + threadIdx.x; i < p.total; i += int64_t(gridDim.x) * THREADS) {
    const int input = int(i % p.padded_inputs), output = int(i / p.padded_inputs % p.padded_outputs);
    const int at = int(i / p.padded_inputs / p.padded_outputs), tap = at % (taps * taps), phase = at / (taps * taps);
    float sum = 0.0f;
    if (input < p.inputs && output < p.outputs) {
      const int64_t first = output * p.output_step + input * p.input_step;
      for (int e = 0; e < k * k; ++e) {
        const bool term = contributes(e / k, tap / taps, phase / phases, k, p.a.resample) &&
                          contributes(e % k, tap % taps, phase % phases, k, p.a.resample);
        if (term) sum += read_parameter(p.a.weight, p.a.weight_dtype, first + (p.a.adjoint ? k * k - 1 - e : e));
      }
    }
    sum *= p.scale;
    if (p.a.dtype == F32 && !p.a.ieee) sum = float_of(round_tf32(sum));
    static_cast<T*>(p.a.packed)[i] = narrow<T>(sum);
  }
}

}  // namespace

int64_t pack_weight_elements(const PackWeight& a) { return Packing(a).total; }

cudaError_t pack_weight(const PackWeight& a, cudaStream_t stream) {
  const Packing p(a);
  if (p.total == 0) return cudaSuccess;
  return with_dtype(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    RUN(pack_weight_kernel<T>, grid_for(p.total, THREADS), THREADS, 0, stream, p);
    return cudaSuccess;
  });
}

}  // namespace pggan::cuda
