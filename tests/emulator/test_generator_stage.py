"""The generator's block in one launch on the host, and the image behind a convolution where the block does not fit."""

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
ALPHA = 0.3125


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def draw(
    cin: int, c: int, h: int, w: int, dtype: torch.dtype = torch.float16, k: int = 3, batch: int = 2
) -> tuple[Tensor, list[Scaled]]:
    """x and the four layers."""
    x = op_cases.random(batch, cin, h, w, dtype=dtype, channels_last=True)
    layers = []
    for i, (out, inputs, t) in enumerate(((c, cin, 3), (c, c, 3), (k, c, 1), (k, cin, 1))):
        weight, bias = op_cases.random(out, inputs, t, t, seed=i), op_cases.random(out, seed=i + 10)
        layers.append(Scaled(weight, bias, (inputs * t * t) ** -0.5, 0.5 + 0.1 * i))
    return x, layers


def call(stage: Any, x: Tensor, layers: list[Scaled], **options: Any) -> Tensor:
    alpha = {"alpha": ALPHA} if len(layers) == 4 else {}
    y: Tensor = stage(x, *layers, **alpha, **{"eps": 1e-2, **options})
    return y


def wrong(y: Tensor, x: Tensor, layers: list[Scaled], **options: Any) -> list[str]:
    wide = [Scaled(*(t.double() if isinstance(t, Tensor) else t for t in layer)) for layer in layers]
    want = call(reference.generator_stage, x.double(), wide, **options)
    rival = call(reference.generator_stage, x, layers, **options)
    return grid.judge({"y": y}, {"y": rival}, {"y": want}, y.dtype)


def run(x: Tensor, layers: list[Scaled], options: dict[str, Any] | None = None, **how: Any) -> tuple[Tensor, list[str]]:
    """y, and the kernels that made it, less those of the weights."""
    with emulate.emulated(**how) as emulator:
        y = call(ops.generator_stage, x, layers, **(options or {}), backend="cuda")
        kernels = [launch["kernel"] for launch in emulator.launches()]
    return y, [kernel.partition("<")[0] for kernel in kernels if not kernel.startswith("pack_weight")]


