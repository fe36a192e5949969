// Resampling 3x3 convolutions with 9 products for 4 pixels of the larger image, where their phases take 16. In one
// dimension, with taps u, v, w, S = u + v + w and differences e[i] = x[i] - x[i-1] (x is zero outside):
//
//   y[2i]     = u x[i-1] + (v + w) x[i] = S x[i] - u e[i]
//   y[2i + 1] = (u + v) x[i] + w x[i+1] = S x[i] + w e[i+1]
//
// In two, x, its differences of rows, those of columns and those of both have products of their own, which torch does:
//
//   smaller image -- differences --> maps of Cin -- 1, 2, 2, 4 products --> maps of C, 2 C, 2 C, 4 C -- merge --> larger
//
// The convolution before a 2x2 mean is the transpose, from right to left. A block is R rows of each of S samples of the
// smaller image, W pixels wide. Its maps are [S, R, W], [S, R + 1, W], [S, R, W + 1] and [S, R + 1, W + 1] pixels.
#include "lane.h"
#include "parallel.h"

namespace pggan::PGGAN_ISA {
namespace {

// `phases`: maps have so many times the image's channels as products, else once.
template <class A>
struct Maps {
  A *plain_, *rows_, *columns_, *both_;
  int64_t rows, width, c, two, four;

  Maps(const DifferenceBlock& a, bool phases)
      : plain_(static_cast<A*>(a.plain)), rows_(static_cast<A*>(a.row_maps)),
        columns_(static_cast<A*>(a.column_maps)), both_(static_cast<A*>(a.both_maps)), rows(a.rows),
        width(phases ? a.shape.w / 2 : a.shape.w), c(a.shape.c), two(phases ? 2 * c : c), four(phases ? 4 * c : c) {}

