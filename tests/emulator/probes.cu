// Single operations on words that the tests compute again in numpy. One warp each.
#include "../../csrc/cuda/common.cuh"
#include "seeded.h"

namespace seeded {
namespace {

using namespace pggan;
using cuda::last_launch;
constexpr unsigned ALL = 0xffffffffu;
enum Mma { F16_PRODUCT, BF16_PRODUCT, TF32_PRODUCT };

// in: registers of each lane, [32, 4] of a, [32, 2] of b, [32, 4] of c; out: [32, 4] of d
template <Mma type>
__global__ void mma(const uint32_t* in, uint32_t* out) {
  const int lane = threadIdx.x;
  uint32_t a[4], b[2];
  float d[4];
  for (int r = 0; r < 4; ++r) a[r] = in[4 * lane + r];
  for (int r = 0; r < 2; ++r) b[r] = in[128 + 2 * lane + r];
  for (int r = 0; r < 4; ++r) memcpy(&d[r], in + 192 + 4 * lane + r, 4);
  if (type == F16_PRODUCT) mma_f16(d, a, b);
  if (type == BF16_PRODUCT) mma_bf16(d, a, b);
  if (type == TF32_PRODUCT) mma_tf32(d, a, b);
  for (int r = 0; r < 4; ++r) memcpy(out + 4 * lane + r, &d[r], 4);
}

// in: four 8x8 matrices of 16 bits, [32, 4] words; out: registers [32, 4]
template <bool transposed>
__global__ void matrices(const uint32_t* in, uint32_t* out) {
  SHARED(uint32_t, rows, 128);
  const int lane = threadIdx.x;
  store128_shared(rows + 4 * lane, load128(in + 4 * lane));
  __syncwarp();
  uint32_t r[4];
  if (transposed) ldmatrix_transposed(r, rows + 4 * lane);
  else ldmatrix(r, rows + 4 * lane);
  for (int k = 0; k < 4; ++k) out[4 * lane + k] = r[k];
}

// in: 32 values; out: [6, 32], the results of each shuffle, then a ballot of odd values, and of the lower half's
__global__ void shuffles(const uint32_t* in, uint32_t* out) {
  const int lane = threadIdx.x;
  const uint32_t x = in[lane];
  out[lane] = __shfl_sync(ALL, x, lane * 7);
  out[32 + lane] = __shfl_up_sync(ALL, x, 3, 8);
  out[64 + lane] = __shfl_down_sync(ALL, x, 5, 16);
  out[96 + lane] = __shfl_xor_sync(ALL, x, 9);
  out[128 + lane] = __ballot_sync(ALL, x % 2);
  if (lane < 16) out[160 + lane] = __ballot_sync(0xffffu, x % 2);
  else out[160 + lane] = __ballot_sync(0xffff0000u, x % 2);
}

// in: 128 words; out: the same, every other four of them zeros
__global__ void copies(const uint32_t* in, uint32_t* out) {
  SHARED(uint32_t, tile, 128);
  const int lane = threadIdx.x;
  const bool real = lane % 2 == 0;
  copy_async(tile + 4 * lane, real ? in + 4 * lane : nullptr, real);
  copy_commit();
  copy_wait<0>();
  __syncwarp();
  for (int k = 0; k < 4; ++k) out[32 * k + lane] = tile[32 * k + lane];
}

// in: floats; out: TF32
__global__ void tf32(const uint32_t* in, uint32_t* out) {
  for (int i = threadIdx.x; i < 128; i += 32) {
    float x;
    memcpy(&x, in + i, 4);
    out[i] = round_tf32(x);
  }
}

// in: 32 numbers; out: their sums as int, unsigned and float, by atomics, after zeros
__global__ void sums(const uint32_t* in, uint32_t* out) {
  if (threadIdx.x < 3) out[threadIdx.x] = 0;
  __syncwarp();
  const uint32_t x = in[threadIdx.x];
  atomicAdd(reinterpret_cast<int*>(out), int(x));
  atomicAdd(out + 1, x);
  atomicAdd(reinterpret_cast<float*>(out + 2), float(x));
}

// Known traffic. Device memory: words in a row, every fourth word, 16 bytes a lane. Shared memory: rows of 33 words and
// of 32, written along and read across.
__global__ void patterns(const uint32_t* in, uint32_t* out) {
  SHARED(uint32_t, padded, 33 * 32);
  SHARED(uint32_t, dense, 32 * 32);
  const int lane = threadIdx.x;
  uint32_t sum = in[lane];
  sum += in[4 * lane];
  sum += load128(in + 4 * lane).x;
  for (int row = 0; row < 32; ++row) padded[33 * row + lane] = sum;
  for (int row = 0; row < 32; ++row) dense[32 * row + lane] = sum;
  __syncthreads();
  for (int column = 0; column < 32; ++column) sum += padded[33 * lane + column];
  for (int column = 0; column < 32; ++column) sum += dense[32 * lane + column];
  out[lane] = sum;
}

#define PROBE(name, kernel)                                      \
  {                                                              \
    name, [](const uint32_t* in, uint32_t* out) -> cudaError_t { \
      RUN(kernel, 1, 32, 0, nullptr, in, out);                   \
      return cudaSuccess;                                        \
    }                                                            \
  }

const Probe PROBES[] = {
    PROBE("mma_f16", mma<F16_PRODUCT>),
    PROBE("mma_bf16", mma<BF16_PRODUCT>),
    PROBE("mma_tf32", mma<TF32_PRODUCT>),
    PROBE("ldmatrix", matrices<false>),
    PROBE("ldmatrix_transposed", matrices<true>),
    PROBE("shuffles", shuffles),
    PROBE("copies", copies),
    PROBE("tf32", tf32),
    PROBE("sums", sums),
    PROBE("patterns", patterns),
};

}  // namespace

List<Probe> probes() { return {PROBES, sizeof PROBES / sizeof *PROBES}; }

}  // namespace seeded
