"""The CUDA convolutions on the host: every resampling, forward and adjoint, and the layer's epilogue."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import emulate
import grid
import pytest
import torch
import torch.nn.functional as F
from kernel_checks import bits_of
from torch import Tensor

from pggan_fast import ops, reference
from pggan_fast.backends import BackendUnavailable, cuda, cuda_layer
from pggan_fast.reference import down2, up2

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SCALE = 0.25


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def numbers(*shape: int, dtype: torch.dtype = torch.float32, arranged: str = "channels_last", seed: int = 0) -> Tensor:
    t = torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)
    return grid.arrange(t.to(dtype), arranged)


def convolution(x: Tensor, w: Tensor, scale: float, resample: str, adjoint: bool) -> Tensor:
    """In plain torch; the adjoint's is the transpose: flipped weights, channels exchanged."""
    w = w.transpose(0, 1).flip(2, 3) if adjoint else w
    u = F.conv2d(up2(x) if resample == "up" else x, (w * scale).to(x.dtype), padding=w.shape[2] // 2)
    return down2(u) if resample == "down" else u


def conv(x: Tensor, w: Tensor, scale: float, resample: str, adjoint: bool) -> Tensor:
    return torch.ops.pggan_fast.conv(x, w, scale, resample, adjoint, "cuda")


def wrong(y: Tensor, formula: Callable[..., Tensor], *args: Any) -> list[str]:
    """What is wrong with y, a result of formula(*args)."""
    wide = [t.double() if isinstance(t, Tensor) else t for t in args]
    return grid.judge({"y": y}, {"y": formula(*args)}, {"y": formula(*wide)}, y.dtype)


def check_conv(x: Tensor, w: Tensor, resample: str, adjoint: bool = False, **how: Any) -> None:
    with emulate.emulated(**how):
        y = conv(x, w, SCALE, resample, adjoint)
    assert not wrong(y, convolution, x, w, SCALE, resample, adjoint)
    assert y.stride() == grid.expected_strides(y.shape, x)


def check_layer(x: Tensor, w: Tensor, bias: Tensor | None, resample: str = "none", **options: Any) -> None:
    options = {"weight_scale": SCALE, "bias_scale": 0.5, "resample": resample, **options}
    with emulate.emulated():
        y = ops.scaled_conv2d(x, w, bias, **options, backend="cuda")
    assert not wrong(y, lambda *t: reference.scaled_conv2d(*t, **options), x, w, bias)
    assert y.stride() == grid.expected_strides(y.shape, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("resample", ["none", "up", "down"])
def test_every_direction(resample: str, adjoint: bool, k: int, dtype: torch.dtype) -> None:
    for cin, c, h, w in ((3, 5, 6, 4), (16, 24, 2, 18), (33, 16, 4, 2), (64, 64, 2, 2), (1, 17, 2, 4)):
        x = numbers(2, c if adjoint else cin, h, w, dtype=dtype)
        weight = numbers(c, cin, k, k, seed=1)
        if cin == 64 and resample != "none" and dtype == torch.float32 and k == 3:
            continue  # its weights do not fit
        check_conv(x, weight, resample, adjoint)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 5), (9, 16), (17, 33), (40, 3)])
@pytest.mark.parametrize("resample", ["none", "up", "down"])
def test_odd_sizes_and_tails(resample: str, shape: tuple[int, int]) -> None:
    """Parts of tiles at every edge, more tiles than blocks, tiles of 4, 8 and 16 rows."""
    h, w = (2 * s for s in shape) if resample == "down" else shape
    for dtype, arranged in ((torch.float16, "channels_last"), (torch.float32, "nchw")):
        check_conv(numbers(3, 8, h, w, dtype=dtype, arranged=arranged), numbers(12, 8, 3, 3, seed=1), resample)


