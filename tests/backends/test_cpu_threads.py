"""The CPU backend's loops on torch's pool: the same bits for every number of threads, no thread more, in any process.

Only the native kernels are held to the same bits. Where torch's own convolutions sum over pixels their rounding depends
on the number of threads (the weight gradient's, and so a whole network's), so all else runs on one thread meanwhile.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_checks import FORMATS, random_tensor
from torch import Tensor

from pggan_fast import frozen, ops
from pggan_fast.backends import cpu, cpu_stage, tiled
from pggan_fast.models import Discriminator, Generator
from pggan_fast.training.losses import gradient_penalty

if (reason := cpu.why_missing() or cpu.serial_reason) is not None:
    pytest.skip(reason, allow_module_level=True)

KERNELS = {name for name in dir(cpu.native) if callable(getattr(cpu.native, name)) and name[0] != "_"}
KERNELS -= {"isa", "isas", "set_isa", "set_parallel_for", "read_tensors", "signature"}
PROGRAM = Path(__file__).with_name("threads_program.py")

Work = Callable[[], list[Tensor]]
Around = Callable[[str], AbstractContextManager[Any]]  # what a kernel of that name runs in

ParallelFor = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p
)
Body = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def two_orders(op: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The output, its gradients, and theirs."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    y = op(*leaves)
    first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
    return [y, *first, *torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), leaves)]


def op_works(memory_format: torch.memory_format) -> dict[str, Work]:
    """Every op at sizes beyond what runs on one thread, its weights included."""

    def image(*shape: int, seed: int = 0) -> Tensor:
        return random_tensor(*shape, memory_format=memory_format, seed=seed)

    def conv(resample: str, c: int, size: int, k: int = 3) -> list[Tensor]:
        x, w, b = image(2, 48, size, size), image(c, 48, k, k), random_tensor(c)
        options: dict[str, Any] = {"negative_slope": 0.2, "weight_scale": 0.05, "resample": resample}
        return two_orders(lambda x, w, b: ops.scaled_conv2d(x, w, b, **options, backend="cpu"), x, w, b)

    def norm(where: str) -> list[Tensor]:
        options: dict[str, Any] = {"negative_slope": 0.2, "pixel_norm": where}
        x, b = image(4, 24, 32, 33), random_tensor(24)
        return two_orders(lambda x, b: ops.bias_act(x, b, **options, backend="cpu"), x, b)

    low, high, rgb = image(2, 16, 32, 32), image(2, 16, 64, 64), image(4, 3, 64, 64)
    weights = image(3, 16, 1, 1), image(3, 16, 1, 1, seed=1)
    return {
        "bias_act": lambda: norm("after_act"),
        "bias_act before": lambda: norm("before_act"),
        "up": lambda: conv("up", 48, 16),
        "down": lambda: conv("down", 48, 32),
        "pool": lambda: conv("pool", 48, 32),
        "to_rgb": lambda: conv("none", 3, 64, k=1),
        "fade_in": lambda: two_orders(lambda a, b: ops.fade_in(a, b, 0.3, backend="cpu"), high, image(2, 16, 64, 64)),
        "fade_in up": lambda: two_orders(lambda a, b: ops.fade_in(a, b, 0.3, backend="cpu"), low, high),
        "fade_reals": lambda: two_orders(lambda x: ops.fade_reals(x, 0.3, backend="cpu"), rgb),
        "to_rgb_fade_in": lambda: two_orders(
            lambda a, b, u, v: ops.to_rgb_fade_in(
                a, b, u, None, v, None, 0.3, weight_scale_low=0.2, weight_scale_high=0.2, backend="cpu"
            ),
            *(low, high, *weights),
        ),
        "from_rgb_fade_in": lambda: two_orders(
            lambda x, y, w: ops.from_rgb_fade_in(
                x, y, w, None, 0.3, weight_scale=0.5, negative_slope=0.2, backend="cpu"
            ),
            *(image(2, 3, 64, 64), low, image(16, 3, 1, 1)),
        ),
        "minibatch_stddev": lambda: two_orders(
            lambda x: ops.minibatch_stddev(x, 4, backend="cpu"), image(8, 16, 32, 32)
        ),
    }


def tiled_convs() -> list[Tensor]:
    small, large = (random_tensor(2, c, s, s, memory_format=FORMATS[1]) for c, s in ((48, 34), (64, 68)))
    up, down = random_tensor(64, 48, 3, 3), random_tensor(48, 64, 3, 3)
    ways = [tiled.conv(small, up, 0.1, way, False) for way in ("none", "up")]
    ways += [tiled.conv(large, up, 0.1, "none", True), tiled.conv(large, down, 0.1, "down", False)]
    gradients = [tiled.weight_grad(small, large, 0.1, "up", 3, up.dtype)]
    gradients += [tiled.weight_grad(large, small, 0.1, "down", 3, up.dtype)]
    gradients += [tiled.weight_grad(large, large, 0.1, "none", 3, up.dtype)]
    return [*ways, *gradients]


def whole_backward() -> list[Tensor]:
    """The second of two equal calls, whose backward pass is one."""
    x, w, b = random_tensor(2, 48, 34, 34, memory_format=FORMATS[1]), random_tensor(64, 48, 3, 3), random_tensor(64)
    options: dict[str, Any] = {"weight_scale": 0.05, "negative_slope": 0.2, "backend": "cpu"}
    for _ in range(2):
        y = ops.scaled_conv2d(x, w.requires_grad_(), b.requires_grad_(), **options)
        found = torch.autograd.grad(y, [w, b], torch.ones_like(y))
    return list(found)


def generator() -> list[Tensor]:
    torch.manual_seed(0)
    G = Generator(32, latent_dim=16, fmap_base=1024, fmap_max=128)
    images = [G(torch.randn(4, 16)).detach(), G(torch.randn(4, 16), alpha=0.3).detach()]
    with torch.no_grad(), frozen(G):
        return [*images, G(torch.randn(4, 16), alpha=0.3)]


def penalty_step() -> list[Tensor]:
    torch.manual_seed(0)
    D = Discriminator(32, fmap_base=1024, fmap_max=128)
    reals, fakes, u = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32), torch.rand(4, 1, 1, 1)
    loss = gradient_penalty(D, reals, fakes, alpha=0.3, u=u).mean() + D(reals, alpha=0.3)[0].mean()
    parameters = torch.autograd.grad(loss, list(D.parameters()), allow_unused=True)
    return [loss.detach(), *(g for g in parameters if g is not None)]


WORKS: dict[str, Work] = {
    **{f"{name}, {str(f)[6:]}": work for f in FORMATS for name, work in op_works(f).items()},
    "tiled": tiled_convs,
    "whole backward": whole_backward,
    "generator": generator,
    "penalty step": penalty_step,
}


@contextlib.contextmanager
def kernels_in(around: Around) -> Iterator[None]:
    """Every native kernel runs in `around(its name)`, all else as before."""

    def launch(function: Callable[..., Any], *args: Any) -> Any:
        with around(function.__name__):
            return real(function, *args)

    real = cpu.launch
    with pytest.MonkeyPatch.context() as patch:
        for module in (cpu, cpu_stage, tiled):
            patch.setattr(module, "launch", launch)
        yield


def on(count: int) -> Around:
    """So many of torch's threads."""

    @contextlib.contextmanager
    def threads(kernel: str) -> Iterator[None]:
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(1)

    return threads