  A* plain(int64_t s, int64_t i) const { return plain_ + (s * rows + i) * width * c; }
  A* row(int64_t s, int64_t i) const { return rows_ + (s * (rows + 1) + i) * width * two; }
  A* column(int64_t s, int64_t i) const { return columns_ + (s * rows + i) * (width + 1) * two; }
  A* both(int64_t s, int64_t i) const { return both_ + (s * (rows + 1) + i) * (width + 1) * four; }
};

// Row h of sample n, or null outside of the image.
template <class A>
A* line(const DifferenceBlock& a, int64_t n, int64_t h) {
  const Shape& s = a.shape;
  return h < 0 || h >= s.h ? nullptr : static_cast<A*>(a.image) + (n * s.h + h) * s.w * s.c;
}

// f(sample of the block, row of the block) for `rows` rows a sample, in parallel.
template <class F>
int each_row(const DifferenceBlock& a, int64_t rows, const F& f) {
  return Chunks(a.samples * rows, 8 * a.shape.w * a.shape.c).run([&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i / rows, i % rows);
  });
}

// to = from less what is `step` elements before, zero before the first and after the last; to has `step` more.
template <class A>
void subtract_shifted(const A* from, A* to, int64_t n, int64_t step) {
  PGGAN_SIMD
  for (int64_t k = 0; k < step; ++k) to[k] = from[k];
  PGGAN_SIMD
  for (int64_t k = step; k < n; ++k) to[k] = from[k] - from[k - step];
  PGGAN_SIMD
  for (int64_t k = n; k < n + step; ++k) to[k] = -from[k - step];
}

template <class A>
int differences_of(const DifferenceBlock& a) {
  const Maps<A> m(a, false);
  const int64_t c = a.shape.c, n = a.shape.w * c;
  return each_row(a, a.rows + 1, [&](int64_t s, int64_t i) {
    const A* here = line<A>(a, a.first_sample + s, a.first_row + i);
    const A* above = line<A>(a, a.first_sample + s, a.first_row + i - 1);
    A* rows = m.row(s, i);
    PGGAN_SIMD
    for (int64_t k = 0; k < n; ++k) rows[k] = (here ? here[k] : A(0)) - (above ? above[k] : A(0));
    subtract_shifted(rows, m.both(s, i), n, c);
    if (i < a.rows) subtract_shifted(here, m.column(s, i), n, c);
  });
}

template <class A>
int transposed_differences(const DifferenceBlock& a) {
  const Maps<A> m(a, false);
  const int64_t c = a.shape.c, n = a.shape.w * c;
  return each_row(a, a.rows, [&](int64_t s, int64_t i) {
    A* y = line<A>(a, a.first_sample + s, a.first_row + i);
    const A *plain = m.plain(s, i), *column = m.column(s, i), *row = m.row(s, i), *next = m.row(s, i + 1);
    const A *both = m.both(s, i), *both_next = m.both(s, i + 1);
    PGGAN_SIMD
    for (int64_t k = 0; k < n; ++k)
      y[k] = plain[k] + (row[k] - next[k]) + (column[k] - column[k + c]) +
             ((both[k] - both[k + c]) - (both_next[k] - both_next[k + c]));
  });
}

template <class A>
int merge(const DifferenceBlock& a) {
  const Maps<A> m(a, true);
  const int64_t c = m.c;
  return each_row(a, a.rows, [&](int64_t s, int64_t i) {
    for (int64_t p = 0; p < 2; ++p) {  // the phase of the row
      A* y = line<A>(a, a.first_sample + s, 2 * (a.first_row + i) + p);
      const A *plain = m.plain(s, i), *row = m.row(s, i + p) + p * c;
      const A *column = m.column(s, i), *both = m.both(s, i + p) + 2 * p * c;
      for (int64_t j = 0; j < m.width; ++j, plain += c, row += 2 * c, column += 2 * c, both += 4 * c, y += 2 * c) {
        PGGAN_SIMD
        for (int64_t k = 0; k < c; ++k) {
          const A shared = plain[k] + row[k];
          y[k] = shared + (column[k] + both[k]);
          y[c + k] = shared + (column[3 * c + k] + both[5 * c + k]);  // of the pixel to the right, its second phase
        }
      }
    }
  });
}

template <class A>
int split(const DifferenceBlock& a) {
  const Maps<A> m(a, true);
  const int64_t c = m.c;
  return each_row(a, a.rows + 1, [&](int64_t s, int64_t i) {
    const int64_t h = 2 * (a.first_row + i);
    const A *here = line<A>(a, a.first_sample + s, h), *next = here ? here + a.shape.w * c : nullptr;
    const A* above = line<A>(a, a.first_sample + s, h - 1);
    A *row = m.row(s, i), *both = m.both(s, i);
    for (int64_t j = 0; j <= m.width; ++j, row += 2 * c, both += 4 * c) {
      const bool first = j == 0, last = j == m.width;
      const A* even = here && !last ? here + 2 * j * c : nullptr;  // the pixels of this column and of the one before
      const A* odd = here && !first ? here + (2 * j - 1) * c : nullptr;
      const A* even_above = above && !last ? above + 2 * j * c : nullptr;
      const A* odd_above = above && !first ? above + (2 * j - 1) * c : nullptr;
      PGGAN_SIMD
      for (int64_t k = 0; k < c; ++k) {
        both[k] = even ? even[k] : A(0);
        both[c + k] = odd ? odd[k] : A(0);
        both[2 * c + k] = even_above ? even_above[k] : A(0);
        both[3 * c + k] = odd_above ? odd_above[k] : A(0);
      }
      if (last) break;
      PGGAN_SIMD
      for (int64_t k = 0; k < c; ++k) {
        row[k] = even ? even[k] + even[c + k] : A(0);
        row[c + k] = even_above ? even_above[k] + even_above[c + k] : A(0);
      }
    }
    if (i == a.rows) return;
    A *plain = m.plain(s, i), *column = m.column(s, i);
    for (int64_t j = 0; j <= m.width; ++j, column += 2 * c) {
      const int64_t even = 2 * j * c, odd = even - c;
      PGGAN_SIMD
      for (int64_t k = 0; k < c; ++k) {
        column[k] = j < m.width ? here[even + k] + next[even + k] : A(0);
        column[c + k] = j > 0 ? here[odd + k] + next[odd + k] : A(0);
      }
    }
    column = m.column(s, i);
    for (int64_t j = 0; j < m.width; ++j, plain += c, column += 2 * c) {
      PGGAN_SIMD
      for (int64_t k = 0; k < c; ++k) plain[k] = column[k] + column[3 * c + k];
    }
  });
}

// The weights of the nine products, in the order of the maps: part [row][column] of S, of the first tap, of the last.
constexpr int64_t PART[3][3] = {{0, 3, 4}, {1, 5, 6}, {2, 7, 8}};

// to[3] = (S, - first tap, last tap) of from[3]; elements `step` apart.
template <class L>
void taps_1d(const L* from, L* to, int64_t step, bool flip) {
  const L &first = from[flip ? 2 * step : 0], &last = from[flip ? 0 : 2 * step];
  to[0] = from[0] + from[step] + from[2 * step];
  to[step] = L::zero() - first;
  to[2 * step] = last;
}

template <class L>
void transposed_taps_1d(const L* from, L* to, int64_t step, bool flip) {
  to[flip ? 2 * step : 0] = from[0] - from[step];
  to[step] = from[0];
  to[flip ? 0 : 2 * step] = from[0] + from[2 * step];
}

// f(weight's element, its step, summed's element, lanes) for all kernels, LANE of the smaller image's channels at once.
template <class F>
int each_lane(const DifferenceWeight& a, const F& f) {
  const int64_t high = a.transpose ? a.in_channels : a.out_channels, low = a.transpose ? a.out_channels : a.in_channels;
  const int64_t blocks = ceil_div(low, LANE), low_step = a.transpose ? 9 * a.in_channels : 9;
  const int64_t high_step = a.transpose ? 9 : 9 * a.in_channels;
  // What is far apart in the weight is the outer loop: neighbours share cache lines.
  return Chunks(blocks * high, 16 * LANE).run([&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t l = (a.transpose ? i / high : i % blocks) * LANE, h = a.transpose ? i % high : i / blocks;
      f(l * low_step + h * high_step, low_step, h * low + l, minimum(LANE, low - l), high * low);
    }
  });
}

