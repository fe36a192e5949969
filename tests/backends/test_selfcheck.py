"""A kernel is trusted on a device once it has agreed with the reference there; each fault that it may have is seen."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from choices import forget_choices
from torch import Tensor

from pggan_fast import BackendUnavailable, nn, ops
from pggan_fast.backends import cpu, registry, selfcheck, signature, tables
from pggan_fast.models import Discriminator, Generator
from pggan_fast.training.losses import g_loss, wgan_gp_d_loss

pytestmark = [
    pytest.mark.skipif(cpu.native is None, reason=f"no native kernels: {cpu.why_missing()}"),
    pytest.mark.usefixtures("fresh_choices"),
]

CPU = torch.device("cpu")
Run = Callable[..., Any]


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ops that are checked from here on."""
    seen: list[str] = []
    real = selfcheck.check

    def check(op: str, run: Run, args: tuple[Any, ...]) -> selfcheck.Verdict:
        seen.append(op)
        return real(op, run, args)

    monkeypatch.setattr(selfcheck, "check", check)
    return seen


def replace(monkeypatch: pytest.MonkeyPatch, op: str, fault: Callable[[Run], Run], way: str = "cpu") -> None:
    row = registry._TABLE[way, op]
    monkeypatch.setitem(registry._TABLE, (way, op), row._replace(run=fault(row.run), plan=None))


def off_by(share: float) -> Callable[[Run], Run]:
    return lambda run: lambda *args: run(*args) * (1.0 + share)


