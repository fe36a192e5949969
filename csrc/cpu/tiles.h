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

// Tiles at once, a multiple of ROW_STEP: few enough that the maps of one block stay in the second cache, but of very
// many channels enough for products to read their weights seldom.
template <class A>
inline int64_t block_tiles(int64_t points, int64_t channels) {
  constexpr int64_t bytes = 512 * 1024, most = 96;
  const int64_t fitting = bytes / (points * channels * static_cast<int64_t>(sizeof(A)));
  return maximum(2, minimum(fitting, most) / TILE_ROWS) * TILE_ROWS;
}

// f(begin, end) for the blocks of tiles [begin, end).
template <class F>
inline void each_block(int64_t begin, int64_t end, int64_t most, const F& f) {
  const int64_t blocks = ceil_div(end - begin, most);
  const int64_t size = ceil_div(ceil_div(end - begin, blocks), ROW_STEP) * ROW_STEP;
  for (int64_t first = begin; first < end; first += size) f(first, minimum(first + size, end));
}

// The values of a run's tiles to be multiplied, of some channels: Form::input of the image's columns, then of rows.
template <class Form, class T, class A>
void input_maps(const Image<const T>& x, const Run& run, Channels channels, const TileMaps<A>& maps) {
  constexpr int IN = Form::IN, POINTS = Form::POINTS, KEPT = IN - Form::STEP;
  const T* lines[IN];
  PGGAN_UNROLL for (int i = 0; i < IN; ++i) lines[i] = x.line(run.sample, run.row * Form::STEP - Form::BEFORE + i);
  const int64_t end = minimum(channels.first + channels.count, x.c);
  for (int64_t c = channels.first; c < end; c += LANES<A>) {
    const int64_t lanes = minimum(LANES<A>, end - c);
    const auto column = [&](int64_t j, Vector<A>* out) {
      Vector<A> d[IN];
      PGGAN_UNROLL for (int i = 0; i < IN; ++i)
        d[i] = lines[i] && j >= 0 && j < x.w ? read_vector<A>(lines[i] + j * x.c + c, lanes) : Vector<A>{};
      Form::input(d, 1, out, 1);
    };
    Vector<A> window[IN][POINTS];  // neighbouring tiles share columns
    int64_t next = run.first * Form::STEP - Form::BEFORE;
    PGGAN_UNROLL for (int k = 0; k < KEPT; ++k) column(next++, window[k]);
    A* to = maps.data + run.at * maps.channels + c - channels.first;
    for (int64_t tile = run.first; tile < run.last; ++tile, to += maps.channels) {
      PGGAN_UNROLL for (int k = KEPT; k < IN; ++k) column(next++, window[k]);
      PGGAN_UNROLL for (int i = 0; i < POINTS; ++i) {
        Vector<A> out[POINTS];
        Form::input(&window[0][i], POINTS, out, 1);
        PGGAN_UNROLL for (int j = 0; j < POINTS; ++j) write_vector<A>(to + (i * POINTS + j) * maps.map, out[j]);
      }
      PGGAN_UNROLL for (int k = 0; k < KEPT; ++k)
        PGGAN_UNROLL for (int i = 0; i < POINTS; ++i) window[k][i] = window[k + Form::STEP][i];
    }
  }
}

// The transpose of output_lines, of some channels of dy: Form::spread of rows, then of columns.
template <class Form, class T, class A>
void spread_maps(const Image<const T>& dy, const Run& run, Channels channels, const TileMaps<A>& maps) {
  constexpr int OUT = Form::OUT, POINTS = Form::POINTS;
  const T* lines[OUT];
  PGGAN_UNROLL for (int i = 0; i < OUT; ++i) lines[i] = dy.line(run.sample, run.row * OUT + i);
  const int64_t end = minimum(channels.first + channels.count, dy.c);
  for (int64_t c = channels.first; c < end; c += LANES<A>) {
    const int64_t lanes = minimum(LANES<A>, end - c);
    A* to = maps.data + run.at * maps.channels + c - channels.first;
    for (int64_t tile = run.first; tile < run.last; ++tile, to += maps.channels) {
      Vector<A> pixels[OUT][OUT];
      PGGAN_UNROLL for (int i = 0; i < OUT; ++i)
        PGGAN_UNROLL for (int j = 0; j < OUT; ++j) {
          const int64_t w = tile * OUT + j;
          pixels[i][j] = lines[i] && w < dy.w ? read_vector<A>(lines[i] + w * dy.c + c, lanes) : Vector<A>{};
        }
      if constexpr (OUT == 1) {
        write_vector<A>(to, pixels[0][0]);
      } else {
        Vector<A> columns[POINTS][OUT], out[POINTS];
        PGGAN_UNROLL for (int j = 0; j < OUT; ++j) Form::spread(&pixels[0][j], OUT, &columns[0][j], OUT);
        PGGAN_UNROLL for (int i = 0; i < POINTS; ++i) {
          Form::spread(columns[i], 1, out, 1);
          PGGAN_UNROLL for (int j = 0; j < POINTS; ++j) write_vector<A>(to + (i * POINTS + j) * maps.map, out[j]);
        }
      }
    }
  }
}

// Form::output of a run's products: `pixels` pixels of C channels into each of the OUT lines, where they are not null.
template <class Form, class A>
void output_lines(const TileMaps<A>& maps, const Run& run, int64_t c, int64_t pixels, A* const* lines) {
  constexpr int OUT = Form::OUT, POINTS = Form::POINTS;
  for (int64_t tile = run.first; tile < run.last; ++tile) {
    const int64_t pixel = (tile - run.first) * OUT;
    const A* from = maps.data + (run.at + tile - run.first) * maps.channels;
    for (int64_t k = 0; k < c; k += LANES<A>) {
      const int64_t lanes = minimum(LANES<A>, c - k);
      Vector<A> out[OUT][OUT];
      if constexpr (OUT == 1) {
        out[0][0] = read_vector<A>(from + k);
      } else {
        Vector<A> m[POINTS], rows[OUT][POINTS];
        PGGAN_UNROLL for (int j = 0; j < POINTS; ++j) {
          PGGAN_UNROLL for (int i = 0; i < POINTS; ++i) m[i] = read_vector<A>(from + (i * POINTS + j) * maps.map + k);
          Form::output(m, 1, &rows[0][j], POINTS);
        }
        PGGAN_UNROLL for (int i = 0; i < OUT; ++i) Form::output(rows[i], 1, out[i], 1);
      }
      PGGAN_UNROLL for (int i = 0; i < OUT; ++i)
        PGGAN_UNROLL for (int j = 0; j < OUT; ++j)
          if (lines[i] && pixel + j < pixels) write_vector<A>(lines[i] + (pixel + j) * c + k, out[i][j], lanes);
    }
  }
}

}  // namespace pggan::PGGAN_ISA