@contextlib.contextmanager
def backwards(first: int = 0) -> Iterator[list[int]]:
    """In place of torch's loop one that runs pieces one by one, from the last down to `first`; gives how many ran."""
    ran: list[int] = []

    def loop(begin: int, end: int, grain: int, body: int, context: int) -> int:
        run = Body(body)
        for i in reversed(range(begin + first, end)):
            run(i, i + 1, context)
            ran.append(i)
        return 0

    callback = ParallelFor(loop)
    cpu.native.set_parallel_for(ctypes.cast(callback, ctypes.c_void_p).value)
    try:
        yield ran
    finally:
        assert cpu.use_torch_threads() is None


def same(got: list[Tensor], expected: list[Tensor]) -> bool:
    return len(got) == len(expected) and all(map(torch.equal, got, expected))


@pytest.mark.parametrize("name", WORKS)
def test_the_same_bits_for_every_number_of_threads(name: str, poison: None) -> None:
    work = WORKS[name]
    expected = work()
    for count in (2, 3, 8):
        with kernels_in(on(count)):
            assert same(work(), expected), f"{count} threads"


def test_the_same_bits_in_another_order_and_every_kernel_is_among_them(poison: None) -> None:
    """Threads may happen to run in order; here they do not. Each kernel hands torch's loop several pieces at once."""
    parallel: set[str] = set()

    @contextlib.contextmanager
    def watched(kernel: str) -> Iterator[None]:
        with backwards() as ran:
            yield
        if len(ran) > 1:
            parallel.add(kernel)

    for name, work in WORKS.items():
        expected = work()
        with kernels_in(watched):
            assert same(work(), expected), name
    assert parallel == KERNELS


def test_a_piece_left_out_is_seen(poison: None) -> None:
    expected = WORKS["tiled"]()
    with kernels_in(lambda kernel: backwards(first=1)):
        assert not same(WORKS["tiled"](), expected)


def test_a_sum_that_depends_on_threads_is_seen() -> None:
    """torch's, of which each thread takes a part. One of many may come out equal by chance."""
    xs = random_tensor(16, 1 << 16)

    def work() -> list[Tensor]:
        sums: list[Tensor] = []
        cpu.launch(lambda: sums.extend(x.sum() for x in xs))
        return sums

    expected = work()
    assert same(work(), expected)
    with kernels_in(on(2)):
        assert not same(work(), expected)


@pytest.mark.parametrize(
    "scene",
    ["counts", "forked_after", "forked_before", "loader_fork", "loader_spawn", "spawned", "executor", "fails", "hangs"],
)
def test_in_a_process_of_its_own(scene: str) -> None:
    """The scenes of threads_program.py; the last two are there to be caught."""
    command = [sys.executable, str(PROGRAM), scene]
    path = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "passive"},  # no spinning beside other tests
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=2 if scene == "hangs" else 120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its children too
            output, _ = process.communicate()
            assert scene == "hangs", f"hangs: {output}"
            return
    assert scene != "hangs"
    assert (process.returncode == 0) == (scene != "fails"), output