FAULTS: dict[str, Callable[[Run], Run]] = {
    "off": off_by(1e-4),
    "nan": off_by(float("nan")),
    "one element": lambda run: lambda *args: run(*args).index_fill_(3, torch.tensor(1), 0.0),
    "dtype": lambda run: lambda *args: run(*args).double(),
    "shape": lambda run: lambda *args: run(*args)[:1],
    "strides": lambda run: lambda *args: run(*args).transpose(2, 3).contiguous().transpose(2, 3),
    "raises": lambda run: lambda *args: 1 / 0,
    "nothing": lambda run: lambda *args: None,
    "another argument": lambda run: lambda image, alpha: run(image, 1.0 - alpha),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_faulty_kernel_does_not_run(fault: Callable[[Run], Run], monkeypatch: pytest.MonkeyPatch) -> None:
    replace(monkeypatch, "fade_reals", fault)
    x = torch.randn(2, 3, 8, 8)
    with pytest.warns(RuntimeWarning, match="fade_reals runs on a slower backend than 'cpu': its self-check") as caught:
        y = ops.fade_reals(x, 0.25)
    assert len(caught) == 1
    torch.testing.assert_close(y, ops.fade_reals(x, 0.25, backend="reference"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one warning per cause
        ops.fade_reals(x, 0.5)
    monkeypatch.setenv("PGGAN_FAST_STRICT", "1")
    with pytest.raises(BackendUnavailable, match="self-check on this device failed"):
        ops.fade_reals(x, 0.25)


def test_a_kernel_named_by_the_user_runs_unchecked(checks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    replace(monkeypatch, "fade_reals", off_by(1.0))
    x = torch.ones(1, 1, 2, 2)
    assert ops.fade_reals(x, 1.0, backend="cpu").eq(2.0).all()
    assert not checks


MASKS = ("bias_act_forward", "scaled_conv2d_forward")


@pytest.mark.parametrize("op", MASKS)
def test_a_wrong_mask_is_seen(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def turned(run: Run) -> Run:
        def wrong(*args: Any) -> Any:
            y, r, mask = run(*args)
            return y, r, mask if mask is None else mask ^ 1

        return wrong

    for way in ("cpu", "aten+cpu"):
        if (way, op) in registry._TABLE:
            replace(monkeypatch, op, turned, way)
    x = torch.randn(2, 8, 4, 4)
    args: tuple[Any, ...] = (x, None, 1.0, 1.0, 0.2, "none", 0.0, "inside", True)
    if op == "scaled_conv2d_forward":
        args = (x, torch.randn(8, 8, 3, 3), None, 0.1, 1.0, "pool", 0.2, "none", 0.0, "inside")
    with pytest.warns(RuntimeWarning, match="mask's bytes are wrong"):
        assert registry.choose(op, None, "cpu", args).way == "aten"


def test_each_kind_of_call_is_checked_once_per_device(checks: list[str]) -> None:
    x = torch.randn(2, 3, 32, 32)
    for size in (32, 28, 24):  # of other even sizes from 20 on: the same kind
        ops.fade_reals(x[:, :, :size, :size].contiguous(), 0.25)
    assert checks == ["fade_reals"]
    ops.fade_reals(x.contiguous(memory_format=torch.channels_last), 0.25)
    ops.fade_reals(x.half(), 0.25)
    assert len(checks) == 3
    forget_choices()  # as another process
    ops.fade_reals(x, 0.25)
    assert len(checks) == 3
    for entry in tables.table(CPU)["checks"].values():
        assert entry["error"] <= entry["limit"]


def test_another_process_trusts_the_verdict_and_another_build_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ops.fade_reals(torch.randn(2, 3, 8, 8), 0.25)
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from pggan_fast import ops\nfrom pggan_fast.backends import selfcheck\n"
        "def check(*args): raise SystemExit(7)\nselfcheck.check = check\n"
        "if {other}: selfcheck.build = lambda way: 'another'\nops.fade_reals(torch.randn(2, 3, 8, 8), 0.25)"
    )
    for other, status in ((False, 0), (True, 7)):
        done = subprocess.run([sys.executable, "-c", code.format(other=other)], env=os.environ, check=False)
        assert done.returncode == status


def test_a_failure_is_not_kept_for_the_next_process(checks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    replace(monkeypatch, "fade_reals", off_by(1.0))
    with pytest.warns(RuntimeWarning):
        ops.fade_reals(torch.randn(2, 3, 8, 8), 0.25)
    ops.fade_reals(torch.randn(2, 3, 8, 8), 0.25)
    assert checks == ["fade_reals"]
    assert not tables.table(CPU)["checks"]


def test_a_damaged_verdict_is_checked_again(checks: list[str]) -> None:
    ops.fade_reals(torch.randn(2, 3, 8, 8), 0.25)
    path = tables.path_of(tables.device_key(CPU))
    data = json.loads(path.read_text())
    for entry in data["checks"].values():
        entry["build"] = 3
    path.write_text(json.dumps(data))
    forget_choices()
    with pytest.warns(RuntimeWarning, match="section 'checks' is damaged"):
        ops.fade_reals(torch.randn(2, 3, 8, 8), 0.25)
    assert len(checks) == 2


def test_the_users_random_numbers_and_modes_are_left_alone() -> None:
    torch.manual_seed(3)
    want = torch.rand(4)
    torch.manual_seed(3)
    x = torch.ones(2, 3, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        ops.fade_reals(x, 0.25)
    assert torch.equal(torch.rand(4), want)
    assert torch.is_grad_enabled()


def test_in_a_capture_an_unchecked_kernel_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Args(tuple):  # a call on a CUDA device, as far as the question goes
        pass

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(selfcheck, "proxy", lambda op, args: args)
    monkeypatch.setattr(tables, "table", lambda device: tables._empty())

    class Image:
        device, dtype, shape, ndim = torch.device("cuda", 0), torch.float32, (2, 3, 8, 8), 4

    monkeypatch.setattr(signature, "bucket", lambda *args: "fade_reals float32")
    with pytest.raises(RuntimeError, match=r"'triton' has not been checked .* pggan_fast\.warm_up"):
        selfcheck.failure("triton", "fade_reals", lambda *args: None, (Image(), None))


def training(G: Generator, D: Discriminator, z: Tensor, reals: Tensor, alpha: float) -> None:
    with torch.no_grad():
        fakes = G(z, alpha=alpha)
    wgan_gp_d_loss(D, reals, fakes, alpha=alpha).backward()
    g_loss(D, G(z, alpha=alpha), alpha=alpha).backward()


@pytest.mark.parametrize(
    ("downsample", "precision", "dtype"),
    [
        *itertools.product(("down", "pool"), ("highest", "high"), (torch.float32,)),
        *itertools.product(("down",), ("highest", "medium"), (torch.float16, torch.bfloat16)),
    ],
)
def test_every_kernel_of_a_training_step_passes(
    downsample: str, precision: str, dtype: torch.dtype, checks: list[str]
) -> None:
    """Of this machine's own kernels, none of which may be left out by its check."""
    before = torch.get_float32_matmul_precision()
    G, D = Generator(32, latent_dim=8, fmap_base=256), Discriminator(32, fmap_base=256, downsample=downsample)
    try:
        torch.set_float32_matmul_precision(precision)
        with warnings.catch_warnings(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            warnings.simplefilter("error")
            for alpha in (0.5, 1.0):
                training(G, D, torch.randn(4, 8), ops.fade_reals(torch.randn(4, 3, 32, 32), 0.5), alpha)
    finally:
        torch.set_float32_matmul_precision(before)
    ran = {"conv", "conv_weight_grad", "scaled_conv2d_forward", "bias_act_forward", "bias_act_backward"}
    assert ran | {"fade_in_backward", "minibatch_stddev_forward", "minibatch_stddev_backward"} <= set(checks)


@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e6, 1e20])
def test_no_scale_of_a_call_hides_a_fault(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product by zero, or infinite, says nothing of the kernel."""
    for way in ("cpu", "aten+cpu"):
        replace(monkeypatch, "conv", lambda run: lambda *args: run(*args) * 2.0, way)
    x, w = torch.randn(2, 16, 32, 32), torch.randn(16, 16, 3, 3)
    for dtype in (torch.float32, torch.float16):
        args = (x.to(dtype).contiguous(memory_format=torch.channels_last), w.to(dtype), scale, "none", False)
        with pytest.warns(RuntimeWarning, match="self-check"):
            assert registry.choose("conv", None, "cpu", args).way == "aten"
        monkeypatch.setattr(registry, "_WARNED", set())


def test_what_takes_another_way_through_a_kernel_is_another_kind(checks: list[str]) -> None:
    x = torch.randn(2, 8, 4, 4)
    for slope in (0.2, 0.3, 1.0, 0.0, None):  # two leaky ones, the others apart
        for eps in (1e-8, 0.0):
            ops.bias_act(x, negative_slope=slope, pixel_norm="after_act", eps=eps)
    assert len(checks) == 4
    for size in ((4, 4), (3, 4), (4, 3)):  # odd sizes
        ops.bias_act(torch.randn(2, 8, *size), negative_slope=0.2)
    assert len(checks) == 7


def test_a_verdict_is_of_the_precision_that_it_was_found_in(checks: list[str]) -> None:
    """Large tiles round more, of half types too."""
    x = torch.randn(2, 16, 32, 32).half().contiguous(memory_format=torch.channels_last)
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "medium", "high", "highest"):
            torch.set_float32_matmul_precision(precision)
            ops.scaled_conv2d(x, torch.randn(16, 16, 3, 3), weight_scale=0.1)
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(checks) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("channels", [16, 64, 512, 1024])
def test_no_right_kernel_is_refused(channels: int, dtype: torch.dtype) -> None:
    x = torch.randn(1, channels, 32, 32, dtype=dtype).contiguous(memory_format=torch.channels_last)
    w = torch.randn(channels, channels, 3, 3, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for resample, adjoint in itertools.product(("none", "up", "down"), (False, True)):
            args = (x, w, 0.1, resample, adjoint)
            assert registry.choose("conv", None, "cpu", args).way == "cpu"


def test_another_instruction_set_is_checked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    replace(monkeypatch, "fade_reals", off_by(1.0))
    with pytest.warns(RuntimeWarning):
        ops.fade_reals(torch.randn(2, 3, 8, 8), 0.25)
    assert selfcheck._failed
    cpu.set_isa(cpu.native.isa())
    assert not selfcheck._failed


def test_threads_that_ask_at_once_check_once(checks: list[str]) -> None:
    x = torch.randn(2, 3, 8, 8)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: ops.fade_reals(x, 0.25), range(16)))
    assert checks == ["fade_reals"]


def test_a_call_in_small_keeps_what_a_kernel_hangs_on() -> None:
    x = torch.empty(8, 300, 64, 33).contiguous(memory_format=torch.channels_last)
    w = torch.empty(40, 300, 3, 3)
    small = selfcheck.proxy("conv", (x, w, 0.1, "none", False))
    assert small[0].shape == (2, 300, 6, 9)  # few pixels of many channels; even stays even
    assert small[0].is_contiguous(memory_format=torch.channels_last)
    assert small[1].shape == w.shape
    low, high = torch.empty(3, 4, 64, 2), torch.empty(3, 4, 128, 4)
    small = selfcheck.proxy("fade_in_forward", (low, high, torch.tensor(0.5)))
    assert (small[0].shape, small[1].shape) == ((2, 4, 12, 2), (2, 4, 24, 4))
    small = selfcheck.proxy("minibatch_stddev_forward", (torch.empty(32, 8, 4, 4), 4, "strided", False, 1e-8))
    assert small[0].shape == (8, 8, 4, 4)
    assert max(t.numel() for t in small if isinstance(t, Tensor)) * 4 < 64 << 20


def test_composed_ops_are_checked_too(checks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    conv = nn.ScaledConv2d(16, 16).requires_grad_(False)
    right = ops.generator_stage(x, conv.scaled, conv.scaled)
    assert "generator_stage" in checks
    replace(monkeypatch, "generator_stage", off_by(1e-3))
    forget_choices()
    monkeypatch.setattr(selfcheck, "build", lambda way: "another")
    torch.testing.assert_close(ops.generator_stage(x, conv.scaled, conv.scaled), right, rtol=1e-5, atol=1e-5)
