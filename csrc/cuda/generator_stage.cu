// generator_stage: a whole block of the generator in one launch, for sampling: convolution after nearest x2, second
// convolution, and toRGB blended with what the level below shows.
//
// What lies between the convolutions never leaves the multiprocessor: a block computes 2 R x 32 pixels of the first one
// into shared memory, zeros outside of the image, and the second one on the (2 R - 2) x 30 pixels within. The margin is
// computed again by the neighbours. Each of the first one's four phases is R x 16 pixels, two rows a warp, and all take
// the same (R + 1) x 17 pixels of x.
#include "conv_epilogue.cuh"
#include "conv_tile.cuh"
#include "rgb.cuh"

namespace pggan::cuda {
namespace {

constexpr Taps UP = taps_of(RESAMPLE_UP, 3), CONV = taps_of(RESAMPLE_NONE, 3);
constexpr int UP_TAPS = UP.taps * UP.taps, CONV_TAPS = CONV.taps * CONV.taps, PHASES = UP.phases * UP.phases;
constexpr int HIGH_COLUMNS = 2 * TILE_COLUMNS, OUTPUT_COLUMNS = HIGH_COLUMNS - 2;

struct Stage {
  GeneratorStage a;
  Image image;     // x
  Tile low, high;  // of x, and of what is between the convolutions
  Epilogue after_up, after;
  int rows;              // R, of x
  int inputs, outputs;   // padded channels
  unsigned tiles_h, tiles_w, tiles;
  bool whole;  // y's pixels are whole units
  int up_bytes, conv_bytes, low_bytes, high_bytes;  // of weights and tiles, in shared memory

  DEVICE bool blends() const { return a.low.weight != nullptr; }
  DEVICE int output_rows() const { return 2 * rows - 2; }
  // An image's tile is so many lines of so many elements, which follow each other in memory.
  DEVICE int lines() const { return a.image_channels_last ? output_rows() : output_rows() * int(a.image_channels); }
  DEVICE int line() const { return a.image_channels_last ? OUTPUT_COLUMNS * int(a.image_channels) : OUTPUT_COLUMNS; }
};

// The shared memory of a block.
struct Memory {
  unsigned char *up_weights, *weights, *low, *high;
  float *bias_up, *bias;    // [outputs]
  float *w_high, *w_low;    // [outputs, K], [inputs, K], by their parts of the blend
  float *rgb_bias, *shown;  // [K], [R, 16, K]: what x shows
  void* image;              // [lines, line]

