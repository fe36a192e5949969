// scaled_conv2d: convolutions of at most 64 channels, with their resampling and the layer's epilogue, on tensor cores.
//
// Blocks stay: each keeps all weights in shared memory, and takes tile after tile of outputs, while the input of its
// next tile is on its way. An input pixel is read once for all taps, phases and output channels, and a pixel's norm is
// in the registers of four lanes.
//
// At the networks' ends the image takes the place of features: conv_from_rgb computes its tiles by fromRGB, and
// conv_to_rgb stores what toRGB makes of its results, blended with the image of the level below.
#include "conv_epilogue.cuh"
#include "conv_tile.cuh"
#include "rgb.cuh"

namespace pggan::cuda {
namespace {

// An image at one end of the convolution.
struct Rgb {
  void* image = nullptr;
  const void* low = nullptr;  // of the level below, or null
  Pointwise conv{};
  const float* alpha = nullptr;
  float slope = 1.0f;
  int channels = 0;
  bool channels_last = true;
};

// What the convolution reads and stores.
struct Features {
  static constexpr bool from_rgb = false, to_rgb = false;
};
struct FromImage {
  static constexpr bool from_rgb = true, to_rgb = false;
};
struct ToImage {
  static constexpr bool from_rgb = false, to_rgb = true;
};

// Blocks a multiprocessor at least, of 8 * N outputs: of few channels shared memory has room for several. The sums of
// an image take registers.
template <class T, int N, class Ends>
constexpr int RESIDENT = N * sizeof(T) < 8 && !Ends::to_rgb ? 3 : N * sizeof(T) < 16 ? 2 : 1;

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
  Rgb rgb;
  int inputs, outputs;  // padded channels

  DEVICE int tap_rows() const { return weight_rows / (taps.phases * taps.phases); }
};

int weight_bytes(const Problem& p) { return padded_bytes(p.weight_rows * p.tile.units); }

// The floats behind weights and tiles in shared memory: bias [outputs], then toRGB's weights [outputs, K] and bias [K]
// or fromRGB's [inputs, K] and [inputs].
template <class Ends>
size_t shared_bytes(const Problem& p) {
  int floats = p.outputs;
  if (Ends::to_rgb) floats += (p.outputs + 1) * K;
  if (Ends::from_rgb) floats += p.inputs * (K + 1);
  return size_t(weight_bytes(p)) + size_t(p.buffers) * p.tile.bytes() + sizeof(float) * size_t(floats);
}

struct Place {  // the first output of a tile, in a phase
  int n, i, j;
};

DEVICE Place place_of(const Problem& p, unsigned tile) {
  const unsigned row = tile / p.tiles_w;
  return {int(row / p.tiles_h), int(row % p.tiles_h) * p.rows, int(tile % p.tiles_w) * TILE_COLUMNS};
}

// fromRGB of the pixels of a tile, a pixel a thread; zeros outside of the image. `weights` [inputs, K], bias behind.
template <class T>
DEVICE void show_tile(unsigned char* to, const Problem& p, const float* weights, int n, int top, int left) {
  const Rgb& rgb = p.rgb;
  const Tile& s = p.tile;
  const int64_t plane = int64_t(p.image.height) * p.image.width, right = rgb.channels_last ? rgb.channels : 1;
  const T* image = static_cast<const T*>(rgb.image) + n * plane * rgb.channels;
#pragma unroll 1
  for (int i = int(threadIdx.x); i < s.rows * s.columns; i += int(blockDim.x)) {
    const int row = s.by_columns.divide(i), column = i - row * s.columns, y = top + row, x = left + column;
    const bool inside = unsigned(y) < unsigned(p.image.height) && unsigned(x) < unsigned(p.image.width);
    float pixel[K];
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int64_t at = (int64_t(y) * p.image.width + x) * right + k * (rgb.channels_last ? 1 : plane);
      pixel[k] = inside && k < rgb.channels ? widen(image[at]) : 0.0f;
    }
    const int first = (row * s.columns + s.place(column)) * s.units;
#pragma unroll 1
    for (int unit = 0; unit < s.units; ++unit) {
      Vec<T> features;
#pragma unroll
      for (int j = 0; j < features.SIZE; ++j) {
        const int c = unit * features.SIZE + j;
        const auto w = Vec<float, K>::read(weights + c * K);
        float v = weights[p.inputs * K + c];
#pragma unroll
        for (int k = 0; k < K; ++k) v += w.v[k] * pixel[k];
        // Channels of the padding as zero, whatever the image was.
        features.v[j] = inside && c < p.image.channels ? (v > 0.0f ? v : rgb.slope * v) : 0.0f;
      }
      features.write_shared(reinterpret_cast<T*>(to + s.swizzle(first + unit) * 16));
    }
  }
}

