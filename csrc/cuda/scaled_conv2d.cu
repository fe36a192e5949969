// scaled_conv2d: convolutions of at most 64 channels, with their resampling and the layer's epilogue, on tensor cores.
//
// Blocks stay: each keeps all weights in shared memory, and takes tile after tile of outputs, while the input of its
// next tile is on its way. An input pixel is read once for all taps, phases and output channels. A warp multiplies two
// rows of 16 pixels, shifted by tap, with the weights of all output channels: a pixel's norm is in its registers.
#include "conv_epilogue.cuh"
#include "conv_tile.cuh"

namespace pggan::cuda {
namespace {

// Blocks a multiprocessor at least, of 8 * N outputs: of few channels shared memory has room for several.
template <class T, int N>
constexpr int RESIDENT = N * sizeof(T) < 8 ? 3 : N * sizeof(T) < 16 ? 2 : 1;

struct Problem {
  Taps taps;
  Tile tile;
  Image image;
  Epilogue epilogue;
  const void *x, *packed;
  void* y;
  float* r;
  uint8_t* mask;
  int grid_h, grid_w;  // outputs per phase, before the pool
  int rows, buffers;   // of outputs in a tile: 2 a warp; of tiles in shared memory
  unsigned tiles_h, tiles_w, tiles;
  int weight_rows;  // of all phases and taps, each the inputs of one output
  bool pool, whole;  // whole: y's pixels are whole units

