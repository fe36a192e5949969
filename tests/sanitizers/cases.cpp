// One case or more for every kernel of the table: sizes that make several chunks, odd ones among them. A kernel without
// one fails the driver; a new one takes a RUN in the function below that has its dtypes and layouts.
#include "driver.h"

namespace driver {
namespace {

#define RUN(kernel, ...) d.run(#kernel, &Kernels::kernel, [&](Tensors & t) { return __VA_ARGS__; })

std::string words(int dtype, int64_t c, bool channels_last) {
  static const char* const names[] = {"float32", "float16", "bfloat16", "float64"};
  return std::string(names[dtype]) + (channels_last ? ", channels last, " : ", planes, ") + std::to_string(c);
}

// Of any dtype, in either layout

void bias_acts(Driver& d, int dtype, const Shape& s) {
  const int64_t pixels = s.n * s.h * s.w, size = pixels * s.c, bits = pixels * ((s.c + 7) / 8);
  const int acc = accumulator(dtype);
  for (int norm : {NORM_NONE, NORM_AFTER_ACT, NORM_BEFORE_ACT}) {
    const auto r = [&](void* factor) { return norm == NORM_NONE ? nullptr : factor; };
    RUN(bias_act_forward, BiasActForward{t.in(dtype, size), t.in(F32, s.c), t.out(dtype, size), r(t.out(acc, pixels)),
                                         nullptr, dtype, F32, s, false, 0.7, 1.3, 0.2, norm, 0.1, true});
    RUN(bias_act_backward, BiasActBackward{t.in(dtype, size), r(t.in(acc, pixels)), t.in(dtype, size),
                                           r(t.in(acc, pixels)), nullptr, t.out(dtype, size), t.out(acc, s.c), dtype, s,
                                           false, 0.7, 1.3, 0.2, norm, 0.1, true, nullptr});
  }
  RUN(bias_act_forward, [&] {
    void* u = t.in_out(dtype, size);
    return BiasActForward{u, nullptr, u, t.out(acc, pixels), nullptr, dtype, F32, s, false, 0.7, 1.0, 0.2,
                          NORM_AFTER_ACT, 0.1, false};
  }());
  RUN(bias_act_forward, BiasActForward{t.in(dtype, size), t.in(dtype, s.c), t.out(dtype, size / 4), nullptr,
                                       t.mask_out(bits), dtype, dtype, s, true, 0.7, 1.3, 0.2, NORM_NONE, 0.0, true});
  for (bool pool : {false, true}) {
    RUN(bias_act_backward, BiasActBackward{t.in(dtype, pool ? size / 4 : size), nullptr, nullptr, nullptr, t.mask(bits),
                                           t.out(dtype, size), t.out(acc, s.c), dtype, s, pool, 0.7, 1.3, 0.2,
                                           NORM_NONE, 0.0, true, nullptr});
  }
  RUN(masked_pool, MaskedPool{t.in(dtype, size), t.mask(bits), t.out(dtype, size / 4), dtype, s, 0.7, 0.2});
}

void fades(Driver& d, int dtype, const Shape& s) {
  const int64_t size = s.n * s.c * s.h * s.w;
  for (bool up : {false, true}) {
    const int64_t low = up ? size / 4 : size;
    RUN(fade_in_forward,
        FadeInForward{t.in(dtype, low), t.in(dtype, size), t.alpha(), t.out(dtype, size), dtype, s, up});
    RUN(fade_in_backward,
        FadeInBackward{t.in(dtype, size), t.alpha(), t.out(dtype, low), t.out(dtype, size), dtype, s, up});
  }
  RUN(fade_reals, FadeReals{t.in(dtype, size), t.alpha(), t.out(dtype, size), dtype, s});
}

void rgb(Driver& d, int dtype, const Shape& s) {
  const int64_t pixels = s.n * s.h * s.w, low = 17;
  for (int64_t colours : {1, 3}) {
    const auto weights = [&](Tensors& t, int64_t out, int64_t in) {
      return Pointwise{t.in(dtype, out * in), t.in(F32, out), dtype, F32, 0.7, 1.3};
    };
    RUN(to_rgb_fade_in_forward,
        ToRgbFadeIn{t.in(dtype, pixels / 4 * low), t.in(dtype, pixels * s.c), weights(t, colours, low),
                    weights(t, colours, s.c), t.alpha(), t.out(dtype, pixels * colours), dtype,
                    {s.n, colours, s.h, s.w, s.channels_last}, low, s.c});
    RUN(from_rgb_fade_in_forward,
        FromRgbFadeIn{t.in(dtype, pixels * 4 * colours), t.in(dtype, pixels * s.c), weights(t, s.c, colours), t.alpha(),
                      t.out(dtype, pixels * s.c), t.mask_out(pixels * ((s.c + 7) / 8)), dtype, s, colours, 0.2});
  }
}

void minibatch_stddevs(Driver& d, int dtype, const Shape& s) {
  const int64_t pixels = s.n * s.h * s.w, size = pixels * s.c;
  for (bool strided : {false, true}) {
    RUN(minibatch_stddev_forward, MinibatchStddevForward{t.in(dtype, size), t.out(dtype, size + pixels), dtype, s, 2,
                                                         strided, 2, 0.1, nullptr});
    RUN(minibatch_stddev_backward, MinibatchStddevBackward{t.in(dtype, size + pixels), t.in(dtype, size),
                                                           t.out(dtype, size), dtype, s, 2, strided, 2, 0.1, nullptr});
  }
}

// Of float and double alone, channels last

void winograd(Driver& d, int dtype, int64_t c) {
  const Shape s{2, c, 20, 17, true};
  const int64_t image = s.n * s.h * s.w * c, first = 3, count = 16, tiles = 16 * count * ((s.w + 1) / 2) * c;
  RUN(winograd_input, WinogradTiles{t.in(dtype, image), t.out(dtype, tiles), dtype, s, first, count});
  RUN(winograd_output_gradient, WinogradTiles{t.in(dtype, image), t.out(dtype, tiles), dtype, s, first, count});
  RUN(winograd_output, WinogradTiles{t.out(dtype, image), t.in(dtype, tiles), dtype, s, first, count});
  const int64_t pairs = 150 * c + 3;
  for (bool flip : {false, true}) {
    RUN(winograd_weight,
        WinogradWeight{t.in(dtype, 9 * pairs), t.out(dtype, 16 * pairs), dtype, pairs, flip, 0.7});
    RUN(winograd_weight_gradient,
        WinogradWeight{t.out(dtype, 9 * pairs), t.in(dtype, 16 * pairs), dtype, pairs, flip, 0.7});
  }
}

void phase_weights(Driver& d, int dtype, int64_t out, int64_t in) {
  const int64_t strides[][4] = {{16 * in, 16, 4, 1}, {16 * in, 1, 4 * in, in}, {1, 16 * out, 4 * out, out}};
  const int64_t pairs = out * in;
  for (const auto& at : strides) {
    const auto with = [&](void* weight, void* summed) {
      return PhaseWeight{weight, summed, dtype, out, in, {at[0], at[1], at[2], at[3]}, &at == strides, 0.7};
    };
    RUN(phase_weight, with(t.in(dtype, 9 * pairs), t.out(dtype, 16 * pairs)));
    RUN(phase_weight_gradient, with(t.out(dtype, 9 * pairs), t.in(dtype, 16 * pairs)));
  }
}

void differences(Driver& d, int dtype, int64_t c) {
  const Shape small{3, c, 20, 18, true}, large{3, c, 40, 36, true};
  const int64_t samples = 2, rows = 17;
  // Rows 2 to 18 of samples 1 and 2; `larger`: the image is the larger one, whose maps have c, 2 c, 2 c, 4 c channels
  const auto block = [&](bool larger, void* image, const auto& map) {
    const int64_t w = small.w, two = larger ? 2 * c : c, four = larger ? 4 * c : c;
    return DifferenceBlock{image,
                           map(samples * rows * w * c),
                           map(samples * (rows + 1) * w * two),
                           map(samples * rows * (w + 1) * two),
                           map(samples * (rows + 1) * (w + 1) * four),
                           dtype,
                           larger ? large : small,
                           1,
                           samples,
                           2,
                           rows};
  };
  const int64_t size = small.n * small.h * small.w * c;
  const auto given = [&](Tensors& t) { return [&](int64_t n) { return t.in(dtype, n); }; };
  const auto wanted = [&](Tensors& t) { return [&](int64_t n) { return t.out(dtype, n); }; };
  RUN(difference_maps, block(false, t.in(dtype, size), wanted(t)));
  RUN(difference_maps_transposed, block(false, t.out(dtype, size), given(t)));
  RUN(merge_phases, block(true, t.out(dtype, 4 * size), given(t)));
  RUN(split_phases, block(true, t.in(dtype, 4 * size), wanted(t)));
}

void difference_weights(Driver& d, int dtype, int64_t out, int64_t in) {
  const int64_t size = 9 * out * in;
  for (bool transpose : {false, true}) {
    RUN(difference_weight, DifferenceWeight{t.in(dtype, size), t.out(dtype, size), dtype, out, in, transpose, 0.7});
    RUN(difference_weight_gradient,
        DifferenceWeight{t.out(dtype, size), t.in(dtype, size), dtype, out, in, transpose, 0.7});
  }
}

}  // namespace

void run_kernels(Driver& d) {
  for (int64_t c : {24, 13}) {  // whole bytes of a mask, and not
    for (int dtype : {F32, F16}) {
      for (bool channels_last : {false, true}) {
        const Shape s{4, c, 32, 34, channels_last};
        d.how = words(dtype, c, channels_last);
        bias_acts(d, dtype, s);
        fades(d, dtype, s);
        rgb(d, dtype, s);
        minibatch_stddevs(d, dtype, s);
      }
    }
    for (int dtype : {F32, F64}) {
      d.how = words(dtype, c, true);
      winograd(d, dtype, c);
      phase_weights(d, dtype, 3 * c, 50);
      differences(d, dtype, c);
      difference_weights(d, dtype, 3 * c, 50);
    }
  }
}

}  // namespace driver