template <class T, class Ends>
DEVICE void load_input(unsigned char* to, const Problem& p, const float* weights, unsigned tile) {
  const Place at = place_of(p, tile);
  const int top = at.i * p.taps.stride - p.taps.halo, left = at.j * p.taps.stride - p.taps.halo;
  if constexpr (Ends::from_rgb) {
    show_tile<T>(to, p, weights, at.n, top, left);
  } else {
    const T* image = static_cast<const T*>(p.x) + int64_t(at.n) * p.image.height * p.image.width * p.image.channels;
    load_tile(to, p.tile, image, p.image, top, left);
  }
  copy_commit();  // and of the weights, the first time
}

// bias and the image's parameters to `floats` of shared memory.
template <int N, class Ends>
DEVICE void load_floats(float* floats, const Problem& p) {
  const Rgb& rgb = p.rgb;
  float* weights = floats + 8 * N;
  for (int c = int(threadIdx.x); c < 8 * N; c += int(blockDim.x)) floats[c] = p.epilogue.bias_of(c);
  if constexpr (Ends::to_rgb) {
    const float fade = rgb.low != nullptr ? read_alpha(rgb.alpha) : 1.0f;
    stage_weights<1>(rgb.conv, p.epilogue.channels, 8 * N, rgb.channels, fade, weights, blockDim.x);
    const int k = int(threadIdx.x);
    if (k < K) weights[8 * N * K + k] = k < rgb.channels ? fade * rgb_bias(rgb.conv, k) : 0.0f;
  }
  if constexpr (Ends::from_rgb) {
    for (int i = int(threadIdx.x); i < p.inputs * K; i += int(blockDim.x)) {
      const int c = i / K, k = i % K;
      const bool real = c < p.image.channels && k < rgb.channels;
      weights[i] = real ? read_parameter(rgb.conv.weight, rgb.conv.weight_dtype, c * rgb.channels + k) *
                              float(rgb.conv.weight_scale)
                        : 0.0f;
    }
    for (int c = int(threadIdx.x); c < p.inputs; c += int(blockDim.x))
      weights[p.inputs * K + c] = c < p.image.channels ? rgb_bias(rgb.conv, c) : 0.0f;
    __syncthreads();  // the first tile is computed from them
  }
}

// Two rows of toRGB's image; weights [8 N, K], bias behind.
template <class T, int N>
DEVICE void store_image(const float (&v)[2][N][4], const Problem& p, const float* weights, const Place& at) {
  const Rgb& rgb = p.rgb;
  const int64_t c = rgb.channels, plane = int64_t(p.grid_h) * p.grid_w, right = rgb.channels_last ? c : 1;
  const int64_t channel = rgb.channels_last ? 1 : plane;
  T* image = static_cast<T*>(rgb.image) + at.n * c * plane;
  const T* low = static_cast<const T*>(rgb.low) + at.n * c * (plane / 4);
  const float shown = rgb.low != nullptr ? 1.0f - read_alpha(rgb.alpha) : 0.0f;
  to_rgb(v, weights, [&](int lower, int pixel, int k, float value) {
    const int i = at.i + lower, j = at.j + pixel;
    if (i >= p.grid_h || j >= p.grid_w || k >= c) return;
    value += weights[8 * N * K + k];
    const int64_t below = (int64_t(i / 2) * (p.grid_w / 2) + j / 2) * right + k * (rgb.channels_last ? 1 : plane / 4);
    if (rgb.low != nullptr) value += shown * widen(low[below]);
    image[(int64_t(i) * p.grid_w + j) * right + k * channel] = narrow<T>(value);
  });
}

template <class T, int N, class Ends>
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
  if constexpr (Ends::to_rgb) {
    store_image<T>(sums, p, bias + 8 * N, at);
    return;
  }
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

template <class P, int N, class Ends>
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
    finish<typename P::Element, N, Ends>(sums, p, bias, at, a, b);
  }
}

