// A convolution and what follows it, a block of tiles at a time: input transform, products, output transform, bias,
// leaky ReLU, pixel norm.
#pragma once

#include "epilogue.h"
#include "tiles.h"

namespace pggan::PGGAN_ISA {

// The weight's values [POINTS^2, panels of [in, columns]], transformed: those given, or memory for the length of one
// call.
template <class Form, class A>
struct TransformedWeights {
  static constexpr int64_t POINTS = Form::POINTS * Form::POINTS, TAPS = Form::K * Form::K;
  int64_t in, columns;  // outputs in whole vectors
  Scratch<A> memory;
  A* values;

  explicit TransformedWeights(const TiledConv& a)
      : in(a.in_channels), columns(whole_vectors<A>(a.out_channels)), memory(a.transformed ? 0 : POINTS * in * columns),
        values(a.transformed ? static_cast<A*>(a.transformed) : memory.data) {}

  // Of a's weight.
  int transform(const TiledConv& a) {
    const int64_t count = TAPS * a.in_channels * a.out_channels;
    const bool as_it_is = a.weight_dtype == (sizeof(A) == 8 ? F64 : F32);
    Scratch<A> loaded(as_it_is ? 0 : count);
    if (!values || !loaded) return NO_MEMORY;
    const A* weight = static_cast<const A*>(a.weight);
    if (!as_it_is) {
      if (int status = load_parameter(a.weight, a.weight_dtype, count, 1.0, loaded.data)) return status;
      weight = loaded.data;
    }
    const A scale = A(a.scale * Form::SCALE);
    constexpr int64_t inputs = 64;  // one vector of outputs at a time: their weights lie far apart
    const int64_t parts = ceil_div(in, inputs);
    return Chunks(columns / LANES<A> * parts, POINTS * inputs * LANES<A>).run([&](int64_t, int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        const int64_t o = part / parts * LANES<A>, first = part % parts * inputs;
        for (int64_t i = first; i < minimum(first + inputs, in); ++i) transform_vector(a, weight, scale, i, o);
      }
    });
  }

  const A* panel(int64_t point, int64_t first) const { return values + (point * columns + first) * in; }

 private:
  // A vector of outputs o of input i.
  void transform_vector(const TiledConv& a, const A* weight, A scale, int64_t i, int64_t o) {
    A taps[TAPS][LANES<A>] = {};
    for (int64_t j = 0; j < minimum(LANES<A>, a.out_channels - o); ++j) {
      const A* from = weight + TAPS * (a.adjoint ? i * a.out_channels + o + j : (o + j) * in + i);
      for (int64_t k = 0; k < TAPS; ++k) taps[k][j] = from[a.adjoint ? TAPS - 1 - k : k];
    }
    Vector<A> g[TAPS], rows[Form::POINTS][Form::K], out[Form::POINTS][Form::POINTS];
    for (int64_t k = 0; k < TAPS; ++k) g[k] = scale * read_vector<A>(taps[k]);
    for (int64_t j = 0; j < Form::K; ++j) Form::template weight<A>(g + j, Form::K, &rows[0][j], Form::K);
    for (int64_t r = 0; r < Form::POINTS; ++r) Form::template weight<A>(rows[r], 1, out[r], 1);
    constexpr int64_t wide = TILE_VECTORS * LANES<A>;
    const int64_t first = o / wide * wide, width = minimum(wide, columns - first);
    for (int64_t k = 0; k < POINTS; ++k)
      write_vector<A>(values + (k * columns + first) * in + i * width + o - first,
                      out[k / Form::POINTS][k % Form::POINTS]);
  }
};

// From images of T to images of U.
template <class Form, class T, class U, class A>
class Convolution {
  static constexpr int64_t POINTS = Form::POINTS * Form::POINTS;
  static constexpr int64_t PRODUCTS = Form::OUT == 1 ? 1 : POINTS;  // maps of them: one where all are summed

 public:
  const int64_t h, w;  // of y
  const Grid grid;

  explicit Convolution(const TiledConv& a_)
      : h(a_.h * Form::OUT / Form::STEP), w(a_.w * Form::OUT / Form::STEP),
        grid{a_.n, ceil_div(h, Form::OUT), ceil_div(w, Form::OUT)}, a(a_), weights(a),
        bias(wide_rows<A>(a.out_channels)),
        most(block_tiles<A>(POINTS, a.in_channels + PRODUCTS * a.out_channels / POINTS, grid.count())),
        ins(POINTS * TileMaps<A>(a.in_channels, most, nullptr).map),
        outs(PRODUCTS * TileMaps<A>(a.out_channels, most, nullptr).map),
        line(std::is_same_v<U, A> ? 0 : padded<A>(most * Form::OUT * a.out_channels)) {}

