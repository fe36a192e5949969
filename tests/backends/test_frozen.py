"""frozen: weights are transformed once, results are the same bits, and a counted write is an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import pggan_fast
from pggan_fast.backends import cpu, tiled
from pggan_fast.backends.frozen import Prepared, is_frozen, prepared
from pggan_fast.models import Generator

pytestmark = pytest.mark.skipif(cpu.native is None, reason=f"no native kernels: {cpu.why_missing()}")


@pytest.fixture
def transforms(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The weights that were transformed for keeping."""
    weights: list[Tensor] = []

    def launch(function: Callable[..., Any], *args: Any) -> Any:
        if function.__name__ == "tiled_weight":
            weights.append(args[1])
        return real(function, *args)

    real = tiled.launch
    monkeypatch.setattr(tiled, "launch", launch)
    return weights


def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(32, latent_dim=16, fmap_base=2048, fmap_max=256)  # 256 to 64 channels: layers, and a stage


Z = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_same_bits_from_weights_transformed_once(transforms: list[Tensor]) -> None:
    G = generator()
    expected = G(Z)
    assert not transforms
    with pggan_fast.frozen(G):
        for _ in range(3):
            assert torch.equal(G(Z), expected)
        once = len(transforms)
        assert once == len({id(w) for w in transforms}) > 4
    G(Z)
    assert len(transforms) == once
    G.blocks["8x8"]["conv_up"].weight.mul_(1.5)
    with pggan_fast.frozen(G):
        assert not torch.equal(G(Z), expected)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_in_other_dtypes(dtype: torch.dtype, transforms: list[Tensor]) -> None:
    G = generator().to(dtype)
    expected = G(Z.to(dtype))
    with pggan_fast.frozen(G):
        assert torch.equal(G(Z.to(dtype)), G(Z.to(dtype)))
        assert torch.equal(G(Z.to(dtype)), expected)


@torch.no_grad()
def test_what_the_values_hang_on_is_in_the_key(transforms: list[Tensor]) -> None:
    """One weight with two scales, two resamplings, two dtypes, two precisions and two instruction sets."""
    layer = pggan_fast.nn.ScaledConv2d(16, 24)
    x = torch.randn(4, 16, 16, 16).contiguous(memory_format=torch.channels_last)
    changes: list[Callable[[], Any]] = [
        lambda: setattr(layer, "weight_scale", 0.3),
        lambda: setattr(layer, "resample", "up"),
        lambda: setattr(layer, "resample", "down"),
        lambda: setattr(layer, "resample", "none"),
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: cpu.set_isa("baseline"),
    ]
    isa, precision = cpu.native.isa(), torch.get_float32_matmul_precision()
    try:
        with pggan_fast.frozen(layer):
            for change in changes:
                change()
                frozen = layer(x)
                del transforms[:]
                assert torch.equal(layer(x), frozen)
                assert not transforms
                weight = layer.weight
                layer.weight = torch.nn.Parameter(weight.clone())  # not frozen
                assert torch.equal(layer(x), frozen)
                layer.weight = weight
    finally:
        cpu.set_isa(isa)
        torch.set_float32_matmul_precision(precision)


@torch.no_grad()
def test_a_write_that_counts_is_an_error() -> None:
    G = generator()
    with pggan_fast.frozen(G):
        G(Z)
        G.load_state_dict(G.state_dict())
        with pytest.raises(RuntimeError, match=r"weight: expected one that nobody writes .* shape \(.*\) that was"):
            G(Z)
    G(Z)


def test_gradients_flow_as_ever() -> None:
    G = generator()
    expected = torch.autograd.grad(G(Z).square().sum(), list(G.parameters()), allow_unused=True)
    with pggan_fast.frozen(G):
        with torch.no_grad():
            G(Z)
        got = torch.autograd.grad(G(Z).square().sum(), list(G.parameters()), allow_unused=True)
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_where_gradients_are_wanted_nothing_is_kept(transforms: list[Tensor]) -> None:
    G = generator()
    with pggan_fast.frozen(G):
        G(Z).sum().backward()
        assert not transforms
        with torch.no_grad():
            for p in G.parameters():
                p.mul_(0.5)  # a training step, of which the next one takes no notice
        G(Z).sum().backward()


@torch.no_grad()
def test_nested_blocks_and_other_threads(transforms: list[Tensor]) -> None:
    G = generator()
    with pggan_fast.frozen(G):
        G(Z)
        once = len(transforms)
        with pggan_fast.frozen(G):
            G(Z)
        G(Z)
        assert len(transforms) == once
        thread = threading.Thread(target=G, args=(Z,))
        thread.start()
        thread.join()
        assert len(transforms) == once


def in_threads(work: Callable[[int], object], threads: int = 4) -> list[object]:
    """Results of work(0), work(1), ..., all begun together."""
    together = threading.Barrier(threads)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda i: (together.wait(), work(i))[1], range(threads)))


def test_what_is_frozen_in_one_thread_is_not_in_another() -> None:
    G = generator()
    weight = G.blocks["8x8"]["conv_up"].weight  # type: ignore[index]
    both_are_in = threading.Barrier(2)

    def work(i: int) -> tuple[bool, bool]:
        with pggan_fast.frozen(G if i else generator()):
            both_are_in.wait()
            inside = is_frozen(weight)
            both_are_in.wait()
        return inside, is_frozen(weight)

    assert in_threads(work, 2) == [(False, False), (True, False)]


def test_threads_share_what_one_of_them_prepares() -> None:
    layer = pggan_fast.nn.ScaledConv2d(4, 4)
    shared, made = Prepared(layer), []

    def prepare() -> Tensor:
        time.sleep(0.05)  # so that the others come meanwhile
        made.append(torch.ones(1))
        return made[-1]

    def work(i: int) -> Tensor:
        with shared.in_use():
            return prepared(layer.weight, "key", prepare)

    results = in_threads(work)
    assert len(made) == 1
    assert all(result is made[0] for result in results)
    assert not is_frozen(layer.weight)


@torch.inference_mode()
def test_weights_without_versions() -> None:
    G = generator()
    with pggan_fast.frozen(G):
        assert torch.equal(G(Z), G(Z))


def test_what_is_no_module_is_named() -> None:
    with pytest.raises(TypeError, match=r"module: expected a torch\.nn\.Module, got Tensor"), pggan_fast.frozen(Z):  # type: ignore[arg-type]
        pass