  DEVICE Memory(unsigned char* start, const Stage& p) : up_weights(start) {
    weights = up_weights + p.up_bytes;
    low = weights + p.conv_bytes;
    high = low + p.low_bytes;
    bias_up = reinterpret_cast<float*>(high + p.high_bytes);
    bias = bias_up + p.outputs;
    w_high = bias + p.outputs;
    w_low = w_high + p.outputs * K;
    rgb_bias = w_low + p.inputs * K;
    shown = rgb_bias + K;
    image = shown + p.rows * TILE_COLUMNS * K;
  }
};

size_t shared_bytes(const Stage& p) {
  const int floats = 2 * p.outputs + K * (p.outputs + p.inputs + 1 + p.rows * TILE_COLUMNS);
  const int image = int(p.a.image_channels) * (2 * p.rows - 2) * OUTPUT_COLUMNS;
  return size_t(p.up_bytes + p.conv_bytes + p.low_bytes + p.high_bytes) + sizeof(float) * size_t(floats) +
         size_t(p.a.dtype == F32 ? 4 : 2) * size_t(image);
}

struct Place {  // the first output of a tile
  int n, i, j;
};

DEVICE Place place_of(const Stage& p, unsigned tile) {
  const unsigned row = tile / p.tiles_w;
  return {int(row / p.tiles_h), int(row % p.tiles_h) * p.output_rows(), int(tile % p.tiles_w) * OUTPUT_COLUMNS};
}

DEVICE void load_parameters(const Memory& m, const Stage& p) {
  load_rows(m.up_weights, p.a.packed_up, PHASES * UP_TAPS * p.outputs, p.low.units, p.low.swizzle);
  load_rows(m.weights, p.a.packed, CONV_TAPS * p.outputs, p.high.units, p.high.swizzle);
  for (int c = int(threadIdx.x); c < p.outputs; c += int(blockDim.x)) {
    m.bias_up[c] = p.after_up.bias_of(c);
    m.bias[c] = p.after.bias_of(c);
  }
  if (p.a.image == nullptr) return;
  const float fade = p.blends() ? read_alpha(p.a.alpha) : 1.0f;
  stage_weights<1>(p.a.high, p.a.channels, p.outputs, p.a.image_channels, fade, m.w_high, blockDim.x);
  if (p.blends())
    stage_weights<1>(p.a.low, p.a.in_channels, p.inputs, p.a.image_channels, 1.0f - fade, m.w_low, blockDim.x);
  const int k = int(threadIdx.x);
  if (k >= p.a.image_channels) return;
  m.rgb_bias[k] = p.blends() ? blend(rgb_bias(p.a.low, k), rgb_bias(p.a.high, k), fade) : rgb_bias(p.a.high, k);
}

template <class T>
DEVICE void load_low(const Memory& m, const Stage& p, unsigned tile) {
  const Place at = place_of(p, tile);
  const T* image = static_cast<const T*>(p.a.x) + int64_t(at.n) * p.image.height * p.image.width * p.image.channels;
  load_tile(m.low, p.low, image, p.image, at.i / 2 - 1, at.j / 2 - 1);
  copy_commit();
}

// The sums of two rows from `row` on and of every second column, as elements of the tile between; zeros outside.
template <class T, int N>
DEVICE void keep_rows(const float (&v)[2][N][4], const Memory& m, const Stage& p, const Place& at, int row,
                      int column) {
  const int g = int(threadIdx.x) / 4 % 8, t = int(threadIdx.x) & 3;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int y = row + k / 2 * 2, x = column + 2 * (g + k % 2 * 8), unit = (y * HIGH_COLUMNS + x) * p.high.units;
    const bool inside = unsigned(at.i - 1 + y) < unsigned(p.a.h) && unsigned(at.j - 1 + x) < unsigned(p.a.w);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const int byte = (8 * n + 2 * t) * int(sizeof(T));
      if (byte / 16 >= p.high.units) continue;
      const float* two = v[k / 2][n] + k % 2 * 2;
      const Vec<T, 2> pair{{inside ? two[0] : 0.0f, inside ? two[1] : 0.0f}};
      pair.write(reinterpret_cast<T*>(m.high + p.high.swizzle(unit + byte / 16) * 16 + byte % 16));
    }
  }
}

template <class P, int N>
DEVICE void first_convolution(const Memory& m, const Stage& p, const Place& at) {
  constexpr Taps taps = UP;
  const int row = int(threadIdx.x) / 32 * 2;
#pragma unroll 1
  for (int phase = 0; phase < PHASES; ++phase) {
    float sums[2][N][4] = {}, r[2][2];
    convolve<P>(sums, taps, p.low, m.low, m.up_weights + phase * UP_TAPS * p.outputs * p.low.units * 16, row, 0);
    add_bias(sums, m.bias_up, p.after_up.channels);
    activate(sums, r, p.after_up);
    // The tile begins at an odd pixel, so phase 1 has its first row (or column) and phase 0 the one after.
    keep_rows<typename P::Element>(sums, m, p, at, 2 * row + 1 - phase / 2, 1 - phase % 2);
  }
}

// toRGB of x, a pixel a thread.
template <class T>
DEVICE void show_low(const Memory& m, const Stage& p) {
  const int i = int(threadIdx.x), row = i / TILE_COLUMNS + 1, column = i % TILE_COLUMNS + 1;
  Vec<float, K> sums{};
  for (int unit = 0; unit < p.low.units; ++unit) {
    const int at = p.low.swizzle((row * p.low.columns + column) * p.low.units + unit);
    const auto v = Vec<T>::read(reinterpret_cast<const T*>(m.low + at * 16));
#pragma unroll
    for (int j = 0; j < v.SIZE; ++j) {
      const auto w = Vec<float, K>::read(m.w_low + (unit * v.SIZE + j) * K);
#pragma unroll
      for (int k = 0; k < K; ++k) sums.v[k] += w.v[k] * v.v[j];
    }
  }
  sums.write_shared(m.shown + i * K);
}

