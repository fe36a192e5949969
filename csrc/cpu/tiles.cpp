// Images to the values of their tiles, and products of those to images: half of what the compiler would do for each
// kernel of tiles by itself.
#include "tiles.h"

namespace pggan::PGGAN_ISA {

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

#define PGGAN_INPUTS(Form, T, A) \
  template void input_maps<Form, T, A>(const Image<const T>&, const Run&, Channels, const TileMaps<A>&);
#define PGGAN_FORM(Form)                                                                                      \
  PGGAN_INPUTS(Form, float, float)                                                                            \
  PGGAN_INPUTS(Form, Half, float)                                                                             \
  PGGAN_INPUTS(Form, BFloat, float)                                                                           \
  PGGAN_INPUTS(Form, double, double)                                                                          \
  template void output_lines<Form>(const TileMaps<float>&, const Run&, int64_t, int64_t, float* const*);      \
  template void output_lines<Form>(const TileMaps<double>&, const Run&, int64_t, int64_t, double* const*);

PGGAN_FORM(Single)
PGGAN_FORM(Winograd)
PGGAN_FORM(LargeWinograd)
PGGAN_FORM(Doubled)
PGGAN_FORM(Halved)

}  // namespace pggan::PGGAN_ISA
