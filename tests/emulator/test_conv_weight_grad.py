"""The CUDA kernels of conv_weight_grad on the host emulator, against the float64 formula."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import emulate
import grid
import pytest
import torch
from torch import Tensor

from pggan_fast.backends import BackendUnavailable, cuda, cuda_grad, precision
from pggan_fast.reference import up2

pytestmark = pytest.mark.usefixtures("poison")

SCALE = 0.3
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
AXES = {
    "dtype": DTYPES,
    "weights": ("same", "float32"),
    "float32": ("ieee", "tf32"),
    "cin": (1, 3, 8, 16, 17, 24, 32, 48, 64),
    "cout": (1, 3, 8, 16, 17, 24, 32, 48, 64),
    "k": (3, 1),
    "resample": ("none", "up", "down"),
    "height": (1, 2, 5, 7, 16),
    "width": (1, 2, 4, 7, 17, 33),
    "layout": grid.LAYOUTS,
    "batch": (1, 3),
}


def pixels(case: grid.Case) -> float:
    """That the emulator multiplies, with those around tiles and in the slices of channels."""
    tiles = case["batch"] * math.ceil(case["height"] / 8) * math.ceil(case["width"] / 16)
    return tiles * math.ceil(case["cin"] / 16) * math.ceil(case["cout"] / 16) * (4 if case["resample"] != "none" else 1)


CASES = grid.covers(AXES, pixels, 64, times=1)


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets how float32 convolutions and matrix products multiply; exactly, unless a test calls it."""

    def set_to(conv: str, matmul: str | None = None) -> None:
        monkeypatch.setattr(precision, "conv_fp32", lambda: conv)
        monkeypatch.setattr(precision, "matmul_fp32", lambda: matmul or conv)

    set_to("ieee")
    return set_to


def draw(case: grid.Case, seed: int) -> tuple[Tensor, Tensor]:
    """x and dy; height and width are those of the smaller of the two."""
    rng = torch.Generator().manual_seed(seed)
    factor_x, factor_y = {"none": (1, 1), "up": (1, 2), "down": (2, 1)}[case["resample"]]

    def image(channels: int, factor: int) -> Tensor:
        size = case["batch"], channels, factor * case["height"], factor * case["width"]
        return grid.arrange(torch.randn(size, generator=rng).to(case["dtype"]), case["layout"])

    return image(case["cin"], factor_x), image(case["cout"], factor_y)