template <class A>
int weights(const DifferenceWeight& a) {
  return each_lane(a, [&](int64_t at, int64_t step, int64_t to, int64_t lanes, int64_t part) {
    const A* weight = static_cast<const A*>(a.weight) + at;
    A* parts = static_cast<A*>(a.parts) + to;
    Lane<A> w[9], rows[9], out[9];
    for (int64_t k = 0; k < 9; ++k) w[k] = A(a.scale) * Lane<A>::gather(weight + k, step, lanes);
    for (int64_t j = 0; j < 3; ++j) taps_1d(w + j, rows + j, 3, a.transpose);
    for (int64_t r = 0; r < 3; ++r) taps_1d(rows + 3 * r, out + 3 * r, 1, a.transpose);
    for (int64_t k = 0; k < 9; ++k) out[k].write(parts + PART[k / 3][k % 3] * part, lanes);
  });
}

template <class A>
int weights_gradient(const DifferenceWeight& a) {
  return each_lane(a, [&](int64_t at, int64_t step, int64_t from, int64_t lanes, int64_t part) {
    A* weight = static_cast<A*>(a.weight) + at;
    const A* parts = static_cast<const A*>(a.parts) + from;
    Lane<A> in[9], rows[9], w[9];
    for (int64_t k = 0; k < 9; ++k) in[k] = Lane<A>::read(parts + PART[k / 3][k % 3] * part, lanes);
    for (int64_t j = 0; j < 3; ++j) transposed_taps_1d(in + j, rows + j, 3, a.transpose);
    for (int64_t r = 0; r < 3; ++r) transposed_taps_1d(rows + 3 * r, w + 3 * r, 1, a.transpose);
    for (int64_t k = 0; k < 9; ++k) (A(a.scale) * w[k]).scatter(weight + k, step, lanes);
  });
}

}  // namespace

#define PGGAN_FLOAT_OR_DOUBLE(name, function, Struct)      \
  int name(const Struct& a) {                              \
    if (a.dtype == F32) return function<float>(a);         \
    return a.dtype == F64 ? function<double>(a) : BAD_DTYPE; \
  }

PGGAN_FLOAT_OR_DOUBLE(difference_maps, differences_of, DifferenceBlock)
PGGAN_FLOAT_OR_DOUBLE(difference_maps_transposed, transposed_differences, DifferenceBlock)
PGGAN_FLOAT_OR_DOUBLE(merge_phases, merge, DifferenceBlock)
PGGAN_FLOAT_OR_DOUBLE(split_phases, split, DifferenceBlock)
PGGAN_FLOAT_OR_DOUBLE(difference_weight, weights, DifferenceWeight)
PGGAN_FLOAT_OR_DOUBLE(difference_weight_gradient, weights_gradient, DifferenceWeight)

}  // namespace pggan::PGGAN_ISA
