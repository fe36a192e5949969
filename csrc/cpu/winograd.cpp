// The transforms of Winograd's F(2x2, 3x3) around batched matrix products that torch does, channels_last:
//
//   V = B^T d B (4x4 input tiles, stride 2)     U = G g G^T (weights)     Y = A^T (sum_i V U) A (2x2 output tiles)
//
// 16 products for 4 outputs in place of 36. The weight gradient is the same in the other roles: with
// Z = A dY A^T, dU = sum over tiles of Z V, dg = G^T dU G. Transformed tensors are [16, tiles, C] and [16, C, Cin].
#include "element.h"
#include "lane.h"
#include "parallel.h"

namespace pggan::PGGAN_ISA {
namespace {

// One dimension of each transform; applied to columns, then to rows.
template <class L>
void input_1d(const L& a, const L& b, const L& c, const L& d, L* out, int64_t step) {  // B^T
  out[0] = a - c;
  out[step] = b + c;
  out[2 * step] = c - b;
  out[3 * step] = b - d;
}

template <class L>
void gradient_1d(const L& a, const L& b, L* out, int64_t step) {  // A
  out[0] = a;
  out[step] = a + b;
  out[2 * step] = a - b;
  out[3 * step] = L::zero() - b;
}

template <class L>
void output_1d(const L& a, const L& b, const L& c, const L& d, L* out, int64_t step) {  // A^T
  out[0] = a + b + c;
  out[step] = b - c - d;
}

template <class A, class L = Lane<A>>
void weight_1d(const L& a, const L& b, const L& c, L* out, int64_t step) {  // G
  const L half_sum = A(0.5) * (a + c), half = A(0.5) * b;
  out[0] = a;
  out[step] = half_sum + half;
  out[2 * step] = half_sum - half;
  out[3 * step] = c;
}

template <class A, class L = Lane<A>>
void weight_gradient_1d(const L& a, const L& b, const L& c, const L& d, L* out, int64_t step) {  // G^T
  const L half_sum = A(0.5) * (b + c);
  out[0] = a + half_sum;
  out[step] = A(0.5) * (b - c);
  out[2 * step] = d + half_sum;
}

// f(index in the block, sample, tile row, tile column) for the tiles of a block, in parallel over tile rows.
template <class F>
int each_tile(const WinogradTiles& a, const F& f) {
  const int64_t tile_rows = ceil_div(a.shape.h, 2), tile_columns = ceil_div(a.shape.w, 2);
  return Chunks(a.count, tile_columns * 16 * a.shape.c).run([&](int64_t, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t column = 0; column < tile_columns; ++column)
        f(row * tile_columns + column, (a.first + row) / tile_rows, (a.first + row) % tile_rows, column);
  });
}

// The pixel (h, w) of sample n, or null outside of the image.
template <class A>
A* pixel(A* x, const Shape& s, int64_t n, int64_t h, int64_t w) {
  if (h < 0 || h >= s.h || w < 0 || w >= s.w) return nullptr;
  return x + ((n * s.h + h) * s.w + w) * s.c;
}

// SIZE x SIZE pixels to 4x4 values: the input transform (SIZE 4, from row 2 i - 1) or the gradient's (SIZE 2).
template <int SIZE, class A>
int into_tiles(const WinogradTiles& a) {
  const Shape& s = a.shape;
  const A* x = static_cast<const A*>(a.image);
  A* v = static_cast<A*>(a.tiles);
  const int64_t plane = a.count * ceil_div(s.w, 2) * s.c, offset = SIZE == 4 ? -1 : 0;
  return each_tile(a, [&](int64_t tile, int64_t n, int64_t row, int64_t column) {
    const A* from[SIZE][SIZE];
    for (int64_t i = 0; i < SIZE; ++i)
      for (int64_t j = 0; j < SIZE; ++j) from[i][j] = pixel(x, s, n, 2 * row + offset + i, 2 * column + offset + j);
    for (int64_t c = 0; c < s.c; c += LANE) {
      const int64_t lanes = minimum(LANE, s.c - c);
      Lane<A> d[SIZE][SIZE], columns[4][SIZE], out[4][4];
      for (int64_t i = 0; i < SIZE; ++i)
        for (int64_t j = 0; j < SIZE; ++j)
          d[i][j] = from[i][j] ? Lane<A>::read(from[i][j] + c, lanes) : Lane<A>::zero();
      for (int64_t j = 0; j < SIZE; ++j) {
        if constexpr (SIZE == 4)
          input_1d(d[0][j], d[1][j], d[2][j], d[3][j], &columns[0][j], SIZE);
        else
          gradient_1d(d[0][j], d[1][j], &columns[0][j], SIZE);
      }
      for (int64_t i = 0; i < 4; ++i) {
        if constexpr (SIZE == 4)
          input_1d(columns[i][0], columns[i][1], columns[i][2], columns[i][3], out[i], 1);
        else
          gradient_1d(columns[i][0], columns[i][1], out[i], 1);
      }
      for (int64_t k = 0; k < 16; ++k) out[k / 4][k % 4].write(v + k * plane + tile * s.c + c, lanes);
    }
  });
}

template <class A>
int from_tiles(const WinogradTiles& a) {
  const Shape& s = a.shape;
  A* y = static_cast<A*>(a.image);
  const A* m = static_cast<const A*>(a.tiles);
  const int64_t plane = a.count * ceil_div(s.w, 2) * s.c;
  return each_tile(a, [&](int64_t tile, int64_t n, int64_t row, int64_t column) {
    for (int64_t c = 0; c < s.c; c += LANE) {
      const int64_t lanes = minimum(LANE, s.c - c);
      Lane<A> in[4][4], rows[2][4], out[2][2];
      for (int64_t k = 0; k < 16; ++k) in[k / 4][k % 4] = Lane<A>::read(m + k * plane + tile * s.c + c, lanes);
      for (int64_t j = 0; j < 4; ++j) output_1d(in[0][j], in[1][j], in[2][j], in[3][j], &rows[0][j], 4);
      for (int64_t i = 0; i < 2; ++i) output_1d(rows[i][0], rows[i][1], rows[i][2], rows[i][3], out[i], 1);
      for (int64_t k = 0; k < 4; ++k)
        if (A* to = pixel(y, s, n, 2 * row + k / 2, 2 * column + k % 2)) out[k / 2][k % 2].write(to + c, lanes);
    }
  });
}

// Flipping the kernel exchanges the first and last row and column of its transform.
int64_t transformed(int64_t i, int64_t j, bool flip) {
  const auto flipped = [](int64_t k) { return k == 0 ? 3 : k == 3 ? 0 : k; };
  return flip ? flipped(i) * 4 + flipped(j) : i * 4 + j;
}

template <class A>
int weight(const WinogradWeight& a) {
  const A* g = static_cast<const A*>(a.weight);
  A* u = static_cast<A*>(a.transformed);
  return Chunks(ceil_div(a.pairs, LANE), 16 * LANE).run([&](int64_t, int64_t begin, int64_t end) {
    for (int64_t p = begin * LANE; p < minimum(end * LANE, a.pairs); p += LANE) {
      const int64_t lanes = minimum(LANE, a.pairs - p);
      Lane<A> in[3][3], columns[4][3], out[4][4];
      for (int64_t k = 0; k < 9; ++k) in[k / 3][k % 3] = A(a.scale) * Lane<A>::gather(g + p * 9 + k, 9, lanes);
      for (int64_t j = 0; j < 3; ++j) weight_1d<A>(in[0][j], in[1][j], in[2][j], &columns[0][j], 3);
      for (int64_t i = 0; i < 4; ++i) weight_1d<A>(columns[i][0], columns[i][1], columns[i][2], out[i], 1);
      for (int64_t k = 0; k < 16; ++k)
        out[k / 4][k % 4].write(u + transformed(k / 4, k % 4, a.flip) * a.pairs + p, lanes);
    }
  });
}

template <class A>
int weight_gradient(const WinogradWeight& a) {
  A* dg = static_cast<A*>(a.weight);
  const A* du = static_cast<const A*>(a.transformed);
  return Chunks(ceil_div(a.pairs, LANE), 16 * LANE).run([&](int64_t, int64_t begin, int64_t end) {
    for (int64_t p = begin * LANE; p < minimum(end * LANE, a.pairs); p += LANE) {
      const int64_t lanes = minimum(LANE, a.pairs - p);
      Lane<A> in[4][4], columns[3][4], out[3][3];
      for (int64_t k = 0; k < 16; ++k)
        in[k / 4][k % 4] = Lane<A>::read(du + transformed(k / 4, k % 4, a.flip) * a.pairs + p, lanes);
      for (int64_t j = 0; j < 4; ++j) weight_gradient_1d<A>(in[0][j], in[1][j], in[2][j], in[3][j], &columns[0][j], 4);
      for (int64_t i = 0; i < 3; ++i)
        weight_gradient_1d<A>(columns[i][0], columns[i][1], columns[i][2], columns[i][3], out[i], 1);
      for (int64_t k = 0; k < 9; ++k) (A(a.scale) * out[k / 3][k % 3]).scatter(dg + p * 9 + k, 9, lanes);
    }
  });
}

// Float and double only: half tensors would round every transformed value.
template <class F>
int wide(int dtype, const F& f) {
  if (dtype == F32) return f(0.0f);
  if (dtype == F64) return f(0.0);
  return BAD_DTYPE;
}

}  // namespace

int winograd_input(const WinogradTiles& a) {
  return wide(a.dtype, [&](auto zero) { return into_tiles<4, decltype(zero)>(a); });
}

int winograd_output_gradient(const WinogradTiles& a) {
  return wide(a.dtype, [&](auto zero) { return into_tiles<2, decltype(zero)>(a); });
}

int winograd_output(const WinogradTiles& a) {
  return wide(a.dtype, [&](auto zero) { return from_tiles<decltype(zero)>(a); });
}

int winograd_weight(const WinogradWeight& a) {
  return wide(a.dtype, [&](auto zero) { return weight<decltype(zero)>(a); });
}

int winograd_weight_gradient(const WinogradWeight& a) {
  return wide(a.dtype, [&](auto zero) { return weight_gradient<decltype(zero)>(a); });
}

}  // namespace pggan::PGGAN_ISA
