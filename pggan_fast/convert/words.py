"""Options of our networks in words: what another program's networks have or have not."""

from __future__ import annotations

from typing import Any

WHOLE_BATCH = 1 << 30  # a stddev's group that is larger than any batch


def said(key: str, value: Any) -> str:
    """An option and its value, and what that means where the name does not say it."""
    meaning = _meaning(key, value)
    shown = value if not isinstance(value, float) else f"{value:g}"
    return f"{meaning} ({key} {shown})" if meaning else f"{key} {shown}"


def short(key: str, value: Any) -> str:
    """An option and its value on a line of many."""
    return f"{key} {'whole batch' if key == 'stddev_group' and value == WHOLE_BATCH else value}"


def _meaning(key: str, value: Any) -> str:
    if key == "tanh_from":
        return "images without tanh" if value is None else f"tanh on images from {value}x{value} on"
    if key == "stddev_group":
        if value == WHOLE_BATCH:
            return "a minibatch stddev over the whole batch"
        return f"a minibatch stddev of groups of {value}" if value else "no minibatch stddev"
    return {
        ("first_norm", True): "a pixel norm after the first layer",
        ("first_norm", False): "no pixel norm after the first layer",
        ("unit_bias", True): "a bias for each unit of the first layer",
        ("unit_bias", False): "a bias for each channel of the first layer",
        ("latent_norm", "joined"): "a pixel norm over latent and labels as one vector",
        ("latent_norm", "z"): "a pixel norm of the latent",
        ("latent_norm", "both"): "a pixel norm of the latent and one of the labels",
        ("latent_norm", "none"): "latents as they are",
        ("pixel_norm", "after_act"): "pixel norms after the activation",
        ("pixel_norm", "before_act"): "pixel norms before the activation",
        ("pixel_norm", "none"): "no pixel norms",
        ("downsample", "down"): "a 2x2 mean before bias and activation",
        ("downsample", "pool"): "a 2x2 mean after the activation",
        ("widen_first", True): "blocks that widen in their first convolution",
        ("widen_first", False): "blocks that widen in their second convolution",
        ("stddev_unbiased", True): "a stddev that divides by n - 1",
        ("stddev_unbiased", False): "a stddev that divides by n",
    }.get((key, value), "")