@pytest.mark.parametrize("shows", [2, 3, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parts_of_tiles(dtype: torch.dtype, shows: int) -> None:
    """Outputs of 30 columns and of 6, 14 and 30 rows a tile, whole ones and what is left at the edges."""
    for cin, c, h, w in (
        (3, 5, 1, 1),
        (32, 16, 3, 15),
        (16, 17, 4, 16),
        (8, 16, 15, 31),
        (64, 32, 16, 8),
        (9, 40, 2, 2),
    ):
        x, layers = draw(cin, c, h, w, dtype)
        y, kernels = run(x, layers[:shows], multiprocessors=1)
        assert kernels == ["generator_stage_kernel"]
        assert not wrong(y, x, layers[:shows])
        assert y.stride() == grid.expected_strides(y.shape, x)


@pytest.mark.parametrize("norm", grid.NORMS)
@pytest.mark.parametrize("slope", grid.SLOPES)
def test_the_epilogue(slope: float | None, norm: str) -> None:
    for eps_mode in grid.EPS_MODES:
        options = {"negative_slope": slope, "pixel_norm": norm, "eps_mode": eps_mode}
        x, layers = draw(8, 12, 4, 5, torch.float32)
        assert not wrong(run(x, layers, options)[0], x, layers, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_order_of_threads_matters(dtype: torch.dtype) -> None:
    x, layers = draw(32, 16, 17, 18, dtype)
    for shows in (2, 4):
        images = [run(x, layers[:shows], policy=policy, multiprocessors=2)[0] for policy in op_cases.POLICIES]
        assert all(torch.equal(images[0], image) for image in images[1:])


def test_x_off_16_bytes() -> None:
    x, layers = draw(16, 16, 5, 6)
    x = op_cases.off_16_bytes(x, True)
    assert not wrong(run(x, layers)[0], x, layers)


@pytest.mark.parametrize(
    ("cin", "c", "limit", "kernels"),
    [
        (32, 16, 99, 1), (64, 32, 227, 1), (64, 32, 163, 1), (64, 32, 99, 3), (64, 64, 227, 3), (64, 64, 163, 3),
        (64, 64, 99, 0),
    ],
)  # fmt: skip
def test_what_fits_the_device(cin: int, c: int, limit: int, kernels: int) -> None:
    """The last stages of 1024 and 512, and of a generator twice as wide: in one launch, or convolution, toRGB of x, and
    convolution with the image. The emulator refuses a launch that asks for more shared memory than there is."""
    x, layers = draw(cin, c, 5, 9)
    if not kernels:
        with pytest.raises(BackendUnavailable, match="shared memory"):
            run(x, layers, shared_limit=limit * 1024)
        return
    y, launched = run(x, layers, shared_limit=limit * 1024)
    names = ["generator_stage_kernel"] if kernels == 1 else ["scaled_conv2d_kernel"] * kernels
    assert launched == names
    assert not wrong(y, x, layers)


def test_channels_that_grow() -> None:
    """What the second convolution takes is judged by its own channels: those of x would fit."""
    x, layers = draw(8, 64, 3, 3, torch.float32)
    with pytest.raises(BackendUnavailable, match="shared memory"):
        run(x, layers, shared_limit=99 * 1024)


def test_a_small_launch_leaves_a_large_one_its_shared_memory() -> None:
    """Threads set it for the kernel, not for their launch: the emulator refuses to lower it."""
    for cin in (32, 8):
        run(*draw(cin, 16, 3, 3))


def test_features_that_do_not_fit_go_in_parts() -> None:
    x, layers = draw(64, 32, 5, 9)
    y, launched = run(x, layers[:2], shared_limit=99 * 1024)
    assert launched == ["scaled_conv2d_kernel"] * 2
    assert not wrong(y, x, layers[:2])


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("shows", [3, 4])
def test_the_image_behind_a_convolution(shows: int, channels_last: bool) -> None:
    cases = (torch.float16, 64, 3, 163), (torch.bfloat16, 64, 1, 163), (torch.float32, 32, 4, 99)
    for dtype, channels, k, limit in cases:
        x, layers = draw(channels, channels, 9, 11, dtype, k)
        x = x if channels_last else x.contiguous()
        y, launched = run(x, layers[:shows], shared_limit=limit * 1024)
        assert launched == ["scaled_conv2d_kernel"] * (shows - 1)
        assert not wrong(y, x, layers[:shows])
        assert y.stride() == grid.expected_strides(y.shape, x)


def test_no_pixels() -> None:
    x, layers = draw(8, 8, 2, 2, batch=2)
    assert run(x[:0], layers)[0].shape == (0, 3, 4, 4)


def test_gradients_flow_through_the_parts() -> None:
    """The kernel keeps nothing for them: where one is wanted the layers run, as they do under a dispatch mode."""
    x, layers = draw(8, 8, 3, 3, torch.float32)
    wanted = Scaled(layers[0].weight.clone().requires_grad_(), *layers[0][1:])
    with emulate.emulated() as emulator:
        y = call(ops.generator_stage, x, [wanted, *layers[1:]], backend="cuda")
        y.sum().backward()
        assert not any("generator_stage" in launch["kernel"] for launch in emulator.launches())
    assert wanted.weight.grad is not None


# Modelled traffic


@pytest.mark.parametrize(("cin", "c"), [(32, 16), (64, 32)])
def test_traffic(cin: int, c: int) -> None:
    """The last stages of 1024 and 512: x with its halo, the weights in each block, and the image alone."""
    x, layers = draw(cin, c, 30, 45, batch=1)
    with emulate.emulated(stats=True, multiprocessors=1) as emulator:
        image = call(ops.generator_stage, x, layers, backend="cuda")
        places, stage = emulator.traffic(), emulator.launches()[-1]
    own = [p for p in places if "generator_stage.cu" in p["at"]]
    tiles = [p for p in own if p["at"].startswith(("tile.cuh", "conv_tile.cuh"))]  # copies and products
    assert len(tiles) > 8
    assert all(max(p["sectors"], p["wavefronts"]) == p["ideal"] for p in tiles)
    # What lies between the convolutions is written to every second pixel: pairs of lanes meet in a bank
    shared = [p for p in own if p["space"] == "shared" and not p["at"].startswith("rgb.cuh")]  # of toRGB's weights
    assert all(p["wavefronts"] <= 2 * p["ideal"] for p in shared)
    assert stage["written"] == image.nbytes
    weights = stage["read"] - x.nbytes
    of_x = sum(p["bytes"] for p in tiles if (p["space"], p["kind"]) == ("global", "read")) - weights
    assert of_x <= (17 / 15) ** 2 * x.nbytes  # tiles of 17 x 17 pixels for 15 x 15
    floor = x.nbytes + image.nbytes  # the weights do not grow with the image
    assert 32 * stage["sectors"] - weights <= 1.3 * floor


# Seeded faults


def test_faults_are_seen() -> None:
    x, layers = draw(16, 16, 5, 9, torch.float32)

    def changed(i: int, value: Any) -> Tensor:
        with op_cases.with_argument("generator_stage", i, value):
            return run(x, layers)[0]

    assert not wrong(run(x, layers)[0], x, layers)
    one = torch.tensor(0.32)
    for i, value in ((2, None), (4, None), (6, None), (8, None), (9, one), (27, 0.51), (28, 0.61), (29, 0.21), (30, 2),
                     (31, 1.1e-2), (33, 0.26), (34, 0.71), (35, 0.26), (36, 0.81)):  # fmt: skip
        assert wrong(changed(i, value), x, layers), i
    with pytest.raises(emulate.Fault, match="OUT-OF-BOUNDS"):
        changed(20, 12)  # images higher than they are


def test_faults_of_the_image_behind_a_convolution_are_seen() -> None:
    x, layers = draw(32, 32, 5, 9, torch.float32)

    def changed(i: int, value: Any) -> Tensor:
        with op_cases.with_argument("conv_to_rgb", i, value):
            return run(x, layers, shared_limit=99 * 1024)[0]

    one = torch.tensor(0.32)
    for i, value in ((2, None), (4, None), (5, None), (6, one), (20, 0.61), (21, 0.21), (22, 2), (23, 1.1e-2),
                     (25, 0.18), (26, 0.71)):  # fmt: skip
        assert wrong(changed(i, value), x, layers), i
    with pytest.raises(emulate.Fault, match="OUT-OF-BOUNDS"):
        changed(13, 12)  # images higher than they are
