// PGGAN_ISA is the namespace of one instruction set (baseline, avx2 or avx512), set by the build.
//
// Kernel sources include no standard header with inline functions (<vector>, <algorithm>): such functions are merged
// across object files at link time, so that one compiled with AVX-512 could end up on the baseline's path.
#pragma once

#include "../kernels.h"

namespace pggan::PGGAN_ISA {

int bias_act_forward(const BiasActForward&);
int bias_act_backward(const BiasActBackward&);
int bias_act_pool_forward(const BiasActForward&);
int bias_act_mask_backward(const BiasActBackward&);
int masked_pool(const MaskedPool&);
int fade_in_forward(const FadeInForward&);
int fade_in_backward(const FadeInBackward&);
int fade_reals(const FadeReals&);
int to_rgb_fade_in_forward(const ToRgbFadeIn&);
int from_rgb_fade_in_forward(const FromRgbFadeIn&);
int minibatch_stddev_forward(const MinibatchStddevForward&);
int minibatch_stddev_backward(const MinibatchStddevBackward&);
int tiled_conv(const TiledConv&);
int tiled_weight(const TiledConv&);
int tiled_stage(const TiledStage&);
int tiled_conv_weight_grad(const TiledConvWeightGrad&);
int tiled_layer_backward(const TiledLayerBackward&);

extern const Kernels kernels;

}  // namespace pggan::PGGAN_ISA
