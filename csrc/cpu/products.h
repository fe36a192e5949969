// Small matrix products of operands that are in cache.
#pragma once

#include "parallel.h"
#include "vector.h"

namespace pggan::PGGAN_ISA {

// out [rows, columns] = a [rows, k] b [k, columns], or that added to it. Elements of a are a_row and a_k apart, rows of
// b b_k; a row of b and of out is contiguous.
template <class A>
struct Product {
  const A* a;
  int64_t a_row, a_k;
  const A* b;
  int64_t b_k;
  A* out;
  int64_t out_row, k;
  bool add;
};

// As many rows by two vectors as registers hold beside two vectors of b and one of a. The last rows of a product go in
// smaller tiles, so that its operands need room for a multiple of ROW_STEP.
constexpr int64_t TILE_VECTORS = 2, TILE_ROWS = VECTOR_REGISTERS == 32 ? 12 : 6, ROW_STEP = TILE_ROWS / 3;

static_assert(LANES<double> % ROW_STEP == 0, "whole vectors of rows have to be whole steps: the weight gradient's are");

template <int ROWS, int VECTORS, class A>
void multiply_tile(const Product<A>& p) {
  constexpr int64_t lanes = LANES<A>;
  Vector<A> sum[ROWS][VECTORS] = {};
  const A *a = p.a, *b = p.b;
  for (int64_t i = 0; i < p.k; ++i, a += p.a_k, b += p.b_k) {
    Vector<A> row[VECTORS];
    PGGAN_UNROLL for (int v = 0; v < VECTORS; ++v) row[v] = read_vector<A>(b + v * lanes);
    PGGAN_UNROLL for (int r = 0; r < ROWS; ++r)
      PGGAN_UNROLL for (int v = 0; v < VECTORS; ++v) sum[r][v] += a[r * p.a_row] * row[v];
  }
  PGGAN_UNROLL for (int r = 0; r < ROWS; ++r)
    PGGAN_UNROLL for (int v = 0; v < VECTORS; ++v) {
      A* out = p.out + r * p.out_row + v * lanes;
      write_vector<A>(out, p.add ? sum[r][v] + read_vector<A>(out) : sum[r][v]);
    }
}

// `rows` rows, rounded up to ROW_STEP, by one or two vectors.
template <int VECTORS, class A>
void multiply_rows(Product<A> p, int64_t rows) {
  const int64_t a_row = p.a_row, out_row = p.out_row;
  for (; rows > 2 * ROW_STEP; rows -= TILE_ROWS, p.a += TILE_ROWS * a_row, p.out += TILE_ROWS * out_row)
    multiply_tile<TILE_ROWS, VECTORS>(p);
  if (rows > ROW_STEP)
    multiply_tile<2 * ROW_STEP, VECTORS>(p);
  else if (rows > 0)
    multiply_tile<ROW_STEP, VECTORS>(p);
}

// The panels of b, two vectors wide and at the end one: f(first column, how many).
template <class A, class F>
void each_panel(int64_t columns, const F& f) {
  constexpr int64_t wide = TILE_VECTORS * LANES<A>;
  for (int64_t first = 0; first < columns; first += wide) f(first, minimum(wide, columns - first));
}

template <class A>
void multiply_panel(const Product<A>& p, int64_t rows, int64_t columns) {
  if (columns == LANES<A>)
    multiply_rows<1>(p, rows);
  else
    multiply_rows<TILE_VECTORS>(p, rows);
}

template <class A>
constexpr int64_t whole_vectors(int64_t count) {
  return ceil_div(count, LANES<A>) * LANES<A>;
}

}  // namespace pggan::PGGAN_ISA