// Two rows of the image from pixel `first` of 16 on, to the tile, in which they begin at (row, column).
template <class T, int N>
DEVICE void show_rows(const float (&v)[2][N][4], const Memory& m, const Stage& p, int row, int column, int first) {
  const int c = int(p.a.image_channels), right = p.a.image_channels_last ? c : 1;
  const int channel = p.a.image_channels_last ? 1 : p.output_rows() * OUTPUT_COLUMNS;
  T* image = static_cast<T*>(m.image);
  to_rgb(v, m.w_high, [&](int lower, int pixel, int k, float value) {
    if (pixel < first || k >= c) return;
    value += m.rgb_bias[k];
    if (p.blends()) value += m.shown[(row / 2 * TILE_COLUMNS + (column + pixel) / 2) * K + k];
    image[((row + lower) * OUTPUT_COLUMNS + column + pixel) * right + k * channel] = narrow<T>(value);
  });
}

// The tile of the image to memory, a line a warp, in pairs: all widths are even.
template <class T>
DEVICE void store_image(const Memory& m, const Stage& p, const Place& at) {
  using Pair = typename Word<2 * sizeof(T)>::Type;
  const bool rows = p.a.image_channels_last;
  const int64_t c = p.a.image_channels, columns = p.a.w - at.j;
  const int pairs = int(columns < OUTPUT_COLUMNS ? columns * (rows ? c : 1) : p.line()) / 2;
  for (int line = int(threadIdx.x) / 32; line < p.lines(); line += int(blockDim.x) / 32) {
    const int k = line / p.output_rows(), i = at.i + line - k * p.output_rows();
    if (i >= p.a.h) continue;
    const int64_t first = rows ? ((at.n * p.a.h + i) * p.a.w + at.j) * c : ((at.n * c + k) * p.a.h + i) * p.a.w + at.j;
    const Pair* from = reinterpret_cast<const Pair*>(static_cast<const T*>(m.image) + line * p.line());
    Pair* to = reinterpret_cast<Pair*>(static_cast<T*>(p.a.image) + first);
    for (int e = int(threadIdx.x) & 31; e < pairs; e += 32) to[e] = from[e];
  }
}

template <class P, int N>
DEVICE void second_convolution(const Memory& m, const Stage& p, const Place& at) {
  using T = typename P::Element;
  constexpr Taps taps = CONV;
#pragma unroll 1
  for (int part = 0; part < 4; ++part) {
    // Columns 0 to 15 and 14 to 29, the last of 30
    const int row = int(threadIdx.x) / 32 * 2 + part / 2 * p.rows;
    const int column = part % 2 * (OUTPUT_COLUMNS - TILE_COLUMNS), first = part % 2 * (HIGH_COLUMNS - OUTPUT_COLUMNS);
    const int end = int(p.a.w) - at.j - column;
    if (row >= p.output_rows() || at.i + row >= p.a.h || end <= first) continue;  // of the whole warp
    float sums[2][N][4] = {}, r[2][2];
    convolve<P>(sums, taps, p.high, m.high, m.weights, row, column);
    add_bias(sums, m.bias, p.after.channels);
    activate(sums, r, p.after);
    if (p.a.image != nullptr) {
      show_rows<T>(sums, m, p, row, column, first);
      continue;
    }
    T* y = static_cast<T*>(p.a.y) + ((at.n * p.a.h + at.i + row) * p.a.w + at.j + column) * p.a.channels;
    const int channels = p.after.channels;
#pragma unroll
    for (int lower = 0; lower < 2; ++lower)
      store_row(sums[lower], y + lower * p.a.w * channels, channels, first, end, channels, p.whole);
  }
}

