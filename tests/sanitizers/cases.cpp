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

// Channels last

TiledConv tiled_conv(Tensors& t, int dtype, int64_t h, int64_t w, int64_t in, int64_t out, int resample, bool adjoint,
                     bool large_tiles, int k = 3, bool planes = false) {
  const int64_t n = 2, size = n * h * w;
  const int64_t pixels = resample == RESAMPLE_UP ? 4 * size : resample == RESAMPLE_DOWN ? size / 4 : size;
  return {t.in(dtype, size * in), t.in(dtype, k * k * in * out), nullptr, t.out(dtype, pixels * out),
          t.out(accumulator(dtype), pixels), dtype, dtype, n, h, w, in, out, k, resample, adjoint, large_tiles, 0.7,
          {t.in(dtype, out), dtype, 0.5, 0.2, NORM_AFTER_ACT, 0.1, true}, planes, planes};
}

TiledConvWeightGrad weight_grad(Tensors& t, int dtype, int64_t h, int64_t w, int64_t in, int64_t out, int resample,
                                bool large_tiles, int k = 3, bool planes = false) {
  const int64_t n = 2, size = n * h * w;
  const int64_t pixels = resample == RESAMPLE_UP ? 4 * size : resample == RESAMPLE_DOWN ? size / 4 : size;
  return {t.in(dtype, size * in), t.in(dtype, pixels * out), t.out(dtype, k * k * in * out), dtype, dtype, n, h, w, in,
          out, k, resample, large_tiles, 0.7, planes, planes};
}

// Of a layer without resampling, in either format; its parts read and write no du of ours.
TiledLayerBackward layer_backward(Tensors& t, int dtype, int64_t in, int64_t out, int k, bool planes) {
  const int64_t n = 2, h = 44, w = 69, pixels = n * h * w;
  TiledLayerBackward a{{t.in(dtype, pixels * out), nullptr, t.in(dtype, pixels * out),
                        t.in(accumulator(dtype), pixels), nullptr, nullptr, t.out(accumulator(dtype), out), dtype,
                        {n, out, h, w, !planes}, false, 1.0, 0.5, 0.2, NORM_AFTER_ACT, 0.1, true, nullptr},
                       tiled_conv(t, dtype, h, w, out, in, RESAMPLE_NONE, true, false, k, planes),
                       weight_grad(t, dtype, h, w, in, out, RESAMPLE_NONE, false, k, planes)};
  a.input_grad.x = a.weight_grad.dy = nullptr;
  a.input_grad.r = nullptr;
  a.input_grad.epilogue = {nullptr, 0, 1.0, 1.0, NORM_NONE, 0.0, true};
  return a;
}

void tiled_convs(Driver& d, int dtype, int64_t in, int64_t out) {
  const int64_t h = 22, w = 34;
  for (bool planes : {false, true})
    for (int k : {1, 3}) {
      RUN(tiled_conv, tiled_conv(t, dtype, 44, 69, in, out, RESAMPLE_NONE, false, false, k, planes));
      RUN(tiled_conv_weight_grad, weight_grad(t, dtype, 44, 69, in, out, RESAMPLE_NONE, false, k, planes));
      RUN(tiled_layer_backward, layer_backward(t, dtype, in, out, k, planes));
    }
  for (bool large : {false, true})
    for (int resample : {RESAMPLE_NONE, RESAMPLE_UP, RESAMPLE_DOWN}) {
      for (bool adjoint : {false, true}) {
        RUN(tiled_conv, tiled_conv(t, dtype, h, w, in, out, resample, adjoint, large));
        RUN(tiled_weight, [&] {
          TiledConv conv = tiled_conv(t, dtype, 2, 2, in, 80, resample, adjoint, large);
          conv.transformed = t.out(accumulator(dtype), 36 * in * 80);
          return conv;
        }());
      }
      RUN(tiled_conv_weight_grad, weight_grad(t, dtype, h, w, in, out, resample, large));
    }
}

// Features, and an image of two levels.
void stages(Driver& d, int dtype, int64_t in, int64_t out) {
  const int64_t h = 40, w = 9, colours = 3;
  for (bool large : {false, true})
    for (bool shows : {false, true}) {
      const auto stage = [&](Tensors& t) {
        TiledStage s{tiled_conv(t, dtype, h, w, in, out, RESAMPLE_UP, false, false),
                     tiled_conv(t, dtype, 2 * h, 2 * w, out, out, RESAMPLE_NONE, false, large), nullptr, {}, {},
                     t.alpha(), 0, true};
        if (!shows) return s;
        s.image = t.out(dtype, s.up.n * 4 * h * w * colours);
        s.image_channels = colours;
        s.high = {t.in(dtype, colours * out), t.in(dtype, colours), dtype, dtype, 0.7, 0.5};
        s.low = {t.in(dtype, colours * in), t.in(dtype, colours), dtype, dtype, 0.7, 0.5};
        return s;
      };
      RUN(tiled_stage, stage(t));
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
    for (int dtype : {F32, F16, F64}) {
      d.how = words(dtype, c, true);
      tiled_convs(d, dtype, c, 3 * c + 1);
      stages(d, dtype, c, c + 3);
    }
  }
}

}  // namespace driver
