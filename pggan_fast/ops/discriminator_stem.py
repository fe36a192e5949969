"""discriminator_stem: fromRGB and the first convolution of the discriminator, for scoring.

    y = leaky_relu(conv(leaky_relu(from_rgb(image))))

A backend that is named and has one kernel for it runs that where no gradient is wanted; else the parts run.
"""

from __future__ import annotations

from torch import Tensor

from pggan_fast import reference
from pggan_fast.backends import forced, layout, registry
from pggan_fast.ops import _autocast, _checks
from pggan_fast.ops._again import Again
from pggan_fast.ops._autograd import needs_reference
from pggan_fast.ops.generator_stage import Scaled, beside, check_layer, convolve, described, fused


def discriminator_stem(
    image: Tensor,
    from_rgb: Scaled,
    conv: Scaled,
    *,
    negative_slope: float | None = 0.2,
    backend: str | None = None,
) -> Tensor:
    """Features of an image after fromRGB and one 3x3 convolution; those between are not stored where it is fused.

    Args:
        image: [N, K, H, W]; from_rgb: weight [Cin, K, 1, 1]; conv: weight [C, Cin, 3, 3].
        negative_slope: of both layers, see `bias_act`.
        backend: as in `generator_stage`.
    Returns:
        [N, C, H, W] in the image's dtype (autocast's under autocast).
    Raises:
        ValueError, TypeError: an argument is off; the message names it.
        BackendUnavailable: the named backend cannot run here.
    Source: Karras et al. 2017, table 2.
    """
    chosen = forced.named(backend)
    call = described(image, (from_rgb, conv), None, negative_slope)
    if call is not None and (run := _again.find(call, chosen)) is not None:
        out: Tensor = run(image, from_rgb, conv, negative_slope)
        return out
    image = _autocast.lowered(image)
    from_rgb, conv = beside(image, from_rgb), beside(image, conv)
    _checks.tensor("image", image, (4,))
    _checks.pixels("image", image)
    features = check_layer("from_rgb", from_rgb, image, "image", 1, source="image")
    check_layer("conv", conv, features, "from_rgb's output", 3, source="image")
    _checks.epilogue(negative_slope, "none", 0.0, "inside")
    if chosen == "reference" or needs_reference():
        return reference.discriminator_stem(image, from_rgb, conv, negative_slope=negative_slope)
    run, final = fused("discriminator_stem", chosen, image, from_rgb, conv, negative_slope)
    if final and call is not None:
        _again.learn(call, chosen, run)
    return run(image, from_rgb, conv, negative_slope)


_again = Again("discriminator_stem", tensors=6)


def _in_parts(image: Tensor, from_rgb: Scaled, conv: Scaled, slope: float | None, backend: str | None) -> Tensor:
    y = convolve(image, from_rgb, negative_slope=slope, backend=backend)
    y = convolve(y, conv, negative_slope=slope, backend=backend)
    return layout.conform(y, image)  # one channel between the layers has lost the format


registry.PARTS["discriminator_stem"] = _in_parts
