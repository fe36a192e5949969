"""The functional ops: fused layers of progressive GANs with forward, backward and double backward.

Each takes and returns NCHW-shaped tensors of any strides; channels_last is the fast layout and is kept.
"""

from pggan_fast.ops._autograd import no_weight_grads
from pggan_fast.ops.bias_act import bias_act
from pggan_fast.ops.discriminator_stem import discriminator_stem
from pggan_fast.ops.fade_in import fade_in
from pggan_fast.ops.fade_reals import fade_reals
from pggan_fast.ops.from_rgb_fade_in import from_rgb_fade_in
from pggan_fast.ops.generator_stage import Scaled, generator_stage
from pggan_fast.ops.minibatch_stddev import minibatch_stddev
from pggan_fast.ops.pixel_norm import pixel_norm
from pggan_fast.ops.scaled_conv2d import scaled_conv2d
from pggan_fast.ops.scaled_linear import scaled_linear
from pggan_fast.ops.to_rgb_fade_in import to_rgb_fade_in

__all__ = [
    "Scaled",
    "bias_act",
    "discriminator_stem",
    "fade_in",
    "fade_reals",
    "from_rgb_fade_in",
    "generator_stage",
    "minibatch_stddev",
    "no_weight_grads",
    "pixel_norm",
    "scaled_conv2d",
    "scaled_linear",
    "to_rgb_fade_in",
]
