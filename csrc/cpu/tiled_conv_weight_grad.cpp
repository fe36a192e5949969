// The weight gradient of tiled_conv. With V the input's values of a tile (Form::input) and Z those of dy
// (Form::spread), dU = sum over tiles of Z V^T, and Form::gather takes dU to the weight. A unit of work is a piece of
// the tiles, a part of the outputs and a part of the inputs, with a dU of its own that stays in cache; those of all
// pieces are added in order.
#include "planes.h"
#include "tiles.h"

namespace pggan::PGGAN_ISA {
namespace {

template <class T>
void store_element(void* to, int64_t i, double value) {
  if constexpr (std::is_arithmetic_v<T>)
    static_cast<T*>(to)[i] = static_cast<T>(value);
  else
    narrow(static_cast<float>(value), static_cast<T*>(to)[i]);
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

// Channels in parts of at most MOST, but for the last of `size` each.
struct Parts {
  int64_t size, count;
  template <int64_t MOST>
  static Parts of(int64_t channels) {
    const int64_t size = minimum(MOST, channels);
    return {size, ceil_div(channels, size)};
  }
  Channels part(int64_t i) const { return {i * size, size}; }
};

template <class Form, class A>
class WeightGradient {
  static constexpr int64_t POINTS = Form::POINTS * Form::POINTS, TAPS = Form::K * Form::K;
  static constexpr int64_t SPREAD = Form::OUT == 1 ? 1 : POINTS;  // maps of dy: one where all are the same
  static constexpr int64_t LEAST_TILES = 32, MOST_PIECES = 32, MOST_BYTES = 32 << 20;

 public:
  explicit WeightGradient(const TiledConvWeightGrad& a_)
      : a(a_), h(a.h * Form::OUT / Form::STEP), w(a.w * Form::OUT / Form::STEP),
        grid{a.n, ceil_div(h, Form::OUT), ceil_div(w, Form::OUT)}, ins(Parts::of<128>(a.in_channels)),
        outs(Parts::of<64>(a.out_channels)), columns(row_step<A>(ins.size)),
        map(whole_vectors<A>(outs.size) * columns), unit(POINTS * map),
        pieces(grid.count(), POINTS * (a.in_channels + a.out_channels),
               maximum(1, minimum(MOST_PIECES, MOST_BYTES / (bytes() * ins.count * outs.count))),
               LEAST_TILES) {}

  // Of images of T.
  template <class T>
  int run() {
    const Scratch<A> sums(pieces.count * outs.count * ins.count * unit);
    if (!sums) return NO_MEMORY;
    if (int status = accumulate<T>(sums.data)) return status;
    return gather(sums.data);
  }

 private:
  const TiledConvWeightGrad& a;
  int64_t h, w;  // of dy
  Grid grid;
  Parts ins, outs;
  int64_t columns, map, unit;  // of a unit's dU [POINTS^2, outputs, columns]
  Chunks pieces;

  int64_t bytes() const { return unit * static_cast<int64_t>(sizeof(A)); }

  template <class T>
  int accumulate(A* sums) const {
    const auto x = Image<const T>::whole(static_cast<const T*>(a.x), a.h, a.w, a.in_channels);
    const auto dy = Image<const T>::whole(static_cast<const T*>(a.dy), h, w, a.out_channels);
    const int64_t most = block_tiles<A>(POINTS, ins.size + outs.size, minimum(pieces.size, pieces.units));
    const TileMaps<A> in(ins.size, most, nullptr), out(outs.size, most, nullptr);
    const Chunks units(pieces.count * outs.count * ins.count, 2 * Chunks::LEAST_ELEMENTS);
    return units.run_with<A>(POINTS * in.map + SPREAD * out.map, [&](A* memory, int64_t, int64_t begin, int64_t end) {
      const TileMaps<A> values(ins.size, most, memory), spread(outs.size, most, memory + POINTS * in.map);
      for (int64_t u = begin; u < end; ++u) {
        const Channels some_in = ins.part(u % ins.count), some_out = outs.part(u / ins.count % outs.count);
        const int64_t first = u / (ins.count * outs.count) * pieces.size;
        each_block(first, minimum(first + pieces.size, pieces.units), most, [&](int64_t tile, int64_t last) {
          grid.each_run(tile, last, [&](const Run& run) {
            input_maps<Form>(x, run, some_in, values);
            spread_maps<Form>(dy, run, some_out, spread);
          });
          multiply(values, spread, last - tile, tile > first, sums + u * unit);
        });
      }
    });
  }

  void multiply(const TileMaps<A>& values, const TileMaps<A>& spread, int64_t tiles, bool add, A* du) const {
    for (int64_t point = 0; point < POINTS; ++point)
      each_panel<A>(whole_vectors<A>(ins.size), [&](int64_t first, int64_t width) {
        Product<A> p{};
        p.a = spread.data + (SPREAD == 1 ? 0 : point) * spread.map;
        p.a_row = 1;
        p.a_k = spread.channels;
        p.b = values.data + point * values.map + first;
        p.b_k = values.channels;
        p.out = du + point * map + first;
        p.out_row = columns;
        p.k = tiles;
        p.add = add;
        multiply_panel(p, outs.size, width);
      });
  }

  int gather(const A* sums) const {
    if (int status = dispatch(a.dw_dtype, [](auto) { return OK; })) return status;
    return Chunks(a.out_channels, pieces.count * POINTS * a.in_channels).run([&](int64_t, int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o)
        for (int64_t part = 0; part < ins.count; ++part)
          for (int64_t i = 0; i < minimum(ins.size, a.in_channels - part * ins.size); i += LANES<A>)
            gather_vector(sums + (o / outs.size * ins.count + part) * unit + o % outs.size * columns + i, o,
                          part * ins.size + i);
    });
  }

  // The weights of output o and of a vector of inputs from i on.
  void gather_vector(const A* from, int64_t o, int64_t i) const {
    Vector<A> du[POINTS] = {}, rows[Form::K][Form::POINTS], g[TAPS];
    for (int64_t piece = 0; piece < pieces.count; ++piece, from += outs.count * ins.count * unit)
      for (int64_t k = 0; k < POINTS; ++k) du[k] += read_vector<A>(from + k * map);
    for (int64_t j = 0; j < Form::POINTS; ++j)
      Form::template gather<A>(du + j, Form::POINTS, &rows[0][j], Form::POINTS);
    for (int64_t r = 0; r < Form::K; ++r) Form::template gather<A>(rows[r], 1, g + Form::K * r, 1);
    const A scale = A(a.scale * Form::SCALE);
    dispatch(a.dw_dtype, [&](auto t) {
      for (int64_t j = 0; j < minimum(LANES<A>, a.in_channels - i); ++j)
        for (int64_t k = 0; k < TAPS; ++k)
          store_element<typename decltype(t)::T>(a.dw, (o * a.in_channels + i + j) * TAPS + k, scale * g[k][j]);
      return OK;
    });
  }
};

}  // namespace

int tiled_conv_weight_grad(const TiledConvWeightGrad& a) {
  if (a.in_channels * a.out_channels == 0) return OK;  // of no pixels it is zero
  return dispatch(a.dtype, [&](auto t) {
    using T = typename decltype(t)::T;
    const InRows<T> x(a.x, a.x_planes, a.n, a.in_channels, a.h * a.w);
    const InRows<T> dy(a.dy, a.dy_planes, a.n, a.out_channels, resampled_pixels(a.resample, a.h * a.w));
    if (!x || !dy) return static_cast<int>(NO_MEMORY);
    TiledConvWeightGrad in_rows = a;
    in_rows.x = x.read();
    in_rows.dy = dy.read();
    return with_form(a.k, a.resample, a.large_tiles, [&](auto form) {
      return WeightGradient<decltype(form), typename decltype(t)::A>(in_rows).template run<T>();
    });
  });
}

}  // namespace pggan::PGGAN_ISA
