// The arguments of the native kernels, CPU and CUDA: raw pointers, sizes and scalars; no torch, no Python.
//
// CPU: every kernel source is compiled once per instruction set, each time in its own namespace (cpu/isa.h), and fills
// one table of function pointers; csrc/bind/cpu_module.cpp picks the table at run time. CUDA: cuda/launchers.h.
//
// Tensors are dense. Channels_last means rows of C contiguous channels per pixel, [N, H, W, C]; else planes,
// [N, C, H, W]. "acc" is the dtype of sums and statistics: double for F64, else float. Masks hold one bit per
// element: bit (c & 7) of byte c >> 3 of [N, ceil(C/8), H, W], in the layout of the tensor they belong to.
#pragma once

#include <cstdint>

namespace pggan {

enum DType : int { F32 = 0, F16 = 1, BF16 = 2, F64 = 3 };
enum Norm : int { NORM_NONE = 0, NORM_AFTER_ACT = 1, NORM_BEFORE_ACT = 2 };
enum Status : int { OK = 0, NO_MEMORY = 1, BAD_DTYPE = 2, PARALLEL_FAILED = 3 };

struct Shape {
  int64_t n, c, h, w;
  bool channels_last;
};

// v = scale * u + bias_scale * bias[c], leaky ReLU, then pixel norm, or pixel norm before it, or a 2x2 mean after it.
struct BiasActForward {
  const void* u;     // `shape`
  const void* bias;  // [C] in bias_dtype, or null
  void* y;           // `shape`, or half its height and width with pool; may be u itself except with pool
  void* r;           // acc [N, H, W], the factor of the pixel norm; null without one
  uint8_t* mask;     // of v > 0, or null; only with pool
  int dtype, bias_dtype;
  Shape shape;
  bool pool;
  double scale, bias_scale, slope;  // slope 1 is the identity
  int norm;
  double eps;
  bool eps_inside;  // r = 1 / sqrt(mean + eps), else 1 / (sqrt(mean) + eps)
};

struct BiasActBackward {
  const void* dy;       // like y of the forward pass
  const void* dr;       // acc [N, H, W] or null: the gradient of r
  const void* y;        // not read where a mask is given, nor where slope is 1 without a norm; in CUDA with pool and
                        // without a mask it is like dy, and its sign counts for all four pixels
  const void* r;        // acc [N, H, W], null without a norm
  const uint8_t* mask;  // or null
  void* du;             // `shape`; may be dy itself except with pool
  void* db;             // acc [C], or null
  int dtype;
  Shape shape;  // of du
  bool pool;
  double scale, bias_scale, slope;
  int norm;
  double eps;
  bool eps_inside;
  float* workspace;  // CUDA: bias_act_backward_workspace floats; else null
};

// The 2x2 mean of scale * (g where the mask bit is set, else slope * g): the adjoint of the pooled backward pass.
struct MaskedPool {
  const void* g;        // `shape`
  const uint8_t* mask;  // or null
  void* out;            // half the height and width
  int dtype;
  Shape shape;
  double scale, slope;
};

// out = (1 - alpha) * low + alpha * high; with `up`, low has half the height and width and is repeated 2x2.
struct FadeInForward {
  const void *low, *high;
  const float* alpha;  // one element, clamped to [0, 1] here
  void* out;
  int dtype;
  Shape shape;  // of out
  bool up;
};

struct FadeInBackward {
  const void* dy;
  const float* alpha;
  void *dlow, *dhigh;
  int dtype;
  Shape shape;  // of dy
  bool up;
};

// out = (1 - alpha) * up2(mean2x2(image)) + alpha * image
struct FadeReals {
  const void* image;
  const float* alpha;
  void* out;
  int dtype;
  Shape shape;
};

// One 1x1 convolution to or from RGB: weight_scale * weight and bias_scale * bias, in any dtype.
struct Pointwise {
  const void* weight;
  const void* bias;  // or null
  int weight_dtype, bias_dtype;
  double weight_scale, bias_scale;
};

constexpr int64_t MAX_IMAGE_CHANNELS = 4;

// image = (1 - alpha) * up2(conv(x_low)) + alpha * conv(x_high)
struct ToRgbFadeIn {
  const void *x_low, *x_high;  // [N, c_low, H/2, W/2], [N, c_high, H, W]
  Pointwise low, high;         // weights [C, c_low], [C, c_high]
  const float* alpha;
  void* image;  // `shape`, at most MAX_IMAGE_CHANNELS
  int dtype;
  Shape shape;
  int64_t c_low, c_high;
};

// y = (1 - alpha) * leaky_relu(conv(mean2x2(image))) + alpha * high
struct FromRgbFadeIn {
  const void* image;  // [N, image_channels, 2H, 2W]
  const void* high;   // `shape`
  Pointwise conv;     // weight [C, image_channels]
  const float* alpha;
  void* y;
  uint8_t* mask;  // of the convolution's results > 0
  int dtype;
  Shape shape;
  int64_t image_channels;
  double slope;
};

// Groups of `group` samples; sample n is in group n % (N / group) if strided, else n / group.
struct MinibatchStddevForward {
  const void* x;  // `shape`
  void* out;      // one channel more
  int dtype;
  Shape shape;
  int64_t group;
  bool strided;
  int64_t divisor;  // of the variance: group, or group - 1
  double eps;
  float* workspace;  // CUDA: minibatch_stddev_forward_workspace floats; else null
};

struct MinibatchStddevBackward {
  const void* dy;  // one channel more than `shape`
  const void* x;   // `shape`
  void* dx;
  int dtype;
  Shape shape;
  int64_t group;
  bool strided;
  int64_t divisor;
  double eps;
  float* workspace;  // CUDA: minibatch_stddev_backward_workspace floats; else null
};

// The convolutions of the CUDA backend, channels_last.
enum Resample : int { RESAMPLE_NONE = 0, RESAMPLE_UP = 1, RESAMPLE_DOWN = 2 };

// `weight` [out_channels, in_channels, k, k] to what scaled_conv2d multiplies with: scale * weight, box-summed to the
// taps of a resampling convolution, rounded once: packed [phases, taps, padded outputs, padded inputs] with zeros in
// the padding. `adjoint`: of the convolution's transpose, whose inputs are the outputs here, taps flipped.
struct PackWeight {
  const void* weight;
  void* packed;             // pack_weight_elements of them
  int weight_dtype, dtype;  // of packed: the image's
  int64_t out_channels, in_channels, k;
  int resample;
  bool adjoint, ieee;  // ieee: float32 stays as it is, else it is rounded to TF32
  double scale;
};

// What follows a convolution: that of BiasActForward with scale 1.
struct ConvEpilogue {
  const void* bias;  // [C] in bias_dtype, or null
  int bias_dtype;
  double bias_scale, slope;
  int norm;
  double eps;
  bool eps_inside;
};

// y = epilogue(conv(x)), the epilogue on the accumulators, in registers.
struct ScaledConv2d {
  const void* x;       // [N, H, W, in_channels]
  const void* packed;  // by pack_weight
  void* y;             // [N, H', W', C]: H, 2 H ("up"), H / 2 ("down"); half of that with pool
  float* r;            // [N, H', W'] before the pool, or null without a norm
  uint8_t* mask;       // or null; only with pool
  int dtype;
  int64_t n, h, w, in_channels, out_channels, k;
  int resample;
  bool pool, ieee;  // ieee: float32 products exact to float32, else TF32
  ConvEpilogue epilogue;
};

// The image of a convolution's results, which are not stored: to_rgb(y), or (1 - alpha) * up2(low) + alpha * to_rgb(y).
struct ConvToRgb {
  ScaledConv2d conv;  // without resampling; y, r and mask are not written
  Pointwise to_rgb;   // [image_channels, C]
  const void* low;    // [N, image_channels, H / 2, W / 2], or null
  const float* alpha;
  void* image;  // [N, image_channels, H, W]
  int64_t image_channels;
  bool image_channels_last;  // of low too
};

// A convolution of leaky_relu(from_rgb(image)), which is computed on the way.
struct ConvFromRgb {
  ScaledConv2d conv;  // x is not read
  const void* image;  // [N, image_channels, H, W]
  Pointwise from_rgb;  // [in_channels, image_channels]
  double slope;        // of fromRGB
  int64_t image_channels;
  bool image_channels_last;
};

// A block of the generator: y = conv(conv_up(x)), each with its epilogue; or only the image that y makes,
// conv1x1(y), or (1 - alpha) * up2(conv1x1(x)) + alpha * conv1x1(y).
struct GeneratorStage {
  const void* x;                   // [N, H / 2, W / 2, in_channels]
  const void *packed_up, *packed;  // by pack_weight, of k = 3: [C, in_channels] with "up", [C, C] with "none"
  ConvEpilogue after_up, after;
  void* y;              // [N, H, W, C], or null with an image
  void* image;          // [N, image_channels, H, W], or null
  Pointwise high, low;  // [image_channels, C], [image_channels, in_channels]; low's weight is null without a blend
  const float* alpha;
  int dtype;
  int64_t n, h, w, in_channels, channels, image_channels;  // image_channels 0: no image
  bool image_channels_last, ieee;
};

// dw [C, in_channels, k, k] = the gradient of scale * conv(x) in weight, in dw_dtype; at most 64 channels.
struct ConvWeightGrad {
  const void* x;   // [N, H, W, in_channels], or with x_planes [N, in_channels, H, W]
  const void* dy;  // [N, H', W', C], or with dy_planes [N, C, H', W']
  void* dw;
  int dtype, dw_dtype;
  int64_t n, h, w, in_channels, out_channels, k;
  int resample;
  bool ieee;
  double scale;
  float* workspace;  // conv_weight_grad_workspace floats
};

// y = epilogue(conv(x)): [N, H', W', C] with H' = H, 2 H ("up"), H / 2 ("down"), or either image in planes.
struct TiledConv {
  const void* x;       // [N, H, W, in_channels], or with x_planes [N, in_channels, H, W]
  const void* weight;  // [C, in_channels, k, k], or of the flipped transpose [in_channels, C, k, k]
  void* transformed;   // by tiled_weight, or null: the weight is transformed in the call
  void* y;
  void* r;  // acc [N, H', W'], or null without a norm
  int dtype, weight_dtype;
  int64_t n, h, w, in_channels, out_channels;
  int k;  // 3, or 1 without resampling
  int resample;
  bool adjoint;      // of the flipped transpose
  bool large_tiles;  // less products and more rounding, without resampling
  double scale;      // of the weight
  ConvEpilogue epilogue;
  bool x_planes, y_planes;
};

// A block of the generator, y = conv(up(x)), or only the image that y makes: conv1x1(y), or
// (1 - alpha) * up2(conv1x1(x)) + alpha * conv1x1(y). Of up x is read; of conv y is written where there is no image.
struct TiledStage {
  TiledConv up, conv;  // with "up", and without resampling
  void* image;         // [N, image_channels, H, W], or null
  Pointwise high, low;  // weights [image_channels, C], [image_channels, in_channels]; low's null without a blend
  const float* alpha;
  int64_t image_channels;
  bool image_channels_last;
};

// dw [C, in_channels, k, k] = the gradient of tiled_conv(x) without an epilogue in weight, in dw_dtype.
struct TiledConvWeightGrad {
  const void* x;   // [N, H, W, in_channels], or with x_planes [N, in_channels, H, W]
  const void* dy;  // [N, H', W', C], or with dy_planes [N, C, H', W']
  void* dw;
  int dtype, dw_dtype;
  int64_t n, h, w, in_channels, out_channels;
  int k, resample;
  bool large_tiles;
  double scale;
  bool x_planes, dy_planes;
};

// The backward pass of a layer: of its epilogue, whose du lives inside of the call, then of its convolution.
struct TiledLayerBackward {
  BiasActBackward epilogue;
  TiledConv input_grad;             // of du to dx, or y null
  TiledConvWeightGrad weight_grad;  // of x and du, or dw null
};

// The kernels of one instruction set. Each returns a Status and neither throws nor touches Python.
struct Kernels {
  int (*bias_act_forward)(const BiasActForward&);
  int (*bias_act_backward)(const BiasActBackward&);
  int (*masked_pool)(const MaskedPool&);
  int (*fade_in_forward)(const FadeInForward&);
  int (*fade_in_backward)(const FadeInBackward&);
  int (*fade_reals)(const FadeReals&);
  int (*to_rgb_fade_in_forward)(const ToRgbFadeIn&);
  int (*from_rgb_fade_in_forward)(const FromRgbFadeIn&);
  int (*minibatch_stddev_forward)(const MinibatchStddevForward&);
  int (*minibatch_stddev_backward)(const MinibatchStddevBackward&);
  int (*tiled_conv)(const TiledConv&);
  int (*tiled_weight)(const TiledConv&);  // its weight to its transformed, POINTS^2 * in * (C in whole vectors) sums
  int (*tiled_stage)(const TiledStage&);
  int (*tiled_conv_weight_grad)(const TiledConvWeightGrad&);
  int (*tiled_layer_backward)(const TiledLayerBackward&);
};

}  // namespace pggan
