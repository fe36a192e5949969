"""Every registered op: opcheck on each memory layout, and the two ways of running it agree."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import grid
import pytest
import torch
from torch import Tensor

from pggan_fast.ops import _register

BACKEND = ""  # the automatic choice
EPS = 1e-2
Sample = tuple[Any, ...]
Draw = Callable[..., Tensor]


def samples(draw: Draw) -> dict[str, list[Sample]]:
    """Arguments of every op; `draw(*shape)` makes a tensor of the layout and dtype under test that requires grad."""
    x = draw(2, 3, 4, 6)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    grads = {"none": draw(2, 5, 4, 6), "up": draw(2, 5, 8, 12), "down": draw(2, 5, 2, 3)}
    return {
        "scaled_conv2d_forward": _layers(draw, x),
        "conv": _convs(draw, x),
        "conv_weight_grad": [
            (x, dy, 0.5, how, k, dtype, BACKEND) for how, dy in grads.items() for k, dtype in ((3, x.dtype), (1, wide))
        ],
        **_epilogues(draw, wide),
        **_blends(draw),
        "minibatch_stddev_forward": [
            (draw(4, 3, 4, 6), 4, "strided", False, EPS, BACKEND),
            (draw(4, 3, 4, 6), 2, "adjacent", True, EPS, BACKEND),
        ],
        "minibatch_stddev_backward": [
            (draw(4, 4, 4, 6), draw(4, 3, 4, 6), 2, "strided", False, EPS, BACKEND),
            (draw(4, 4, 4, 6), draw(4, 3, 4, 6), 4, "adjacent", True, EPS, BACKEND),
        ],
    }


def _layers(draw: Draw, x: Tensor) -> list[Sample]:
    w, b = draw(5, 3, 3, 3), draw(5)
    layers: list[Sample] = [
        (x, w, b, 0.5, 0.3, resample, slope, norm, EPS, mode, BACKEND)
        for resample, slope, norm, mode in (
            ("none", 0.2, "after_act", "inside"),
            ("up", None, "none", "inside"),
            ("up", 0.2, "before_act", "outside"),
            ("down", 0.0, "none", "inside"),
            ("pool", 0.2, "none", "inside"),
            ("pool", None, "none", "inside"),
        )
    ]
    return [*layers, (x, draw(5, 3, 1, 1), None, 0.5, 0.3, "none", None, "none", EPS, "inside", BACKEND)]


def _convs(draw: Draw, x: Tensor) -> list[Sample]:
    w, turned, w1 = draw(5, 3, 3, 3), draw(3, 5, 3, 3), draw(5, 3, 1, 1)
    return [
        (x, weight, 0.5, how, flipped, BACKEND)
        for how in ("none", "up", "down")
        for weight, flipped in ((w, False), (turned, True), (w1, False))
    ]


def _epilogues(draw: Draw, wide: torch.dtype) -> dict[str, list[Sample]]:
    u, half, nine = draw(2, 9, 4, 6), draw(2, 9, 2, 3), draw(9)
    r = torch.rand(2, 1, 4, 6, dtype=wide).add(0.5).requires_grad_()
    dr, bits = torch.randn(2, 1, 4, 6, dtype=wide).requires_grad_(), torch.randint(0, 256, (2, 2, 4, 6)).byte()
    bits = bits.contiguous(memory_format=torch.channels_last) if not u.is_contiguous() else bits
    return {
        "bias_act_forward": [
            (u, nine, 0.5, 0.3, 0.2, "after_act", EPS, "inside", False, BACKEND),
            (u, nine, 0.5, 0.3, 0.2, "before_act", EPS, "outside", False, BACKEND),
            (u, None, 0.5, 0.3, None, "none", EPS, "inside", False, BACKEND),
            (u, nine, 0.5, 0.3, 0.2, "none", EPS, "inside", True, BACKEND),
        ],
        "bias_act_backward": [
            (draw(2, 9, 4, 6), dr, u, r, None, 0.5, 0.3, 0.2, "after_act", EPS, "inside", False, True, BACKEND),
            (draw(2, 9, 4, 6), None, u, r, None, 0.5, 0.3, 0.2, "before_act", EPS, "outside", False, False, BACKEND),
            (draw(2, 9, 4, 6), None, u, None, None, 0.5, 0.3, 0.2, "none", EPS, "inside", False, True, BACKEND),
            (draw(2, 9, 4, 6), None, u, None, bits, 0.5, 0.3, 0.2, "none", EPS, "inside", False, True, BACKEND),
            (draw(2, 9, 2, 3), None, half, None, bits, 0.5, 0.3, 0.2, "none", EPS, "inside", True, True, BACKEND),
            (draw(2, 9, 2, 3), None, half, None, None, 0.5, 0.3, None, "none", EPS, "inside", True, False, BACKEND),
        ],
        "masked_pool": [(u, bits, 0.5, 0.2, BACKEND), (u, None, 0.5, None, BACKEND)],
    }


def _blends(draw: Draw) -> dict[str, list[Sample]]:
    u, half, nine, alpha = draw(2, 9, 4, 6), draw(2, 9, 2, 3), draw(9), torch.tensor(0.25)
    return {
        "fade_in_forward": [(half, u, alpha, BACKEND), (draw(2, 9, 4, 6), u, alpha, BACKEND)],
        "fade_in_backward": [(u, alpha, True, BACKEND), (u, alpha, False, BACKEND)],
        "fade_reals": [(draw(2, 3, 4, 6), alpha, BACKEND)],
        "to_rgb_fade_in_forward": [
            (half, u, draw(3, 9, 1, 1), draw(3), draw(3, 9, 1, 1), draw(3), alpha, 0.5, 0.4, 0.3, 0.2, BACKEND),
            (half, u, draw(3, 9, 1, 1), None, draw(3, 9, 1, 1), None, alpha, 0.5, 0.4, 0.3, 0.2, BACKEND),
        ],
        "from_rgb_fade_in_forward": [
            (draw(2, 3, 4, 6), half, draw(9, 3, 1, 1), nine, alpha, 0.5, 0.3, 0.2, BACKEND),
            (draw(2, 3, 4, 6), half, draw(9, 3, 1, 1), None, alpha, 0.5, 0.3, 0.2, BACKEND),
        ],
    }


def drawer(layout: str, dtype: torch.dtype) -> Draw:
    return lambda *shape: grid.arrange(torch.randn(shape).to(dtype), layout).requires_grad_()


NAMES = sorted(samples(drawer("nchw", torch.float32)))


def test_every_registered_op_has_samples() -> None:
    assert sorted(_register._overload) == NAMES


QUICK = [(torch.float32, "nchw", "aten"), (torch.bfloat16, "sliced", "aten"), (torch.float32, "channels_last", "cpu")]
RUNS = [
    pytest.param(*run, marks=() if run in QUICK else pytest.mark.slow, id="-".join(map(str, run)))
    for run in itertools.product((torch.float32, torch.bfloat16), grid.LAYOUTS, grid.BACKENDS_UNDER_TEST)
]


@pytest.mark.parametrize(("dtype", "layout", "backend"), RUNS)
@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name: str, layout: str, dtype: torch.dtype, backend: str) -> None:
    for sample in samples(drawer(layout, dtype))[name]:
        torch.library.opcheck(_register._overload[name], (*sample[:-1], backend))


@pytest.mark.parametrize("name", NAMES)
def test_the_eager_function_and_the_dispatcher_agree(name: str) -> None:
    """Same kernel, same setup, same backward: equal bits, in the outputs and in the gradients."""
    for sample in samples(drawer("nchw", torch.float32))[name]:
        tensors = [t for t in sample if isinstance(t, Tensor) and t.requires_grad]
        results = []
        for run in (_register._eager[name], _register._overload[name]):
            chosen = (_register._chosen(name, sample),) if run is _register._eager[name] else ()
            out = run(*sample, *chosen)
            outs = [o for o in (out if isinstance(out, tuple) else (out,)) if o is not None and o.is_floating_point()]
            grads = torch.autograd.grad([o.sin().sum() for o in outs], tensors, allow_unused=True)
            results.append([*outs, *grads])
        for a, b in zip(*results, strict=True):
            assert (a is None) == (b is None)
            assert a is None or (torch.equal(a, b) and a.stride() == b.stride())


@pytest.mark.skipif(torch.__version__.startswith("2.10."), reason="torch 2.10's opcheck does not compare strides")
@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
def test_a_fake_with_wrong_strides_is_caught(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    from pggan_fast.backends import registry

    key = backend, "fade_reals"
    right = registry._TABLE[key]
    wrong = right._replace(run=lambda *args: right.run(*args).contiguous(memory_format=torch.channels_last), plan=None)
    monkeypatch.setitem(registry._TABLE, key, wrong)
    sample = (torch.randn(2, 3, 4, 6, requires_grad=True), torch.tensor(0.25), backend)
    with pytest.raises(Exception, match=r"(?i)stride"):
        torch.library.opcheck(_register._overload["fade_reals"], sample)
