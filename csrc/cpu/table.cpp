#include "isa.h"

namespace pggan::PGGAN_ISA {

extern const Kernels kernels = {
    bias_act_forward,      bias_act_backward,        masked_pool,
    fade_in_forward,       fade_in_backward,         fade_reals,
    to_rgb_fade_in_forward, from_rgb_fade_in_forward, minibatch_stddev_forward,
    minibatch_stddev_backward, winograd_input,          winograd_output_gradient,
    winograd_output,       winograd_weight,          winograd_weight_gradient,
    phase_weight,          phase_weight_gradient,    difference_maps,
    difference_maps_transposed, merge_phases,         split_phases,
    difference_weight,     difference_weight_gradient,
};

}  // namespace pggan::PGGAN_ISA