def formula(x: Tensor, dy: Tensor, k: int, resample: str, dtype: torch.dtype) -> Tensor:
    """By torch's own weight gradient in `dtype`, at the larger size."""
    x, dy = x.to(dtype), dy.to(dtype)
    if resample == "up":
        x = up2(x)
    elif resample == "down":
        dy = up2(dy) * 0.25
    return torch.nn.grad.conv2d_weight(x, (dy.shape[1], x.shape[1], k, k), dy, padding=k // 2) * SCALE


def run(x: Tensor, dy: Tensor, case: grid.Case, policy: int = emulate.FIFO, seed: int = 1) -> Tensor:
    dtype = torch.float32 if case["weights"] == "float32" else x.dtype
    with emulate.emulated(policy, seed):
        dw: Tensor = torch.ops.pggan_fast.conv_weight_grad(x, dy, SCALE, case["resample"], case["k"], dtype, "cuda")
    return dw


def wrong(dw: Tensor, x: Tensor, dy: Tensor, case: grid.Case) -> list[str]:
    want, rival = (formula(x, dy, case["k"], case["resample"], dtype) for dtype in (torch.float64, dw.dtype))
    tf32 = x.dtype == torch.float32 and case["float32"] == "tf32"  # as many bits as float16
    return grid.judge({"dw": dw}, {"dw": rival}, {"dw": want}, torch.float16 if tf32 else dw.dtype)


def check(case: grid.Case, seed: int, policy: int = emulate.FIFO) -> None:
    x, dy = draw(case, seed)
    found = wrong(run(x, dy, case, policy, seed + 1), x, dy, case)
    assert not found, found


@pytest.mark.parametrize("seed", grid.numbered(CASES))
def test_grid(seed: int, float32: Callable[..., None]) -> None:
    float32(CASES[seed]["float32"])
    check(CASES[seed], seed)


PLAIN: grid.Case = {
    "dtype": torch.float16, "weights": "float32", "float32": "ieee", "cin": 16, "cout": 24, "k": 3, "resample": "none",
    "height": 9, "width": 20, "layout": "channels_last", "batch": 2,
}  # fmt: skip


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("resample", ["none", "up", "down"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_order_of_threads_matters(dtype: torch.dtype, resample: str, k: int) -> None:
    case = {**PLAIN, "dtype": dtype, "resample": resample, "k": k}
    x, dy = draw(case, 0)
    first, *others = (run(x, dy, case, policy) for policy in (emulate.FIFO, emulate.LIFO, emulate.RANDOM))
    assert not wrong(first, x, dy, case)
    assert all(torch.equal(first, other) for other in others)


def test_random_cases(float32: Callable[..., None]) -> None:
    rng = random.Random(0)
    for seed in range(24):
        case = {axis: rng.choice(values) for axis, values in AXES.items()}
        case |= {axis: rng.randint(1, 64) for axis in ("cin", "cout")}
        case |= {axis: rng.randint(1, 9) for axis in ("height", "width")}
        float32(case["float32"])
        check(case, seed, policy=seed % 3)


@pytest.mark.parametrize("resample", ["none", "up", "down"])
def test_blocks_go_through_many_tiles(resample: str) -> None:
    """Of several samples and rows; more than the emulator's multiprocessors have at a time."""
    case = {**PLAIN, "resample": resample, "cin": 16, "cout": 16, "height": 21, "width": 40, "batch": 3}
    check(case, 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_images_off_16_bytes(dtype: torch.dtype) -> None:
    case = {**PLAIN, "dtype": dtype}
    x, dy = draw(case, 0)
    shifted = x.new_empty(x.numel() + 1)[1:].as_strided(x.shape, x.stride(), 1).copy_(x)
    assert torch.equal(run(shifted, dy, case), run(x, dy, case))


@pytest.mark.parametrize("batch", [0, 1])
def test_nothing_to_add_is_zero(batch: int) -> None:
    case = {**PLAIN, "batch": batch, "height": batch - 1 and 4}
    x, dy = draw(case, 0)
    assert torch.equal(run(x, dy, case), torch.zeros(24, 16, 3, 3))


def test_more_channels_are_refused() -> None:
    x, dy = draw({**PLAIN, "cin": 65}, 0)
    for first, second in ((x, dy), (dy, x)):
        with pytest.raises(BackendUnavailable, match="at most 64 channels, got 65"):
            run(first, second, PLAIN)


def test_float32_products_follow_the_setting(float32: Callable[..., None]) -> None:
    case = {**PLAIN, "dtype": torch.float32, "float32": "tf32"}
    x, dy = draw(case, 0)
    float32("tf32")
    rounded = run(x, dy, case)
    assert not wrong(rounded, x, dy, case)
    assert wrong(rounded, x, dy, {**case, "float32": "ieee"})
    for matmul, conv in (("ieee", "tf32"), ("tf32", "ieee")):  # a matrix product, under the other setting
        case |= {"k": 1, "height": 1, "width": 1, "float32": "ieee"}
        x, dy = draw(case, 0)
        float32(conv, matmul)
        assert bool(wrong(run(x, dy, case), x, dy, case)) == (matmul == "tf32")


def test_sums_of_half_precision_are_not_rounded_to_it() -> None:
    x, dy = draw(PLAIN, 0)
    assert not wrong(run(x, dy, PLAIN), x, dy, PLAIN)
    assert wrong(run(x, dy, {**PLAIN, "weights": "same"}).float(), x, dy, PLAIN)


SCALE_AT, RESAMPLE_AT, HEIGHT_AT = 13, 11, 6  # in the arguments of the native function, less the workspace


@pytest.mark.parametrize(
    ("resample", "position", "value"),
    [("none", SCALE_AT, SCALE * (1 + 1e-4)), ("none", HEIGHT_AT, 8), ("down", SCALE_AT, 4 * SCALE)],
)
def test_faults_are_seen(monkeypatch: pytest.MonkeyPatch, resample: str, position: int, value: Any) -> None:
    case = {**PLAIN, "resample": resample, "batch": 1}
    x, dy = draw(case, 0)
    assert not wrong(run(x, dy, case), x, dy, case)

    def faulty(name: str, *args: Any) -> Any:
        return emulate.call(name, *args[:position], value, *args[position + 1 :])

    with emulate.emulated():
        monkeypatch.setattr(cuda, "emulator", faulty)
        dw = cuda_grad.conv_weight_grad(x, dy, SCALE, resample, 3, torch.float32)
    assert wrong(dw, x, dy, case)


def test_wrong_results_are_seen() -> None:
    """Taps that are mirrored, channels that are exchanged, an image that is repeated past its border."""
    case = {**PLAIN, "cout": 16}
    x, dy = draw(case, 0)
    dw = run(x, dy, case)
    padded = torch.nn.functional.pad(x.double(), (1, 1, 1, 1), mode="replicate")
    border = torch.nn.grad.conv2d_weight(padded, (16, 16, 3, 3), dy.double()) * SCALE
    for fault in (dw.flip(2), dw.flip(3), dw.transpose(0, 1), dw.transpose(2, 3), border.float()):
        assert wrong(fault, x, dy, case)


def test_an_image_that_is_too_short_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    x, dy = draw(PLAIN, 0)

    def taller(name: str, *args: Any) -> Any:
        return emulate.call(name, *args[:HEIGHT_AT], 11, *args[HEIGHT_AT + 1 :])

    with emulate.emulated():
        monkeypatch.setattr(cuda, "emulator", taller)
        with pytest.raises(emulate.Fault, match="OUT-OF-BOUNDS"):
            cuda_grad.conv_weight_grad(x, dy, SCALE, "none", 3, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("resample", ["none", "up", "down"])
def test_memory_is_touched_in_whole_sectors(resample: str, dtype: torch.dtype) -> None:
    """Less dw, a few numbers far apart; and fragments come from shared memory without bank conflicts."""
    case = {**PLAIN, "resample": resample, "dtype": dtype, "cin": 32, "cout": 32, "height": 8, "width": 16, "batch": 1}
    x, dy = draw(case, 0)
    with emulate.emulated(stats=True) as emulator:
        dw = torch.ops.pggan_fast.conv_weight_grad(x, dy, SCALE, resample, 3, torch.float32, "cuda")
        places = emulator.traffic()
    scattered = 0
    for place in places:
        if place["space"] == "global" and place["bytes"] != 32 * place["sectors"]:
            assert place["kind"] == "write"
            scattered += place["bytes"]
        elif place["space"] == "shared" and place["kind"] == "read":
            assert place["wavefronts"] == place["ideal"], place
    assert scattered == dw.numel() * dw.itemsize


LAYERS = grid.load("test_scaled_conv2d")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("resample", ["none", "up", "down", "pool"])
def test_layers_in_every_order(resample: str, dtype: torch.dtype) -> None:
    case = {
        "dtype": dtype, "size": 5, "narrow": False, "layout": "channels_last", "batch": 3, "cin": 17, "cout": 24,
        "k": 3, "resample": resample, "norm": "after_act", "eps_mode": "inside", "slope": 0.2, "bias": "float32",
        "weights": "float32", "cotangent": "same",
    }  # fmt: skip
    inputs, options = LAYERS.arguments(case, 0)
    with emulate.emulated():
        grid.check("scaled_conv2d", inputs, options, "cuda", data=["x"], seed=0)
