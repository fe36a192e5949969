// Convolutions from a tile in shared memory, on tensor cores, and the blocks that stay to run one tile after another.
//
// A warp multiplies two rows of 16 pixels, shifted by tap, with the weights of all output channels.
#pragma once

#include "tile.cuh"

namespace pggan::cuda {

constexpr int MAX_THREADS = 256;  // a warp for two rows of a tile

// sums += one row of 16 pixels by the weights of N * 8 outputs: of one tap and k-step, for both of the warp's rows.
template <class P, int N>
DEVICE void multiply_rows(float (&sums)[2][N][4], const Operand<4>& upper, const Operand<4>& lower,
                          const unsigned char* weights, int units) {
#pragma unroll
  for (int n = 0; n < N; n += 2) {
    uint32_t raw[4];
    ldmatrix(raw, weights + n * 8 * units * 16);  // the swizzle repeats every 16 rows
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Operand<2> b = P::packed_operand({raw[2 * half], raw[2 * half + 1]});
      P::multiply(sums[0][n + half], upper, b);
      P::multiply(sums[1][n + half], lower, b);
    }
  }
}

// sums += two rows of 16 outputs of one phase, all taps and channels; `weights` are the phase's, and the first output's
// first tap meets pixel (row, column) of the tile (column 0 with stride 2). Where taps meet the same row of the tile,
// it is read once: the lower row's at one tap is the upper row's at the tap `stride` below.
template <class P, int N>
DEVICE void convolve(float (&sums)[2][N][4], const Taps& t, const Tile& s, const unsigned char* tile,
                     const unsigned char* weights, int first_row, int first_column) {
  const int lane = int(threadIdx.x) & 31;
  const auto read = [&](int unit) {
    uint32_t raw[4];
    ldmatrix(raw, tile + s.swizzle(unit) * 16);
    return P::operand(raw);
  };
  const int pitch = s.columns * s.units;
#pragma unroll 1
  for (int step = 0; step < s.units; step += 2) {
    const unsigned char* step_weights = weights + s.swizzle(row_of_b(lane) * s.units + half_of_b(lane) + step) * 16;
#pragma unroll 1
    for (int column = 0; column < t.taps; ++column) {
      const int pixel = s.place(first_column + column) + row_of_a(lane);
      const int unit = first_row * pitch + pixel * s.units + half_of_a(lane) + step;
#pragma unroll 1
      for (int parity = 0; parity < t.stride; ++parity) {
        Operand<4> upper = read(unit + parity * pitch);
#pragma unroll 1
        for (int row = parity; row < t.taps; row += t.stride) {
          const Operand<4> lower = read(unit + (row + t.stride) * pitch);
          multiply_rows<P>(sums, upper, lower, step_weights + (row * t.taps + column) * N * 8 * s.units * 16, s.units);
          upper = lower;
        }
      }
    }
  }
}

// As many blocks as are resident at a time, or fewer with equal work.
inline cudaError_t resident_blocks(const void* kernel, int threads, size_t shared, unsigned tiles, unsigned* grid) {
  const auto error = allow_shared(kernel, shared);
  if (error != cudaSuccess) return error;
  int each = 1;
  cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&each, kernel, threads, shared, cudaOccupancyDefault);
  const unsigned most = unsigned(multiprocessors() * (each > 1 ? each : 1)), waves = (tiles + most - 1) / most;
  *grid = (tiles + waves - 1) / waves;
  return cudaSuccess;
}

}  // namespace pggan::cuda
