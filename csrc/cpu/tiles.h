// Images in channels_last rows as tiles of a form (forms.h), in runs of neighbours that go through cache together.
#pragma once

#include "forms.h"
#include "parallel.h"
#include "products.h"
#include "vector.h"

namespace pggan::PGGAN_ISA {

// An image [N, H, W, C], or of one sample the rows [top, bottom), row i in place i % places.
template <class E>
struct Image {
  E* data;
  int64_t w, c, top, bottom, places;
  int64_t sample;  // rows from sample to sample

  static Image whole(E* data, int64_t h, int64_t w, int64_t c) { return {data, w, c, 0, h, h, h}; }
  static Image window(E* data, int64_t w, int64_t c, int64_t top, int64_t bottom, int64_t places) {
    return {data, w, c, top, bottom, places, 0};
  }

  // Row i of sample s, or null outside.
  E* line(int64_t s, int64_t i) const {
    return i < top || i >= bottom ? nullptr : data + (s * sample + i % places) * w * c;
  }
};

// Tiles first, ..., last - 1 of a row of them; `at`: the place of the first among the block's.
struct Run {
  int64_t sample, row, first, last, at;
};

// rows x columns tiles a sample, counted row by row through all samples.
struct Grid {
  int64_t samples, rows, columns;

  int64_t count() const { return samples * rows * columns; }

  // f(Run) for tiles [begin, end).
  template <class F>
  void each_run(int64_t begin, int64_t end, const F& f) const {
    for (int64_t tile = begin; tile < end;) {
      const int64_t line = tile / columns, first = tile % columns, last = minimum(columns, first + end - tile);
      f(Run{line / rows, line % rows, first, last, tile - begin});
      tile += last - first;
    }
  }
};

// Pieces of a grid to run in parallel; of many elements a tile still so many tiles that products read their weights for
// several.
inline Chunks tile_chunks(const Grid& grid, int64_t elements_per_tile) {
  constexpr int64_t least = 16;
  return {grid.count(), elements_per_tile, 64, least};
}

// Elements from row to row of `count`, whole vectors: not a multiple of 256 bytes, or columns would crowd a few sets of
// the first cache.
template <class A>
constexpr int64_t row_step(int64_t count) {
  const int64_t whole = whole_vectors<A>(count);
  return whole * sizeof(A) % 256 == 0 ? whole + LANES<A> : whole;
}

// Maps of a block: one of [tiles, channels] per product, channels in whole vectors.
template <class A>
struct TileMaps {
  int64_t channels, map;  // elements from tile to tile and from map to map
  A* data;

  TileMaps(int64_t c, int64_t tiles, A* memory)
      : channels(row_step<A>(c)), map(padded<A>(tiles * channels)), data(memory) {}
};

// Channels first, ..., first + count - 1 of an image.
struct Channels {
  int64_t first, count;
};

// Tiles at once, of `tiles`, a multiple of ROW_STEP: few enough that the maps of one block stay in the second cache, but
// of very many channels enough for products to read their weights seldom.
template <class A>
inline int64_t block_tiles(int64_t points, int64_t channels, int64_t tiles) {
  constexpr int64_t bytes = 512 * 1024, most = 96;
  const int64_t fitting = bytes / (points * channels * static_cast<int64_t>(sizeof(A)));
  return minimum(maximum(2, minimum(fitting, most) / TILE_ROWS) * TILE_ROWS, ceil_div(tiles, ROW_STEP) * ROW_STEP);
}

// f(begin, end) for the blocks of tiles [begin, end).
template <class F>
inline void each_block(int64_t begin, int64_t end, int64_t most, const F& f) {
  const int64_t blocks = ceil_div(end - begin, most);
  const int64_t size = ceil_div(ceil_div(end - begin, blocks), ROW_STEP) * ROW_STEP;
  for (int64_t first = begin; first < end; first += size) f(first, minimum(first + size, end));
}

// What tiles.cpp has of every form and type, once for the kernels that take it.

// The values of a run's tiles to be multiplied, of some channels: Form::input of the image's columns, then of rows.
template <class Form, class T, class A>
void input_maps(const Image<const T>& x, const Run& run, Channels channels, const TileMaps<A>& maps);

// Form::output of a run's products: `pixels` pixels of C channels into each of the OUT lines, where they are not null.
template <class Form, class A>
void output_lines(const TileMaps<A>& maps, const Run& run, int64_t c, int64_t pixels, A* const* lines);

}  // namespace pggan::PGGAN_ISA