template <class P, int N, class Ends>
__global__ void __launch_bounds__(MAX_THREADS, RESIDENT<typename P::Element, N, Ends>)
    scaled_conv2d_kernel(const Problem p, int weight_size, int tile_size) {
  using T = typename P::Element;
  SHARED_DYNAMIC(weights);
  unsigned char* tiles = weights + weight_size;
  float* floats = reinterpret_cast<float*>(tiles + p.buffers * tile_size);
  load_rows(weights, p.packed, p.weight_rows, p.tile.units, p.tile.swizzle);
  load_floats<N, Ends>(floats, p);
  const auto load = [&](int buffer, unsigned tile) {
    load_input<T, Ends>(tiles + buffer * tile_size, p, floats + 8 * N, tile);
  };
  load(0, blockIdx.x);
  int current = 0;
  for (unsigned number = blockIdx.x; number < p.tiles; number += gridDim.x) {
    const unsigned next = number + gridDim.x;
    copy_wait<0>();
    __syncthreads();  // this tile has come, and everyone is done with the one before
    if (p.buffers == 2 && next < p.tiles) load(1 - current, next);
    compute_tile<P, N, Ends>(p, tiles + current * tile_size, weights, floats, number);
    if (p.buffers == 2) {
      current = 1 - current;
    } else if (next < p.tiles) {
      __syncthreads();
      load(0, next);
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
  p.inputs = units * 16 / size, p.outputs = 8 * n_tiles(a.out_channels);
  p.pool = a.pool;
  p.whole = a.out_channels * size % 16 == 0 && aligned(a.y);
  return p;
}

// The largest tile that fits the device, but no larger than the image; two of them where that fits, to load one while
// computing on the other. False where none fits.
template <class Ends>
bool choose_tile(Problem& p) {
  const size_t most = shared_memory_of_a_block();
  for (p.rows = MAX_THREADS / 16; p.rows >= 4; p.rows /= 2) {
    if (p.rows > 4 && p.rows / 2 >= p.grid_h) continue;
    p.tile = input_tile(p.taps, p.rows, p.tile.units);
    for (p.buffers = 2; p.buffers >= 1; --p.buffers)
      if (shared_bytes<Ends>(p) <= most) return true;
  }
  return false;
}

template <class Ends, class P, int N>
cudaError_t run(const Problem& p, cudaStream_t stream) {
  const size_t shared = shared_bytes<Ends>(p);
  unsigned grid = 1;
  const auto kernel = scaled_conv2d_kernel<P, N, Ends>;
  const int threads = p.rows * 16;
  const auto error = resident_blocks(reinterpret_cast<const void*>(kernel), threads, shared, p.tiles, &grid);
  if (error != cudaSuccess) return error;
  RUN((scaled_conv2d_kernel<P, N, Ends>), grid, unsigned(threads), shared, stream, p, weight_bytes(p), p.tile.bytes());
  return cudaSuccess;
}

bool too_large(const ScaledConv2d& a) {
  return a.in_channels > MAX_CONV_CHANNELS || a.out_channels > MAX_CONV_CHANNELS || a.h >= 1 << 29 || a.w >= 1 << 29;
}

template <class Ends>
int64_t rows_of(const ScaledConv2d& a) {
  if (too_large(a)) return 0;
  Problem p = problem_of(a);
  return choose_tile<Ends>(p) ? p.rows : 0;
}

template <class Ends>
cudaError_t launch(const ScaledConv2d& a, const Rgb& rgb, cudaStream_t stream) {
  if (a.n * a.h * a.w * a.out_channels == 0) return cudaSuccess;
  if (too_large(a)) return cudaErrorInvalidValue;
  Problem p = problem_of(a);
  p.rgb = rgb;
  if (!choose_tile<Ends>(p) || !aligned(a.packed)) return cudaErrorInvalidValue;
  const int64_t tiles_h = ceil_div(p.grid_h, p.rows), tiles_w = ceil_div(p.grid_w, TILE_COLUMNS);
  if (a.n * tiles_h * tiles_w >= int64_t(1) << 31) return cudaErrorInvalidValue;
  p.tiles_h = unsigned(tiles_h), p.tiles_w = unsigned(tiles_w), p.tiles = unsigned(a.n * tiles_h * tiles_w);
  return with_product(a.dtype, a.ieee, [&](auto product) {
    using P = decltype(product);
    switch (n_tiles(a.out_channels)) {
      case 2: return run<Ends, P, 2>(p, stream);
      case 4: return run<Ends, P, 4>(p, stream);
      default: return run<Ends, P, 8>(p, stream);
    }
  });
}

}  // namespace

int64_t scaled_conv2d_rows(const ScaledConv2d& a) { return rows_of<Features>(a); }
int64_t conv_to_rgb_rows(const ConvToRgb& a) { return rows_of<ToImage>(a.conv); }
int64_t conv_from_rgb_rows(const ConvFromRgb& a) { return rows_of<FromImage>(a.conv); }

cudaError_t scaled_conv2d(const ScaledConv2d& a, cudaStream_t stream) { return launch<Features>(a, {}, stream); }

cudaError_t conv_to_rgb(const ConvToRgb& a, cudaStream_t stream) {
  const Rgb rgb{a.image, a.low, a.to_rgb, a.alpha, 1.0f, int(a.image_channels), a.image_channels_last};
  return launch<ToImage>(a.conv, rgb, stream);
}

cudaError_t conv_from_rgb(const ConvFromRgb& a, cudaStream_t stream) {
  void* image = const_cast<void*>(a.image);  // only read
  const Rgb rgb{image, nullptr, a.from_rgb, nullptr, float(a.slope), int(a.image_channels), a.image_channels_last};
  return launch<FromImage>(a.conv, rgb, stream);
}

}  // namespace pggan::cuda