  // To be called once before `tiles`.
  int prepare() {
    if (!bias) return NO_MEMORY;
    if (int status = a.transformed ? OK : weights.transform(a)) return status;
    const ConvEpilogue& e = a.epilogue;
    return load_bias(e.bias, e.bias_dtype, a.out_channels, e.bias_scale, bias.data);
  }

  // Elements that `tiles` needs, zeros at first.
  int64_t memory() const { return ins + outs + Form::OUT * line + wide_rows<A>(a.out_channels); }

  // Tiles [begin, end), counted by `grid`; r as in TiledConv.
  void tiles(const Image<const T>& x, const Image<U>& y, A* r, int64_t begin, int64_t end, A* memory) const {
    const TileMaps<A> values(a.in_channels, most, memory), products(a.out_channels, most, memory + ins);
    each_block(begin, end, most, [&](int64_t first, int64_t last) {
      grid.each_run(first, last, [&](const Run& run) { input_maps<Form>(x, run, {0, a.in_channels}, values); });
      multiply(values, products, last - first);
      grid.each_run(first, last, [&](const Run& run) { output(products, run, y, r, memory + ins + outs); });
    });
  }

 private:
  const TiledConv& a;
  TransformedWeights<Form, A> weights;
  Scratch<A> bias;
  int64_t most, ins, outs, line;  // tiles of a block; elements of their maps, and of a line before it is rounded to U

  // Where all products are summed they are added one by one: shorter chains round less.
  void multiply(const TileMaps<A>& values, const TileMaps<A>& products, int64_t tiles) const {
    for (int64_t point = 0; point < POINTS; ++point)
      each_panel<A>(weights.columns, [&](int64_t first, int64_t width) {
        Product<A> p{};
        p.a = values.data + point * values.map;
        p.a_row = values.channels;
        p.a_k = 1;
        p.b = weights.panel(point, first);
        p.b_k = width;
        p.out = products.data + (PRODUCTS == 1 ? 0 : point) * products.map + first;
        p.out_row = products.channels;
        p.k = a.in_channels;
        p.add = PRODUCTS == 1 && point > 0;
        multiply_panel(p, tiles, width);
      });
  }

  // The pixels of a run: OUT lines of them, in y itself where it holds the type of sums, else by way of `lines`.
  void output(const TileMaps<A>& products, const Run& run, const Image<U>& y, A* r, A* lines) const {
    const int64_t first = run.first * Form::OUT, pixels = minimum(w - first, (run.last - run.first) * Form::OUT);
    U* to[Form::OUT];
    A* from[Form::OUT];
    for (int64_t i = 0; i < Form::OUT; ++i) {
      to[i] = y.line(run.sample, run.row * Form::OUT + i);
      if (to[i]) to[i] += first * y.c;
      if constexpr (std::is_same_v<U, A>)
        from[i] = to[i];
      else
        from[i] = to[i] ? lines + i * line : nullptr;
    }
    output_lines<Form>(products, run, y.c, pixels, from);
    for (int64_t i = 0; i < Form::OUT; ++i) {
      const int64_t pixel = (run.sample * h + run.row * Form::OUT + i) * w + first;
      if (to[i]) finish(from[i], to[i], r ? r + pixel : nullptr, pixels, lines + Form::OUT * line);
    }
  }

  void finish(const A* from, U* to, A* r, int64_t pixels, A* wide) const {
    const ConvEpilogue& last = a.epilogue;
    const int64_t c = a.out_channels;
    const Epilogue<A> e{A(1), A(last.slope), A(last.eps), last.eps_inside, bias.data, c, wide_rows<A>(c)};
    switch (last.norm) {
      case NORM_NONE:
        if (std::is_same_v<U, A> && !last.bias && last.slope == 1.0) return;
        return epilogue_rows<NORM_NONE>(e, from, to, r, pixels, wide);
      case NORM_AFTER_ACT: return epilogue_rows<NORM_AFTER_ACT>(e, from, to, r, pixels, wide);
      default: return epilogue_rows<NORM_BEFORE_ACT>(e, from, to, r, pixels, wide);
    }
  }
};

}  // namespace pggan::PGGAN_ISA
