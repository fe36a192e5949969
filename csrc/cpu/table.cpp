#include "isa.h"

namespace pggan::PGGAN_ISA {

extern const Kernels kernels = {
    bias_act_forward,       bias_act_backward,        masked_pool,
    fade_in_forward,        fade_in_backward,         fade_reals,
    to_rgb_fade_in_forward, from_rgb_fade_in_forward, minibatch_stddev_forward,
    minibatch_stddev_backward, tiled_conv,            tiled_weight,
    tiled_stage,            tiled_conv_weight_grad,   tiled_layer_backward,
};

}  // namespace pggan::PGGAN_ISA
