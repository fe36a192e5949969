// The arguments of csrc/kernels.h from what Python passes: tensors or their addresses (0: none), sizes and scalars.
// Python owns memory and checks.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "../kernels.h"
#include "tensors.h"

namespace pggan {

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address.value);
}

namespace arguments {

inline BiasActForward bias_act_forward(Address u, Address bias, Address y, Address r, Address mask, int dtype,
                                       int bias_dtype, int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last,
                                       bool pool, double scale, double bias_scale, double slope, int norm, double eps,
                                       bool eps_inside) {
  return {at<void>(u), at<void>(bias), at<void>(y), at<void>(r), at<uint8_t>(mask), dtype, bias_dtype,
          {n, c, h, w, channels_last}, pool, scale, bias_scale, slope, norm, eps, eps_inside};
}

inline BiasActBackward bias_act_backward(Address dy, Address dr, Address y, Address r, Address mask, Address du,
                                         Address db, int dtype, int64_t n, int64_t c, int64_t h, int64_t w,
                                         bool channels_last, bool pool, double scale, double bias_scale, double slope,
                                         int norm, double eps, bool eps_inside, Address workspace) {
  return {at<void>(dy), at<void>(dr), at<void>(y), at<void>(r), at<uint8_t>(mask), at<void>(du), at<void>(db), dtype,
          {n, c, h, w, channels_last}, pool, scale, bias_scale, slope, norm, eps, eps_inside, at<float>(workspace)};
}

inline MaskedPool masked_pool(Address g, Address mask, Address out, int dtype, int64_t n, int64_t c, int64_t h,
                              int64_t w, bool channels_last, double scale, double slope) {
  return {at<void>(g), at<uint8_t>(mask), at<void>(out), dtype, {n, c, h, w, channels_last}, scale, slope};
}

inline FadeInForward fade_in_forward(Address low, Address high, Address alpha, Address out, int dtype, int64_t n,
                                     int64_t c, int64_t h, int64_t w, bool channels_last, bool up) {
  return {at<void>(low), at<void>(high), at<float>(alpha), at<void>(out), dtype, {n, c, h, w, channels_last}, up};
}

inline FadeInBackward fade_in_backward(Address dy, Address alpha, Address dlow, Address dhigh, int dtype, int64_t n,
                                       int64_t c, int64_t h, int64_t w, bool channels_last, bool up) {
  return {at<void>(dy), at<float>(alpha), at<void>(dlow), at<void>(dhigh), dtype, {n, c, h, w, channels_last}, up};
}

inline FadeReals fade_reals(Address image, Address alpha, Address out, int dtype, int64_t n, int64_t c, int64_t h,
                            int64_t w, bool channels_last) {
  return {at<void>(image), at<float>(alpha), at<void>(out), dtype, {n, c, h, w, channels_last}};
}

inline void few_image_channels(int64_t c) {
  if (c > MAX_IMAGE_CHANNELS) throw pybind11::value_error("too many image channels");
}

inline ToRgbFadeIn to_rgb_fade_in_forward(Address x_low, Address x_high, Address w_low, Address b_low, Address w_high,
                                          Address b_high, Address alpha, Address image, int dtype, int w_low_dtype,
                                          int b_low_dtype, int w_high_dtype, int b_high_dtype, int64_t n, int64_t c,
                                          int64_t h, int64_t w, bool channels_last, int64_t c_low, int64_t c_high,
                                          double weight_scale_low, double weight_scale_high, double bias_scale_low,
                                          double bias_scale_high) {
  few_image_channels(c);
  return {at<void>(x_low), at<void>(x_high),
          {at<void>(w_low), at<void>(b_low), w_low_dtype, b_low_dtype, weight_scale_low, bias_scale_low},
          {at<void>(w_high), at<void>(b_high), w_high_dtype, b_high_dtype, weight_scale_high, bias_scale_high},
          at<float>(alpha), at<void>(image), dtype, {n, c, h, w, channels_last}, c_low, c_high};
}

inline FromRgbFadeIn from_rgb_fade_in_forward(Address image, Address high, Address weight, Address bias, Address alpha,
                                              Address y, Address mask, int dtype, int weight_dtype, int bias_dtype,
                                              int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last,
                                              int64_t image_channels, double weight_scale, double bias_scale,
                                              double slope) {
  few_image_channels(image_channels);
  return {at<void>(image), at<void>(high),
          {at<void>(weight), at<void>(bias), weight_dtype, bias_dtype, weight_scale, bias_scale},
          at<float>(alpha), at<void>(y), at<uint8_t>(mask), dtype, {n, c, h, w, channels_last}, image_channels, slope};
}

inline MinibatchStddevForward minibatch_stddev_forward(Address x, Address out, int dtype, int64_t n, int64_t c,
                                                       int64_t h, int64_t w, bool channels_last, int64_t group,
                                                       bool strided, int64_t divisor, double eps, Address workspace) {
  return {at<void>(x), at<void>(out), dtype, {n, c, h, w, channels_last}, group, strided, divisor, eps,
          at<float>(workspace)};
}

inline MinibatchStddevBackward minibatch_stddev_backward(Address dy, Address x, Address dx, int dtype, int64_t n,
                                                         int64_t c, int64_t h, int64_t w, bool channels_last,
                                                         int64_t group, bool strided, int64_t divisor, double eps,
                                                         Address workspace) {
  return {at<void>(dy), at<void>(x), at<void>(dx), dtype, {n, c, h, w, channels_last}, group, strided, divisor, eps,
          at<float>(workspace)};
}

inline TiledConv tiled_conv(Address x, Address weight, Address transformed, Address bias, Address y, Address r,
                            int dtype, int weight_dtype, int bias_dtype, int64_t n, int64_t in_channels, int64_t h,
                            int64_t w, int64_t out_channels, int k, int resample, bool adjoint, bool large_tiles,
                            double scale, double bias_scale, double slope, int norm, double eps, bool eps_inside,
                            bool x_planes, bool y_planes) {
  return {at<void>(x), at<void>(weight), at<void>(transformed), at<void>(y), at<void>(r), dtype, weight_dtype, n, h, w,
          in_channels, out_channels, k, resample, adjoint, large_tiles, scale,
          {at<void>(bias), bias_dtype, bias_scale, slope, norm, eps, eps_inside}, x_planes, y_planes};
}

inline TiledStage tiled_stage(Address x, Address w_up, Address b_up, Address w, Address b, Address w_high,
                              Address b_high, Address w_low, Address b_low, Address transformed_up,
                              Address transformed, Address alpha, Address y, Address image, int dtype, int w_up_dtype,
                              int b_up_dtype, int w_dtype, int b_dtype, int w_high_dtype, int b_high_dtype,
                              int w_low_dtype, int b_low_dtype, int64_t n, int64_t in_channels, int64_t height,
                              int64_t width, int64_t channels, int64_t image_channels, bool image_channels_last,
                              bool large_tiles, double scale_up, double bias_scale_up, double scale, double bias_scale,
                              double scale_high, double bias_scale_high, double scale_low, double bias_scale_low,
                              double slope, int norm, double eps, bool eps_inside) {
  few_image_channels(image_channels);
  return {{at<void>(x), at<void>(w_up), at<void>(transformed_up), nullptr, nullptr, dtype, w_up_dtype, n, height, width,
           in_channels, channels, 3, RESAMPLE_UP, false, false, scale_up,
           {at<void>(b_up), b_up_dtype, bias_scale_up, slope, norm, eps, eps_inside}, false, false},
          {nullptr, at<void>(w), at<void>(transformed), at<void>(y), nullptr, dtype, w_dtype, n, 2 * height, 2 * width,
           channels, channels, 3, RESAMPLE_NONE, false, large_tiles, scale,
           {at<void>(b), b_dtype, bias_scale, slope, norm, eps, eps_inside}, false, false},
          at<void>(image),
          {at<void>(w_high), at<void>(b_high), w_high_dtype, b_high_dtype, scale_high, bias_scale_high},
          {at<void>(w_low), at<void>(b_low), w_low_dtype, b_low_dtype, scale_low, bias_scale_low},
          at<float>(alpha), image_channels, image_channels_last};
}

inline TiledConvWeightGrad tiled_conv_weight_grad(Address x, Address dy, Address dw, int dtype, int dw_dtype, int64_t n,
                                                  int64_t in_channels, int64_t h, int64_t w, int64_t out_channels,
                                                  int k, int resample, bool large_tiles, double scale, bool x_planes,
                                                  bool dy_planes) {
  return {at<void>(x), at<void>(dy), at<void>(dw), dtype, dw_dtype, n, h, w, in_channels, out_channels, k, resample,
          large_tiles, scale, x_planes, dy_planes};
}

inline TiledLayerBackward tiled_layer_backward(
    Address dy, Address y, Address r, Address mask, Address x, Address weight, Address transformed, Address dx,
    Address dw, Address db,
    int dtype, int weight_dtype, int64_t n, int64_t in_channels, int64_t h, int64_t w, int64_t out_channels,
    int64_t out_h, int64_t out_w, bool channels_last, bool du_planes, bool x_planes, bool dx_planes, bool pool, int k,
    int resample, int adjoint_resample, bool large_tiles, double scale, double adjoint_scale, double epilogue_scale,
    double bias_scale, double slope, int norm, double eps, bool eps_inside) {
  const ConvEpilogue none{nullptr, 0, 1.0, 1.0, NORM_NONE, 0.0, true};
  return {{at<void>(dy), nullptr, at<void>(y), at<void>(r), at<uint8_t>(mask), nullptr, at<void>(db), dtype,
           {n, out_channels, out_h, out_w, channels_last}, pool, epilogue_scale, bias_scale, slope, norm, eps,
           eps_inside, nullptr},
          {nullptr, at<void>(weight), at<void>(transformed), at<void>(dx), nullptr, dtype, weight_dtype, n, out_h, out_w,
           out_channels, in_channels, k, adjoint_resample, true, large_tiles, adjoint_scale, none, du_planes,
           dx_planes},
          {at<void>(x), nullptr, at<void>(dw), dtype, weight_dtype, n, h, w, in_channels, out_channels, k, resample,
           large_tiles, scale, x_planes, du_planes}};
}

inline PackWeight pack_weight(Address weight, Address packed, int weight_dtype, int dtype, int64_t out_channels,
                              int64_t in_channels, int64_t k, int resample, bool adjoint, bool ieee, double scale) {
  return {at<void>(weight), at<void>(packed), weight_dtype, dtype, out_channels, in_channels, k, resample, adjoint,
          ieee, scale};
}

inline ScaledConv2d scaled_conv2d(Address x, Address packed, Address bias, Address y, Address r, Address mask,
                                  int dtype, int bias_dtype, int64_t n, int64_t h, int64_t w, int64_t in_channels,
                                  int64_t out_channels, int64_t k, int resample, bool pool, bool ieee,
                                  double bias_scale, double slope, int norm, double eps, bool eps_inside) {
  return {at<void>(x), at<void>(packed), at<void>(y), at<float>(r), at<uint8_t>(mask), dtype, n, h, w, in_channels,
          out_channels, k, resample, pool, ieee,
          {at<void>(bias), bias_dtype, bias_scale, slope, norm, eps, eps_inside}};
}

// A 3x3 convolution without resampling; the caller sets what it reads or stores in place of x or y.
inline ScaledConv2d plain_conv(Address packed, Address bias, Address y, int dtype, int bias_dtype, int64_t n, int64_t h,
                               int64_t w, int64_t in_channels, int64_t out_channels, bool ieee, double bias_scale,
                               double slope, int norm, double eps, bool eps_inside) {
  return scaled_conv2d({}, packed, bias, y, {}, {}, dtype, bias_dtype, n, h, w, in_channels, out_channels, 3,
                       RESAMPLE_NONE, false, ieee, bias_scale, slope, norm, eps, eps_inside);
}

inline ConvToRgb conv_to_rgb(Address x, Address packed, Address bias, Address weight, Address rgb_bias, Address low,
                             Address alpha, Address image, int dtype, int bias_dtype, int weight_dtype,
                             int rgb_bias_dtype, int64_t n, int64_t h, int64_t w, int64_t in_channels,
                             int64_t out_channels, int64_t image_channels, bool image_channels_last, bool ieee,
                             double bias_scale, double slope, int norm, double eps, bool eps_inside,
                             double weight_scale, double rgb_bias_scale) {
  few_image_channels(image_channels);
  ConvToRgb a{plain_conv(packed, bias, {}, dtype, bias_dtype, n, h, w, in_channels, out_channels, ieee, bias_scale,
                         slope, norm, eps, eps_inside),
              {at<void>(weight), at<void>(rgb_bias), weight_dtype, rgb_bias_dtype, weight_scale, rgb_bias_scale},
              at<void>(low), at<float>(alpha), at<void>(image), image_channels, image_channels_last};
  a.conv.x = at<void>(x);
  return a;
}

inline ConvFromRgb conv_from_rgb(Address image, Address weight, Address rgb_bias, Address packed, Address bias,
                                 Address y, int dtype, int weight_dtype, int rgb_bias_dtype, int bias_dtype, int64_t n,
                                 int64_t h, int64_t w, int64_t image_channels, int64_t in_channels,
                                 int64_t out_channels, bool image_channels_last, bool ieee, double weight_scale,
                                 double rgb_bias_scale, double rgb_slope, double bias_scale, double slope, int norm,
                                 double eps, bool eps_inside) {
  few_image_channels(image_channels);
  return {plain_conv(packed, bias, y, dtype, bias_dtype, n, h, w, in_channels, out_channels, ieee, bias_scale, slope,
                     norm, eps, eps_inside),
          at<void>(image),
          {at<void>(weight), at<void>(rgb_bias), weight_dtype, rgb_bias_dtype, weight_scale, rgb_bias_scale},
          rgb_slope, image_channels, image_channels_last};
}

inline GeneratorStage generator_stage(
    Address x, Address packed_up, Address bias_up, Address packed, Address bias, Address w_high, Address b_high,
    Address w_low, Address b_low, Address alpha, Address y, Address image, int dtype, int bias_up_dtype, int bias_dtype,
    int w_high_dtype, int b_high_dtype, int w_low_dtype, int b_low_dtype, int64_t n, int64_t h, int64_t w,
    int64_t in_channels, int64_t channels, int64_t image_channels, bool image_channels_last, bool ieee,
    double bias_scale_up, double bias_scale, double slope, int norm, double eps, bool eps_inside,
    double weight_scale_high, double bias_scale_high, double weight_scale_low, double bias_scale_low) {
  few_image_channels(image_channels);
  return {at<void>(x), at<void>(packed_up), at<void>(packed),
          {at<void>(bias_up), bias_up_dtype, bias_scale_up, slope, norm, eps, eps_inside},
          {at<void>(bias), bias_dtype, bias_scale, slope, norm, eps, eps_inside},
          at<void>(y), at<void>(image),
          {at<void>(w_high), at<void>(b_high), w_high_dtype, b_high_dtype, weight_scale_high, bias_scale_high},
          {at<void>(w_low), at<void>(b_low), w_low_dtype, b_low_dtype, weight_scale_low, bias_scale_low},
          at<float>(alpha), dtype, n, h, w, in_channels, channels, image_channels, image_channels_last, ieee};
}

inline ConvWeightGrad conv_weight_grad(Address x, Address dy, Address dw, int dtype, int dw_dtype, int64_t n, int64_t h,
                                       int64_t w, int64_t in_channels, int64_t out_channels, int64_t k, int resample,
                                       bool ieee, double scale, Address workspace) {
  return {at<void>(x), at<void>(dy), at<void>(dw), dtype, dw_dtype, n, h, w, in_channels, out_channels, k, resample,
          ieee, scale, at<float>(workspace)};
}

}  // namespace arguments
}  // namespace pggan
