"""The functional ops: fused layers of progressive GANs with forward, backward and double backward.

Each takes and returns NCHW-shaped tensors of any strides; channels_last is the fast layout and is kept.

Data are float32, float16, bfloat16 or float64; a weight or bias has the data's dtype, or is float32 beside
half-precision data. Results have the data's dtype, and gradients that of what they belong to. Under torch.autocast, for
the device of the data:

    op                                         takes                     gives               statistics, sums
    scaled_conv2d, scaled_linear,              autocast's dtype,         autocast's dtype    float32
      to_rgb_fade_in, from_rgb_fade_in,          cast on the way in
      generator_stage, discriminator_stem
    bias_act, pixel_norm, minibatch_stddev,    any                       its input's dtype   float32
      fade_reals
    fade_in                                    any two                   the wider of both   float32

Products go to autocast's dtype as torch's own convolutions do, `from_rgb_fade_in` too: what it blends goes on to
convolutions. What is no product keeps its input's dtype, as batch norm does: a cast to float32 would double the memory
and be undone by the next layer. `fade_in` promotes as `torch.cat` and a sum written by hand do, so that half-precision
features and a float32 image may meet; outside of autocast two dtypes are an error. Parameters may be float32, which
are rounded once after their scale, or of either half type. float64 is left alone, as torch leaves it. Backward passes,
inside of the context or after it, keep to the dtypes of the forward pass.
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
