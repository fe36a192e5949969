"""The discriminator's first two layers in one launch on the host: tiles that are computed, not copied."""

from __future__ import annotations

from typing import Any

import emulate
import grid
import op_cases
import pytest
import torch
from torch import Tensor

from pggan_fast import BackendUnavailable, ops, reference
from pggan_fast.ops import Scaled

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def draw(
    k: int, cin: int, c: int, h: int, w: int, dtype: torch.dtype = torch.float16, channels_last: bool = True
) -> tuple[Tensor, Scaled, Scaled]:
    image = op_cases.random(2, k, h, w, dtype=dtype, channels_last=channels_last)
    from_rgb = Scaled(op_cases.random(cin, k, 1, 1, seed=1), op_cases.random(cin, seed=2), k**-0.5, 0.5)
    conv = Scaled(op_cases.random(c, cin, 3, 3, seed=3), op_cases.random(c, seed=4), (9 * cin) ** -0.5, 0.75)
    return image, from_rgb, conv


def wrong(y: Tensor, image: Tensor, *layers: Scaled, **options: Any) -> list[str]:
    wide = [Scaled(*(t.double() if isinstance(t, Tensor) else t for t in layer)) for layer in layers]
    want = reference.discriminator_stem(image.double(), *wide, **options)
    return grid.judge(
        {"y": y}, {"y": reference.discriminator_stem(image, *layers, **options)}, {"y": want}, image.dtype
    )


def run(image: Tensor, *layers: Scaled, **how: Any) -> Tensor:
    with emulate.emulated(**how) as emulator:
        y = ops.discriminator_stem(image, *layers, backend="cuda")
        kernels = [launch["kernel"].partition("<")[0] for launch in emulator.launches()]
    assert kernels == ["pack_weight_kernel", "scaled_conv2d_kernel"]
    return y


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parts_of_tiles(dtype: torch.dtype, channels_last: bool) -> None:
    for k, cin, c, h, w in ((1, 3, 5, 1, 1), (3, 16, 16, 17, 15), (4, 17, 40, 4, 33), (2, 64, 64, 6, 16)):
        drawn = draw(k, cin, c, h, w, dtype, channels_last)
        y = run(*drawn, multiprocessors=1)
        assert not wrong(y, *drawn)
        assert y.stride() == grid.expected_strides(y.shape, drawn[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_infinite_pixels(dtype: torch.dtype) -> None:
    """Channels of the padding take nothing from them."""
    image = torch.ones(1, 1, 4, 4, dtype=dtype)
    image[0, 0, 1, 2] = float("inf")
    layers = Scaled(torch.ones(3, 1, 1, 1)), Scaled(torch.ones(4, 3, 3, 3))
    want = torch.nn.functional.conv2d(image.double(), torch.full((4, 1, 3, 3), 3.0, dtype=torch.double), padding=1)
    assert torch.equal(run(image, *layers), want.to(dtype))


@pytest.mark.parametrize("limit", [48, 99])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_order_of_threads_matters(dtype: torch.dtype, limit: int) -> None:
    """With two tiles in shared memory and with one."""
    drawn = draw(3, 32, 32, 34, 20, dtype)
    if dtype == torch.float32 and limit == 48:
        with pytest.raises(BackendUnavailable, match="shared memory"):
            run(*drawn, shared_limit=limit * 1024)
        return
    results = [run(*drawn, policy=p, multiprocessors=2, shared_limit=limit * 1024) for p in op_cases.POLICIES]
    assert not wrong(results[0], *drawn)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_traffic() -> None:
    """The first layers of 1024: the image with its halo, features once, and banks without conflicts."""
    drawn = draw(3, 16, 16, 64, 64)
    with emulate.emulated(stats=True, multiprocessors=1) as emulator:
        y = ops.discriminator_stem(*drawn, backend="cuda")
        places, launch = emulator.traffic(), emulator.launches()[-1]
    own = [p for p in places if "scaled_conv2d.cu" in p["at"]]
    shared = [p for p in own if p["space"] == "shared" and p["bytes"] > 1e5]
    assert len(shared) >= 4
    assert all(p["wavefronts"] == p["ideal"] for p in shared)
    assert launch["written"] == y.nbytes
    # Each of a pixel's three elements is a request of its own, for the same sectors: from the cache
    assert 32 * launch["sectors"] <= 1.9 * (y.nbytes + drawn[0].nbytes)


def test_faults_are_seen() -> None:
    drawn = draw(3, 16, 16, 5, 9, torch.float32)

    def changed(i: int, value: Any) -> Tensor:
        with op_cases.with_argument("conv_from_rgb", i, value):
            return run(*drawn)

    assert not wrong(run(*drawn), *drawn)
    for i, value in ((2, None), (4, None), (18, 0.58), (19, 0.51), (20, 0.21), (21, 0.76), (22, 0.21), (16, False)):
        assert wrong(changed(i, value), *drawn), i
    with pytest.raises(emulate.Fault, match="OUT-OF-BOUNDS"):
        changed(11, 6)  # an image higher than it is
