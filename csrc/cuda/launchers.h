// The interface of the CUDA kernels: the arguments of csrc/kernels.h, in device memory, and a stream.
//
// A launcher starts its kernels on the current device and returns the error of the first launch that failed, or
// cudaSuccess; `last_launch` says which one that was. Nothing waits. Tensors that hold no elements are allowed.
#pragma once

#include <cuda_runtime.h>

#include "../kernels.h"

namespace pggan::cuda {

struct Launch {
  const char* kernel;
  dim3 grid, block;
  size_t shared;
};

extern thread_local Launch last_launch;

cudaError_t bias_act_forward(const BiasActForward&, cudaStream_t);
cudaError_t bias_act_backward(const BiasActBackward&, cudaStream_t);
cudaError_t masked_pool(const MaskedPool&, cudaStream_t);
cudaError_t fade_in_forward(const FadeInForward&, cudaStream_t);
cudaError_t fade_in_backward(const FadeInBackward&, cudaStream_t);
cudaError_t fade_reals(const FadeReals&, cudaStream_t);
cudaError_t to_rgb_fade_in_forward(const ToRgbFadeIn&, cudaStream_t);
cudaError_t from_rgb_fade_in_forward(const FromRgbFadeIn&, cudaStream_t);
cudaError_t minibatch_stddev_forward(const MinibatchStddevForward&, cudaStream_t);
cudaError_t minibatch_stddev_backward(const MinibatchStddevBackward&, cudaStream_t);
cudaError_t pack_weight(const PackWeight&, cudaStream_t);
cudaError_t scaled_conv2d(const ScaledConv2d&, cudaStream_t);
cudaError_t conv_to_rgb(const ConvToRgb&, cudaStream_t);
cudaError_t conv_from_rgb(const ConvFromRgb&, cudaStream_t);
cudaError_t conv_weight_grad(const ConvWeightGrad&, cudaStream_t);
cudaError_t generator_stage(const GeneratorStage&, cudaStream_t);

// How many floats the kernels' sums take in device memory, for the argument `workspace`: by shapes and types, wherever
// the tensors are.
int64_t bias_act_backward_workspace(const BiasActBackward&);
int64_t minibatch_stddev_forward_workspace(const MinibatchStddevForward&);
int64_t minibatch_stddev_backward_workspace(const MinibatchStddevBackward&);
int64_t conv_weight_grad_workspace(const ConvWeightGrad&);

constexpr int64_t MAX_CONV_CHANNELS = 64;  // of scaled_conv2d and generator_stage, in and out

// How many elements `packed` has.
int64_t pack_weight_elements(const PackWeight&);

// How many rows of outputs, for generator_stage of x, a block takes at a time: 0 where not even a few fit the current
// device's shared memory beside the weights.
int64_t scaled_conv2d_rows(const ScaledConv2d&);
int64_t conv_to_rgb_rows(const ConvToRgb&);
int64_t conv_from_rgb_rows(const ConvFromRgb&);
int64_t generator_stage_rows(const GeneratorStage&);

}  // namespace pggan::cuda