@pytest.mark.parametrize("arranged", grid.LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(dtype: torch.dtype, arranged: str) -> None:
    for channels in (1, 7, 16):
        check_conv(
            numbers(2, channels, 5, 6, dtype=dtype, arranged=arranged), numbers(9, channels, 3, 3, seed=1), "none"
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_images_off_sixteen_bytes(dtype: torch.dtype) -> None:
    room = torch.full((2 * 5 * 6 * 16 + 1,), float("nan"), dtype=dtype)
    x = room[1:].as_strided((2, 16, 5, 6), (480, 1, 96, 16)).copy_(numbers(2, 16, 5, 6, dtype=dtype))
    check_conv(x, numbers(16, 16, 3, 3, seed=1), "none")


@pytest.mark.parametrize("policy", [emulate.FIFO, emulate.LIFO, emulate.RANDOM])
@pytest.mark.parametrize("resample", ["none", "up", "down", "pool"])
def test_schedules(resample: str, policy: int) -> None:
    """Two tiles in shared memory and one, in every order of threads."""
    for dtype, cin in ((torch.float16, 16), (torch.float32, 32)):
        x, w, b = numbers(2, cin, 34, 36, dtype=dtype), numbers(32, cin, 3, 3, seed=1), numbers(32, seed=2)
        options = {"weight_scale": SCALE, "resample": resample, "negative_slope": 0.2}
        with emulate.emulated(policy, seed=7, multiprocessors=2):
            y = ops.scaled_conv2d(x, w, b, **options, backend="cuda")
        assert not wrong(y, lambda *t, o=options: reference.scaled_conv2d(*t, **o), x, w, b)


@pytest.mark.parametrize("limit", [48, 99, 163, 227])
@pytest.mark.parametrize(
    ("cin", "c", "resample"), [(64, 64, "none"), (32, 64, "down"), (64, 32, "up"), (16, 16, "none")]
)
def test_tiles_fit_the_device(cin: int, c: int, resample: str, limit: int) -> None:
    """What is said not to fit is refused, and all else runs: the emulator refuses launches that ask for more."""
    x, w = numbers(1, cin, 18, 20, dtype=torch.float16), numbers(c, cin, 3, 3, seed=1)
    fits = limit > 48 or c == cin == 16
    if fits:
        check_conv(x, w, resample, shared_limit=limit * 1024)
    else:
        with pytest.raises(BackendUnavailable, match="shared memory"):
            check_conv(x, w, resample, shared_limit=limit * 1024)


def test_what_it_does_not_run() -> None:
    def reason(x: Tensor, w: Tensor) -> str:
        with emulate.emulated(), pytest.raises(BackendUnavailable) as refused:
            conv(x, w, 1.0, "none", False)
        return str(refused.value)

    assert "at most 64 channels, got 65 to 8" in reason(numbers(1, 65, 4, 4), numbers(8, 65, 3, 3))
    assert "at most 64 channels, got 8 to 65" in reason(numbers(1, 8, 4, 4), numbers(65, 8, 3, 3))
    assert "no kernels for torch.float64" in reason(numbers(1, 8, 4, 4).double(), numbers(8, 8, 3, 3).double())


@pytest.mark.parametrize("norm", grid.NORMS)
@pytest.mark.parametrize("slope", [None, 0.2, 1.0, 0.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_epilogue(dtype: torch.dtype, slope: float | None, norm: str) -> None:
    for i, (c, eps_mode) in enumerate(((3, "inside"), (20, "outside"), (64, "inside"))):
        x, w = numbers(2, 8, 5, 3, dtype=dtype), numbers(c, 8, 3, 3, dtype=(dtype, torch.float32)[i % 2], seed=1)
        bias = None if i == 1 else numbers(c, dtype=(torch.float32, dtype)[i % 2], seed=2)
        for resample in ("none", "up"):
            check_layer(x, w, bias, resample, negative_slope=slope, pixel_norm=norm, eps=1e-2, eps_mode=eps_mode)


@pytest.mark.parametrize("norm", ["after_act", "before_act"])
@pytest.mark.parametrize("resample", ["none", "up", "down"])
def test_the_factor_of_the_norm(resample: str, norm: str) -> None:
    for dtype, c, shape in ((torch.float32, 12, (6, 34)), (torch.bfloat16, 33, (20, 2))):
        x, w = numbers(2, 8, *shape, dtype=dtype), numbers(c, 8, 3, 3, seed=1)
        with emulate.emulated():
            _, r, _ = cuda_layer.scaled_conv2d_forward(x, w, None, SCALE, 1.0, resample, 0.2, norm, 1e-8, "inside")
        v = convolution(x.double(), w.double(), SCALE, resample, False)
        a = F.leaky_relu(v, 0.2) if norm == "after_act" else v
        assert r is not None
        assert r.dtype == torch.float32
        torch.testing.assert_close(r.double(), (a.square().mean(1, keepdim=True) + 1e-8).rsqrt(), rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arranged", ["nchw", "channels_last"])
def test_pool_means_and_bits(arranged: str, dtype: torch.dtype) -> None:
    for c, h, w in ((1, 2, 6), (5, 4, 2), (24, 4, 36), (17, 18, 2), (64, 6, 4)):
        x, weight = numbers(3, 9, h, w, dtype=dtype, arranged=arranged), numbers(c, 9, 3, 3, seed=1)
        bias = numbers(c, seed=2)
        check_layer(x, weight, bias, "pool", negative_slope=0.2)
        with emulate.emulated():
            _, r, mask = cuda_layer.scaled_conv2d_forward(
                x, weight, bias, SCALE, 0.5, "pool", 0.2, "none", 0.0, "inside"
            )
        assert r is None
        assert mask is not None
        assert mask.stride() == grid.expected_strides(mask.shape, x)
        v = convolution(x.double(), weight.double(), SCALE, "none", False) + bias.view(1, -1, 1, 1).double() * 0.5
        clear = v.abs() > 0.05  # a rounding may turn the sign of what is nearly zero
        assert torch.equal(bits_of(mask, c)[clear], (v > 0)[clear])


def test_a_pool_after_a_norm() -> None:
    check_layer(
        numbers(1, 8, 4, 6), numbers(8, 8, 3, 3, seed=1), None, "pool", negative_slope=0.2, pixel_norm="after_act"
    )


def test_no_pixels() -> None:
    for shape in ((0, 4, 4, 4), (2, 4, 0, 4)):
        with emulate.emulated():
            y = conv(torch.empty(shape), numbers(8, 4, 3, 3), 1.0, "up", False)
        assert y.shape == (shape[0], 8, 2 * shape[2], 8)


def test_what_is_not_finite_stays_in_its_channel() -> None:
    """Padded channels are multiplied with zeros, which must not make NaN of infinities: r = 0 is the norm's answer."""
    x, w = torch.full((1, 1, 1, 1), float("inf"), dtype=torch.float16), torch.ones(3, 1, 1, 1)
    with emulate.emulated():
        _, r, _ = cuda_layer.scaled_conv2d_forward(x, w, None, 1.0, 1.0, "none", None, "after_act", 1e-8, "inside")
    assert r is not None
    assert r.item() == 0.0


def test_weights_are_rounded_once() -> None:
    """Two taps whose sum is lost if each is rounded first: in odd columns an upsampling layer adds them up."""
    small = torch.finfo(torch.bfloat16).eps / 4
    w = torch.zeros(1, 1, 3, 3)
    w[0, 0, 1, :2] = torch.tensor([1.0 + small, -1.0])
    with emulate.emulated():
        y = conv(torch.ones(1, 1, 4, 4, dtype=torch.bfloat16), w, 1.0, "up", False)
    assert y[0, 0, :, 1::2].float().eq(small).all()


def test_tf32_is_what_cudnn_is_set_to(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = numbers(1, 48, 6, 6), numbers(24, 48, 3, 3, seed=1)
    want = convolution(x.double(), w.double(), 1.0, "none", False)
    errors = []
    for allowed in (False, True):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        with emulate.emulated():
            errors.append(float((conv(x, w, 1.0, "none", False) - want).abs().max() / want.abs().max()))
    assert errors[0] < 1e-6
    assert 1e-5 < errors[1] < 1e-3


@pytest.mark.parametrize("seed", range(24))
def test_any_shape(seed: int) -> None:
    rng = random.Random(seed)
    dtype, arranged = rng.choice(DTYPES), rng.choice(grid.LAYOUTS)
    cin, c = (rng.choice((1, 3, 4, 8, 16, 17, 24, 32, 40, 48)) for _ in range(2))
    n, h, w = rng.choice((1, 3)), rng.randint(1, 20), rng.randint(1, 20)
    resample, adjoint, k = rng.choice(("none", "up", "down")), rng.random() < 0.5, rng.choice((1, 3))
    h, w = (2 * h, 2 * w) if resample == "down" else (h, w)
    x = numbers(n, c if adjoint else cin, h, w, dtype=dtype, arranged=arranged, seed=seed)
    weight = numbers(c, cin, k, k, dtype=rng.choice((dtype, torch.float32)), seed=seed + 1)
    check_conv(x, weight, resample, adjoint, policy=rng.randrange(3), seed=seed + 1, multiprocessors=rng.choice((1, 3)))


@pytest.mark.parametrize(
    ("resample", "norm", "slope", "dtype", "k"),
    [
        ("none", "after_act", 0.2, torch.float32, 3), ("up", "after_act", 0.2, torch.float16, 3),
        ("down", "none", 0.2, torch.bfloat16, 3), ("pool", "none", 0.2, torch.float32, 3),
        ("down", "before_act", 1.0, torch.float32, 1), ("up", "none", None, torch.float32, 1),
        ("pool", "after_act", 0.2, torch.float16, 3),
    ],
)  # fmt: skip
def test_derivatives_of_the_layer(resample: str, norm: str, slope: float | None, dtype: torch.dtype, k: int) -> None:
    """Outputs, gradients and the gradients of a gradient's product, all by kernels of this backend."""
    case = {"dtype": dtype, "layout": "channels_last"}
    draw = grid.Numbers(case, 3, grid.is_kinked(slope))
    scale = draw.scale(24 * k * k, True)
    inputs = {
        "x": draw.tensor(2, 24, 6, 8),
        "weight": draw.tensor(16, 24, k, k),
        "bias": draw.bias("same", 16, 2 * scale),
    }
    options = {
        "weight_scale": scale, "bias_scale": 0.5, "resample": resample, "negative_slope": slope, "pixel_norm": norm,
        "eps": 1e-8,
    }  # fmt: skip
    with emulate.emulated():
        grid.check("scaled_conv2d", inputs, options, "cuda", data=["x"], seed=3)


# Seeded faults: what a kernel that did something else would compute does not pass


def test_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = numbers(2, 16, 4, 6), numbers(16, 16, 3, 3, seed=1), numbers(16, seed=2)
    options = {"weight_scale": SCALE, "bias_scale": 0.5, "negative_slope": 0.2, "pixel_norm": "after_act", "eps": 1e-2}

    def layer(**change: Any) -> Tensor:
        """With arguments of the launches exchanged, by name."""

        def launch(name: str, *args: Any) -> Any:
            order = ORDER.get(name, ())
            return emulate.call(name, *(change.get(key, arg) for key, arg in zip(order, args, strict=True)))

        with emulate.emulated():
            monkeypatch.setattr(cuda, "launch", launch)
            y = ops.scaled_conv2d(x, w, b, **options, backend="cuda")
            monkeypatch.undo()
        return y

    def told(y: Tensor) -> bool:
        return bool(wrong(y, lambda *t: reference.scaled_conv2d(*t, **options), x, w, b))

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert not told(layer())
    for change in (
        {"slope": 0.21}, {"eps": 1.1e-2}, {"eps_inside": False}, {"norm": 2}, {"bias": None}, {"bias_scale": 0.51},
        {"scale": SCALE * (1 + 1e-5)}, {"adjoint": True}, {"ieee": False},
    ):  # fmt: skip
        assert told(layer(**change)), change


PACK = ("weight", "packed", "weight_dtype", "dtype", "c", "cin", "k", "resample", "adjoint", "ieee", "scale")
CONV = (
    "x", "packed", "bias", "y", "r", "mask", "dtype", "bias_dtype", "n", "h", "w", "cin", "c", "k", "resample", "pool",
    "ieee", "bias_scale", "slope", "norm", "eps", "eps_inside",
)  # fmt: skip
ORDER = {"pack_weight": PACK, "pack_weight_elements": PACK, "scaled_conv2d": CONV, "scaled_conv2d_rows": CONV}


# Modelled traffic


def traffic(x: Tensor, w: Tensor, resample: str) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Of the convolution alone, by place and in all."""
    c, k = w.shape[0], w.shape[2]
    then = (None, 1.0, 0.2, "none", 0.0, "inside")
    with emulate.emulated():
        y = torch.empty_like(conv(x, w, SCALE, resample, False))
        packed = cuda_layer.packed(w, x, SCALE, resample, False)
    with emulate.emulated(stats=True) as emulator:
        cuda.launch("scaled_conv2d", *cuda_layer._arguments(x, packed, None, y, None, None, c, k, resample, then))
        return emulator.traffic(), emulator.counts()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("cin", "c", "resample"), [(16, 16, "none"), (32, 16, "up"), (16, 32, "down"), (64, 64, "none")]
)
def test_traffic(cin: int, c: int, resample: str, dtype: torch.dtype) -> None:
    """Whole sectors, banks without conflicts, and the halo and the weights all that is read more than once."""
    x, w = numbers(1, cin, 64, 64, dtype=dtype), numbers(c, cin, 3, 3, seed=1)
    places, unique = traffic(x, w, resample)
    for place in places:
        if place["space"] == "global":
            assert place["sectors"] == place["ideal"], place
        elif place["kind"] == "read":
            assert place["wavefronts"] == place["ideal"], place
    read = sum(place["bytes"] for place in places if (place["space"], place["kind"]) == ("global", "read"))
    written = sum(place["bytes"] for place in places if (place["space"], place["kind"]) == ("global", "write"))
    assert written == unique["written"]
    image = x.numel() * x.element_size()
    weights = 3 * (unique["read"] - image)  # by each of the three blocks
    assert unique["read"] > image
    assert read - weights <= image * (18 / 16) ** 2


def test_traffic_of_the_rest() -> None:
    """r in whole sectors, the mask's bytes side by side."""
    x, w = numbers(1, 32, 32, 32, dtype=torch.float16), numbers(32, 32, 3, 3, seed=1)
    for resample, norm in (("none", "after_act"), ("pool", "none")):
        with emulate.emulated(stats=True) as emulator:
            cuda_layer.scaled_conv2d_forward(x, w, None, SCALE, 1.0, resample, 0.2, norm, 1e-8, "inside")
        for place in emulator.traffic():
            if place["space"] == "global" and "scaled_conv2d.cu" in place["at"]:
                assert place["sectors"] == place["ideal"], place
