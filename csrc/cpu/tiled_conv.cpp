// 3x3 convolutions of few channels, "none", "up" and "down", and their input gradients, with what follows them. A block
// of tiles goes through cache in one piece: input transform, products, output transform, bias, leaky ReLU, pixel norm.
#include "epilogue.h"
#include "tiles.h"

namespace pggan::PGGAN_ISA {
namespace {

// The weight's values [POINTS^2, panels of [in, columns]], transformed; memory for the length of one call.
template <class Form, class A>
struct Weights {
  static constexpr int64_t POINTS = Form::POINTS * Form::POINTS;
  int64_t in, columns;  // outputs in whole vectors
  Scratch<A> values;

  explicit Weights(const TiledConv& a)
      : in(a.in_channels), columns(whole_vectors<A>(a.out_channels)), values(POINTS * in * columns) {}

  int prepare(const TiledConv& a) {
    const int64_t count = 9 * a.in_channels * a.out_channels;
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
        for (int64_t i = first; i < minimum(first + inputs, in); ++i) transform(a, weight, scale, i, o);
      }
    });
  }

  const A* panel(int64_t point, int64_t first) const { return values.data + (point * columns + first) * in; }

 private:
  // A vector of outputs o of input i.
  void transform(const TiledConv& a, const A* weight, A scale, int64_t i, int64_t o) {
    A taps[9][LANES<A>] = {};
    for (int64_t j = 0; j < minimum(LANES<A>, a.out_channels - o); ++j) {
      const A* from = weight + 9 * (a.adjoint ? i * a.out_channels + o + j : (o + j) * in + i);
      for (int64_t k = 0; k < 9; ++k) taps[k][j] = from[a.adjoint ? 8 - k : k];
    }
    Vector<A> g[9], rows[Form::POINTS][3], out[Form::POINTS][Form::POINTS];
    for (int64_t k = 0; k < 9; ++k) g[k] = scale * read_vector<A>(taps[k]);
    for (int64_t j = 0; j < 3; ++j) Form::template weight<A>(g + j, 3, &rows[0][j], 3);
    for (int64_t r = 0; r < Form::POINTS; ++r) Form::template weight<A>(rows[r], 1, out[r], 1);
    constexpr int64_t wide = TILE_VECTORS * LANES<A>;
    const int64_t first = o / wide * wide, width = minimum(wide, columns - first);
    for (int64_t k = 0; k < POINTS; ++k)
      write_vector<A>(values.data + (k * columns + first) * in + i * width + o - first,
                      out[k / Form::POINTS][k % Form::POINTS]);
  }
};

template <class A>
Epilogue<A> epilogue_of(const TiledConv& a, const A* bias) {
  const ConvEpilogue& e = a.epilogue;
  return {A(1), A(e.slope), A(e.eps), e.eps_inside, bias, a.out_channels, wide_rows<A>(a.out_channels)};
}

template <class Form, class T, class A>
class Convolution {
  static constexpr int64_t POINTS = Form::POINTS * Form::POINTS;
  static constexpr int64_t PRODUCTS = Form::OUT == 1 ? 1 : POINTS;  // maps of them: one where all are summed

 public:
  explicit Convolution(const TiledConv& a_)
      : a(a_), weights(a), bias(wide_rows<A>(a.out_channels)),
        x{static_cast<const T*>(a.x), a.n, a.h, a.w, a.in_channels},
        y{static_cast<T*>(a.y), a.n, a.h * Form::OUT / Form::STEP, a.w * Form::OUT / Form::STEP, a.out_channels},
        grid{a.n, ceil_div(y.h, Form::OUT), ceil_div(y.w, Form::OUT)},
        most(block_tiles<A>(POINTS, a.in_channels + (PRODUCTS * a.out_channels) / POINTS)) {}

  int run() {
    if (!bias) return NO_MEMORY;
    if (int status = weights.prepare(a)) return status;
    if (int status = load_bias(a.epilogue.bias, a.epilogue.bias_dtype, a.out_channels, a.epilogue.bias_scale, bias.data))
      return status;
    const TileMaps<A> in(a.in_channels, most, nullptr), out(a.out_channels, most, nullptr);
    const int64_t ins = POINTS * in.map, outs = PRODUCTS * out.map, line = padded<A>(most * Form::OUT * y.c);
    const int64_t lines = std::is_same_v<T, A> ? 0 : Form::OUT * line;
    const Chunks chunks = tile_chunks(grid, POINTS * (a.in_channels + a.out_channels));
    return chunks.run_with<A>(ins + outs + lines + wide_rows<A>(y.c), [&](A* memory, int64_t, int64_t begin, int64_t end) {
      each_block(begin, end, most, [&](int64_t first, int64_t last) {
        const TileMaps<A> values(a.in_channels, most, memory), products(a.out_channels, most, memory + ins);
        grid.each_run(first, last, [&](const Run& run) { input_maps<Form>(x, run, {0, x.c}, values); });
        multiply(values, products, last - first);
        A* buffers = memory + ins + outs;
        grid.each_run(first, last, [&](const Run& run) { output(products, run, buffers, line, buffers + lines); });
      });
    });
  }

 private:
  const TiledConv& a;
  Weights<Form, A> weights;
  Scratch<A> bias;
  Image<const T> x;
  Image<T> y;
  Grid grid;
  int64_t most;

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

  // The pixels of a run: OUT lines of them, in y itself where it holds the type of sums, else by way of `buffers`.
  void output(const TileMaps<A>& products, const Run& run, A* buffers, int64_t buffer, A* wide) const {
    const int64_t first = run.first * Form::OUT, pixels = minimum(y.w - first, (run.last - run.first) * Form::OUT);
    T* to[Form::OUT];
    A* lines[Form::OUT];
    for (int64_t i = 0; i < Form::OUT; ++i) {
      to[i] = y.line(run.sample, run.row * Form::OUT + i);
      if (to[i]) to[i] += first * y.c;
      if constexpr (std::is_same_v<T, A>)
        lines[i] = to[i];
      else
        lines[i] = to[i] ? buffers + i * buffer : nullptr;
    }
    output_lines<Form>(products, run, y.c, pixels, lines);
    for (int64_t i = 0; i < Form::OUT; ++i)
      if (to[i]) finish(lines[i], to[i], (run.sample * y.h + run.row * Form::OUT + i) * y.w + first, pixels, wide);
  }

  void finish(const A* line, T* to, int64_t pixel, int64_t pixels, A* wide) const {
    const Epilogue<A> e = epilogue_of(a, bias.data);
    A* r = static_cast<A*>(a.r) + (a.r ? pixel : 0);
    switch (a.epilogue.norm) {
      case NORM_NONE:
        if (std::is_same_v<T, A> && !a.epilogue.bias && a.epilogue.slope == 1.0) return;
        return epilogue_rows<NORM_NONE>(e, line, to, r, pixels, wide);
      case NORM_AFTER_ACT: return epilogue_rows<NORM_AFTER_ACT>(e, line, to, r, pixels, wide);
      default: return epilogue_rows<NORM_BEFORE_ACT>(e, line, to, r, pixels, wide);
    }
  }
};

}  // namespace

int tiled_conv(const TiledConv& a) {
  if (a.n * a.h * a.w * a.in_channels * a.out_channels == 0) return OK;
  return dispatch(a.dtype, [&](auto t) {
    return with_form(a.resample, [&](auto form) {
      return Convolution<decltype(form), typename decltype(t)::T, typename decltype(t)::A>(a).run();
    });
  });
}

}  // namespace pggan::PGGAN_ISA