// Of few channels two blocks fit a multiprocessor's shared memory.
template <class P, int N>
__global__ void __launch_bounds__(MAX_THREADS, N == 2 ? 2 : 1) generator_stage_kernel(const Stage p) {
  using T = typename P::Element;
  SHARED_DYNAMIC(start);
  const Memory m(start, p);
  load_parameters(m, p);
  load_low<T>(m, p, blockIdx.x);
  for (unsigned tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
    const Place at = place_of(p, tile);
    copy_wait<0>();
    __syncthreads();  // x has come, and everyone is done with the tile before
    first_convolution<P, N>(m, p, at);
    if (p.blends()) show_low<T>(m, p);
    __syncthreads();
    if (tile + gridDim.x < p.tiles) load_low<T>(m, p, tile + gridDim.x);  // while the second convolution runs
    second_convolution<P, N>(m, p, at);
    if (p.a.image == nullptr) continue;
    __syncthreads();
    store_image<T>(m, p, at);
  }
}

Stage stage_of(const GeneratorStage& a, int rows) {
  const int size = a.dtype == F32 ? 4 : 2;
  const int low_units = units_of(a.in_channels, size), units = units_of(a.channels, size);
  Stage p{a, Image(a.h / 2, a.w / 2, a.in_channels, size, a.x), Tile(rows + 1, TILE_COLUMNS + 1, low_units, 1),
          Tile(2 * rows, HIGH_COLUMNS, units, 1), Epilogue(a.after_up, a.channels), Epilogue(a.after, a.channels)};
  p.rows = rows;
  p.inputs = low_units * 16 / size, p.outputs = 8 * n_tiles(a.channels);
  p.whole = a.channels * size % 16 == 0 && aligned(a.y);
  p.up_bytes = padded_bytes(PHASES * UP_TAPS * p.outputs * low_units);
  p.conv_bytes = padded_bytes(CONV_TAPS * p.outputs * units);
  p.low_bytes = p.low.bytes(), p.high_bytes = p.high.bytes();
  return p;
}

template <class P, int N>
cudaError_t run(const Stage& p, cudaStream_t stream) {
  const size_t shared = shared_bytes(p);
  const int threads = p.rows * TILE_COLUMNS;
  unsigned grid = 1;
  const auto kernel = generator_stage_kernel<P, N>;
  const auto error = resident_blocks(reinterpret_cast<const void*>(kernel), threads, shared, p.tiles, &grid);
  if (error != cudaSuccess) return error;
  RUN((generator_stage_kernel<P, N>), grid, unsigned(threads), shared, stream, p);
  return cudaSuccess;
}

}  // namespace

int64_t generator_stage_rows(const GeneratorStage& a) {
  if (a.in_channels > MAX_CONV_CHANNELS || a.channels > MAX_CONV_CHANNELS || a.h >= 1 << 29 || a.w >= 1 << 29) return 0;
  for (int rows = MAX_THREADS / TILE_COLUMNS; rows >= 4; rows /= 2) {
    if (rows > 4 && rows - 2 >= a.h) continue;  // half as many do
    if (shared_bytes(stage_of(a, rows)) <= shared_memory_of_a_block()) return rows;
  }
  return 0;
}

cudaError_t generator_stage(const GeneratorStage& a, cudaStream_t stream) {
  if (a.n * a.h * a.w * a.channels == 0) return cudaSuccess;
  const int rows = int(generator_stage_rows(a));
  if (rows == 0 || !aligned(a.packed_up) || !aligned(a.packed) || !aligned(a.image)) return cudaErrorInvalidValue;
  Stage p = stage_of(a, rows);
  const int64_t tiles_h = ceil_div(a.h, 2 * rows - 2), tiles_w = ceil_div(a.w, OUTPUT_COLUMNS);
  if (a.n * tiles_h * tiles_w >= int64_t(1) << 31) return cudaErrorInvalidValue;
  p.tiles_h = unsigned(tiles_h), p.tiles_w = unsigned(tiles_w), p.tiles = unsigned(a.n * tiles_h * tiles_w);
  return with_product(a.dtype, a.ieee, [&](auto product) {
    using P = decltype(product);
    switch (n_tiles(a.channels)) {
      case 2: return run<P, 2>(p, stream);
      case 4: return run<P, 4>(p, stream);
      default: return run<P, 8>(p, stream);
    }
  });
}

}  // namespace pggan::cuda