  DEVICE int tap_rows() const { return weight_rows / (taps.phases * taps.phases); }
};

int weight_bytes(const Problem& p) { return padded_bytes(p.weight_rows * p.tile.units); }

size_t shared_bytes(const Problem& p) {
  return size_t(weight_bytes(p)) + size_t(p.buffers) * p.tile.bytes() + sizeof(float) * MAX_CONV_CHANNELS;
}

struct Place {  // the first output of a tile, in a phase
  int n, i, j;
};

DEVICE Place place_of(const Problem& p, unsigned tile) {
  const unsigned row = tile / p.tiles_w;
  return {int(row / p.tiles_h), int(row % p.tiles_h) * p.rows, int(tile % p.tiles_w) * TILE_COLUMNS};
}

template <class T>
DEVICE void load_input(unsigned char* to, const Problem& p, unsigned tile) {
  const Place at = place_of(p, tile);
  const T* image = static_cast<const T*>(p.x) + int64_t(at.n) * p.image.height * p.image.width * p.image.channels;
  const int s = p.taps.stride, halo = p.taps.halo;
  load_tile(to, p.tile, image, p.image, at.i * s - halo, at.j * s - halo);
  copy_commit();
}

template <class T, int N>
DEVICE void finish(float (&sums)[2][N][4], const Problem& p, const float* bias, const Place& at, int a, int b) {
  const Epilogue& e = p.epilogue;
  const int phases = p.taps.phases, channels = e.channels, pixels = p.grid_w - at.j;
  const int lane = int(threadIdx.x) & 31;
  const int64_t width = int64_t(phases) * p.grid_w, image_row = int64_t(at.n) * phases * p.grid_h;
  T* y = static_cast<T*>(p.y);
  float r[2][2] = {};
  add_bias(sums, bias, channels);
  if (p.mask != nullptr) {
    uint8_t* mask = p.mask + ((image_row + at.i) * width + at.j) * ((channels + 7) / 8);
#pragma unroll
    for (int row = 0; row < 2; ++row)
      store_mask(sums[row], mask + row * width * ((channels + 7) / 8), pixels, channels);
  }
  activate(sums, r, e);
  if (p.pool) {
    T* to = y + ((image_row + at.i) / 2 * (width / 2) + at.j / 2) * channels;
    store_pooled(sums, to, pixels / 2, channels, p.whole);
    return;
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    if (at.i + row >= p.grid_h) return;
    const int64_t pixel = (image_row + phases * (at.i + row) + a) * width + phases * at.j + b;
    store_row(sums[row], y + pixel * channels, phases * channels, 0, pixels, channels, p.whole);
    const int half = lane & 3, column = lane / 4 + 8 * half;
    if (p.r != nullptr && half < 2 && column < pixels) p.r[pixel + phases * column] = half ? r[row][1] : r[row][0];
  }
}

template <class P, int N>
DEVICE void compute_tile(const Problem& p, const unsigned char* tile, const unsigned char* weights, const float* bias,
                         unsigned number) {
  const int warp_row = int(threadIdx.x) / 32 * 2;
  Place at = place_of(p, number);
  at.i += warp_row;
  if (at.i >= p.grid_h) return;  // of the whole warp
#pragma unroll 1
  for (int phase = 0; phase < p.taps.phases * p.taps.phases; ++phase) {
    const int a = phase / p.taps.phases, b = phase % p.taps.phases;
    float sums[2][N][4] = {};
    const unsigned char* own = weights + phase * p.tap_rows() * p.tile.units * 16;
    convolve<P>(sums, p.taps, p.tile, tile, own, warp_row * p.taps.stride + a * p.taps.shift, b * p.taps.shift);
    finish<typename P::Element>(sums, p, bias, at, a, b);
  }
}

template <class P, int N>
__global__ void __launch_bounds__(MAX_THREADS, RESIDENT<typename P::Element, N>)
    scaled_conv2d_kernel(const Problem p, int weight_size, int tile_size) {
  using T = typename P::Element;
  SHARED_DYNAMIC(weights);
  unsigned char* tiles = weights + weight_size;
  float* bias = reinterpret_cast<float*>(tiles + p.buffers * tile_size);
  load_rows(weights, p.packed, p.weight_rows, p.tile.units, p.tile.swizzle);
  for (int c = int(threadIdx.x); c < 8 * N; c += int(blockDim.x)) bias[c] = p.epilogue.bias_of(c);
  load_input<T>(tiles, p, blockIdx.x);
  int current = 0;
  for (unsigned number = blockIdx.x; number < p.tiles; number += gridDim.x) {
    const unsigned next = number + gridDim.x;
    copy_wait<0>();
    __syncthreads();  // this tile has come, and everyone is done with the one before
    if (p.buffers == 2 && next < p.tiles) load_input<T>(tiles + (1 - current) * tile_size, p, next);
    compute_tile<P, N>(p, tiles + current * tile_size, weights, bias, number);
    if (p.buffers == 2) {
      current = 1 - current;
    } else if (next < p.tiles) {
      __syncthreads();
      load_input<T>(tiles, p, next);
    }
  }
}

Problem problem_of(const ScaledConv2d& a) {
  const int size = a.dtype == F32 ? 4 : 2;
  const Taps taps = taps_of(a.resample, a.k);
  const int units = units_of(a.in_channels, size);
  Problem p{taps, input_tile(taps, MAX_THREADS / 16, units), Image(a.h, a.w, a.in_channels, size, a.x),
            Epilogue(a.epilogue, a.out_channels)};
  p.x = a.x, p.packed = a.packed, p.y = a.y, p.r = a.r, p.mask = a.mask;
  p.grid_h = int(a.h / taps.stride), p.grid_w = int(a.w / taps.stride);
  p.weight_rows = taps.phases * taps.phases * taps.taps * taps.taps * 8 * n_tiles(a.out_channels);
  p.pool = a.pool;
  p.whole = a.out_channels * size % 16 == 0 && aligned(a.y);
  return p;
}

// The largest tile that fits the device, but no larger than the image; two of them where that fits, to load one while
// computing on the other. False where none fits.
bool choose_tile(Problem& p) {
  const size_t most = shared_memory_of_a_block();
  for (p.rows = MAX_THREADS / 16; p.rows >= 4; p.rows /= 2) {
    if (p.rows > 4 && p.rows / 2 >= p.grid_h) continue;
    p.tile = input_tile(p.taps, p.rows, p.tile.units);
    for (p.buffers = 2; p.buffers >= 1; --p.buffers)
      if (shared_bytes(p) <= most) return true;
  }
  return false;
}

template <class P, int N>
cudaError_t run(const Problem& p, cudaStream_t stream) {
  const size_t shared = shared_bytes(p);
  unsigned grid = 1;
  const auto kernel = scaled_conv2d_kernel<P, N>;
  const int threads = p.rows * 16;
  const auto error = resident_blocks(reinterpret_cast<const void*>(kernel), threads, shared, p.tiles, &grid);
  if (error != cudaSuccess) return error;
  RUN((scaled_conv2d_kernel<P, N>), grid, unsigned(threads), shared, stream, p, weight_bytes(p), p.tile.bytes());
  return cudaSuccess;
}

bool too_large(const ScaledConv2d& a) {
  return a.in_channels > MAX_CONV_CHANNELS || a.out_channels > MAX_CONV_CHANNELS || a.h >= 1 << 29 || a.w >= 1 << 29;
}

}  // namespace

int64_t scaled_conv2d_rows(const ScaledConv2d& a) {
  if (too_large(a)) return 0;
  Problem p = problem_of(a);
  return choose_tile(p) ? p.rows : 0;
}

cudaError_t scaled_conv2d(const ScaledConv2d& a, cudaStream_t stream) {
  if (a.n * a.h * a.w * a.out_channels == 0) return cudaSuccess;
  if (too_large(a)) return cudaErrorInvalidValue;
  Problem p = problem_of(a);
  if (!choose_tile(p) || !aligned(a.packed)) return cudaErrorInvalidValue;
  const int64_t tiles_h = ceil_div(p.grid_h, p.rows), tiles_w = ceil_div(p.grid_w, TILE_COLUMNS);
  if (a.n * tiles_h * tiles_w >= int64_t(1) << 31) return cudaErrorInvalidValue;
  p.tiles_h = unsigned(tiles_h), p.tiles_w = unsigned(tiles_w), p.tiles = unsigned(a.n * tiles_h * tiles_w);
  return with_product(a.dtype, a.ieee, [&](auto product) {
    using P = decltype(product);
    switch (n_tiles(a.out_channels)) {
      case 2: return run<P, 2>(p, stream);
      case 4: return run<P, 4>(p, stream);
      default: return run<P, 8>(p, stream);
    }
  });
}

}  // namespace pggan::cuda
