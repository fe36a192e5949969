// Tiles of channels_last images in shared memory, and which of their pixels a convolution's taps want.
#pragma once

#include "mma.cuh"

namespace pggan::cuda {

constexpr int TILE_COLUMNS = 16;  // of outputs: the rows of one fragment

// The family of csrc/kernels.h, per direction; S = stride, P = phases:
//
//   y[P * i + a] = sum over taps t of x[S * i + t + a * shift - halo] * W[a][t]
//
// A convolution after nearest x2 has two phases a of the output; one before a 2x2 mean has stride 2. Either has 4 taps
// for 9 (k = 3), by weights that are summed where they meet the same pixel.
struct Taps {
  int taps, phases, stride, shift, halo;
};

constexpr Taps taps_of(int resample, int64_t k) {
  const int wide = k == 3;
  if (resample == RESAMPLE_UP) return {1 + wide, 2, 1, wide, wide};
  if (resample == RESAMPLE_DOWN) return {2 + 2 * wide, 1, 2, 0, wide};
  return {1 + 2 * wide, 1, 1, 0, wide};
}

// How many products side by side take all output channels, 8 each: kernels are made for 2, 4 and 8.
constexpr int n_tiles(int64_t channels) { return channels <= 16 ? 2 : channels <= 32 ? 4 : 8; }

// Division of n by d, n * d < 2^32, as one multiplication.
struct Divisor {
  uint32_t d, inverse;

  explicit Divisor(int by) : d(uint32_t(by)), inverse(by == 1 ? 0 : uint32_t((uint64_t(1) << 32) / d + 1)) {}
  DEVICE int divide(int n) const { return d == 1 ? n : int((uint64_t(uint32_t(n)) * inverse) >> 32); }
};

// Where unit u of 16 bytes lies, in units: rows of `width` units, one a pixel or one an output channel, come so that
// eight neighbours' units of the same channels lie in eight different groups of banks, whatever row the eight start at.
// With w the largest power of two in `width`, it is u % 8 that repeats every 8 / w rows: the rows' number is mixed in.
struct Swizzle {
  int shift, mask;

  explicit Swizzle(int width) {
    const int w = width & -width;
    shift = 3;
    while (1 << shift < w) ++shift;
    mask = (w < 8 ? w : 8) - 1;
  }
  DEVICE int operator()(int u) const { return u ^ (u >> shift & mask); }
};

// Units of 16 bytes that a pixel's channels take, padded to whole k-steps.
constexpr int units_of(int64_t channels, int element_size) {
  return int(2 * ceil_div(channels * element_size, STEP_BYTES));
}

constexpr int padded_bytes(int units) { return int(ceil_div(units, 8)) * 128; }  // the swizzle moves within 8 units

// A tile of an image, [rows, columns] pixels of `units`, halo included. With stride 2 even columns come before odd
// ones: those that neighbouring outputs read are neighbours.
struct Tile {
  int rows, columns, units, stride;
  Swizzle swizzle;
  Divisor by_units, by_columns;

  Tile(int rows_, int columns_, int units_, int stride_)
      : rows(rows_), columns(columns_), units(units_), stride(stride_), swizzle(units_), by_units(units_),
        by_columns(columns_) {}

  int bytes() const { return padded_bytes(rows * columns * units); }
  DEVICE int place(int column) const { return stride == 1 ? column : (column & 1) * (columns >> 1) + (column >> 1); }
};

// The tile of `row_count` x TILE_COLUMNS outputs per phase.
inline Tile input_tile(const Taps& t, int row_count, int units) {
  const int more = t.taps + (t.phases - 1) * t.shift;
  return Tile(t.stride * (row_count - 1) + more, t.stride * (TILE_COLUMNS - 1) + more, units, t.stride);
}

// One image [height, width, channels]. `whole`: pixels are whole units of 16 bytes, on 16 bytes.
struct Image {
  int height, width, channels;
  bool whole;

  Image(int64_t h, int64_t w, int64_t c, int element_size, const void* data)
      : height(int(h)), width(int(w)), channels(int(c)), whole(c * element_size % 16 == 0 && aligned(data)) {}
};

// One unit from `channel` on of pixel (y, x), which may be outside: zeros there and past the image's channels. Behind
// the thread's back where pixels are whole units, up to its copy_wait.
template <class T>
DEVICE void load_unit(void* to, const T* image, const Image& size, int y, int x, int channel) {
  const bool inside = unsigned(y) < unsigned(size.height) && unsigned(x) < unsigned(size.width);
  const bool real = inside && channel < size.channels;
  const T* from = image + (real ? (int64_t(y) * size.width + x) * size.channels + channel : 0);
  if (size.whole) {
    copy_async(to, from, real);
  } else {
    Vec<T>::read_some(from, real ? size.channels - channel : 0).write_shared(static_cast<T*>(to));
  }
}

// The block loads the tile whose first pixel is (row, column) of `image`, both of them possibly outside.
template <class T>
DEVICE void load_tile(unsigned char* to, const Tile& tile, const T* image, const Image& size, int row, int column) {
  constexpr int IN_UNIT = 16 / sizeof(T);
  const int count = tile.rows * tile.columns * tile.units;
#pragma unroll 1
  for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) {
    const int pixel = tile.by_units.divide(i), channel = (i - pixel * tile.units) * IN_UNIT;
    const int r = tile.by_columns.divide(pixel), c = pixel - r * tile.columns;
    const int u = (r * tile.columns + tile.place(c)) * tile.units + i - pixel * tile.units;
    load_unit(to + tile.swizzle(u) * 16, image, size, row + r, column + c, channel);
  }
}

// The block copies `rows` rows of `units`, dense and on 16 bytes, asynchronously.
DEVICE void load_rows(unsigned char* to, const void* from, int rows, int units, const Swizzle& swizzle) {
#pragma unroll 1
  for (int i = int(threadIdx.x); i < rows * units; i += int(blockDim.x))
    copy_async(to + swizzle(i) * 16, static_cast<const unsigned char*>(from) + int64_t(i) * 16, true);
}

// Fragments of a k-step by ldmatrix: the rows of the lane's address, and which half of the step it is.
//   A [16, step]: registers 0, 1 are rows 0..7 and 8..15 of the first half, 2 and 3 of the second
//   B [16, step]: registers 0, 1 are both halves of rows 0..7, 2 and 3 of rows 8..15: of two products
DEVICE int row_of_a(int lane) { return lane & 15; }
DEVICE int half_of_a(int lane) { return lane >> 4; }
DEVICE int row_of_b(int lane) { return (lane & 7) + (lane >> 4) * 8; }
DEVICE int half_of_b(int lane) { return lane >> 3 & 1; }

}  // namespace pggan::cuda
