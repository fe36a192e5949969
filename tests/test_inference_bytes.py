"""Images as bytes, latents by seed, and streams of both."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sampling import LATENT, expected, generator
from test_stale_weights import WRITES
from torch import Tensor

from pggan_fast import inference
from pggan_fast.inference import Sampler, latents, to_uint8

# to_uint8


def official_bytes(x: Tensor) -> np.ndarray[Any, Any]:
    """The formula in numpy, element by element."""
    y = x.double() if x.dtype == torch.float64 else x.float()
    scaled = y.numpy() * y.numpy().dtype.type(127.5) + y.numpy().dtype.type(127.5)
    return np.rint(scaled).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_bytes_are_the_official_ones(dtype: torch.dtype, format: torch.memory_format) -> None:
    x = torch.cat([1.5 * torch.randn(2, 3, 16, 16), torch.full((1, 3, 16, 16), torch.inf)]).to(dtype)
    x = x.contiguous(memory_format=format)
    kept = x.clone()
    got = to_uint8(x)
    assert (got.dtype, got.shape, got.is_contiguous()) == (torch.uint8, (3, 16, 16, 3), True)
    assert np.array_equal(got.numpy(), official_bytes(x))
    assert torch.equal(x, kept)


def test_ties_go_to_even() -> None:
    levels = np.arange(255, dtype=np.float32)
    x = (levels + np.float32(0.5) - np.float32(127.5)) / np.float32(127.5)
    ties = x * np.float32(127.5) + np.float32(127.5) == levels + np.float32(0.5)
    assert ties.sum() > 100
    got = to_uint8(torch.from_numpy(x[ties]).view(1, 1, 1, -1)).flatten().numpy()
    assert np.array_equal(got, levels[ties] + levels[ties] % 2)


def test_bytes_of_what_is_no_image() -> None:
    with pytest.raises(ValueError, match="images: expected a 4-D tensor"):
        to_uint8(torch.zeros(3, 8, 8))
    with pytest.raises(TypeError, match="images: expected float32"):
        to_uint8(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


# Latents and streams


@pytest.mark.parametrize("latent_dim", [16, 7, 1])
def test_latents_are_the_rows_that_the_official_code_draws(latent_dim: int) -> None:
    want = np.random.RandomState(5).randn(9, latent_dim).astype(np.float32)
    assert np.array_equal(latents(9, latent_dim, seed=5).numpy(), want)
    parts = [latents(n, latent_dim, seed=5, start=start) for start, n in ((0, 2), (2, 3), (5, 4))]
    assert np.array_equal(torch.cat(parts).numpy(), want)
    assert not np.array_equal(latents(9, latent_dim, seed=6).numpy(), want)
    assert latents(0, latent_dim).shape == (0, latent_dim)


@pytest.mark.parametrize("batch", [1, 3, 5, 9])
def test_a_stream_is_of_these_latents_whatever_the_batch(batch: int) -> None:
    sampler = Sampler(generator())
    z = latents(5, LATENT, seed=3)
    batches = list(sampler.stream(5, batch, seed=3))
    assert [len(b) for b in batches] == [min(batch, 5 - i) for i in range(0, 5, batch)]
    for start, pixels in zip(range(0, 5, batch), batches, strict=True):
        assert pixels.device.type == "cpu"
        assert torch.equal(pixels, sampler.uint8(z[start : start + batch]))
    whole = torch.cat(batches).int() - sampler.uint8(z).int()
    assert torch.cat(batches).int().sub(127).abs().gt(120).float().mean() < 0.2  # there is something to compare
    assert whole.abs().max() <= 1  # the kernels of another batch size round otherwise
    assert whole.count_nonzero() < 0.01 * whole.numel()
    assert not torch.equal(torch.cat(list(sampler.stream(5, batch, seed=4))), torch.cat(batches))


def test_a_streams_labels_go_with_its_images() -> None:
    sampler = Sampler(generator(label_dim=5))
    labels = torch.eye(5)
    z = latents(5, LATENT)
    batches = list(sampler.stream(5, 2, labels=labels))
    for start, pixels in zip((0, 2, 4), batches, strict=True):
        assert torch.equal(pixels, sampler.uint8(z[start : start + 2], labels[start : start + 2]))


def test_streams_side_by_side_do_not_mix() -> None:
    sampler = Sampler(generator())
    mixed = list(zip(sampler.stream(6, 2, seed=1), sampler.stream(6, 2, seed=2), strict=True))
    for one, seed in zip(zip(*mixed, strict=True), (1, 2), strict=True):
        assert torch.equal(torch.cat(one), torch.cat(list(sampler.stream(6, 2, seed=seed))))


def test_a_refresh_shows_from_the_next_batch_on() -> None:
    G = generator()
    sampler = Sampler(G)
    z = latents(4, LATENT)
    stream = sampler.stream(4, 2)
    assert torch.equal(next(stream), to_uint8(expected(G, z[:2])))
    WRITES["SGD"](G)
    sampler.refresh()
    assert torch.equal(next(stream), to_uint8(expected(G, z[2:])))


@pytest.mark.parametrize("n", [0, 1, 4])
def test_a_copy_is_waited_for_when_the_next_has_begun(n: int) -> None:
    said: list[str] = []

    def copied(batch: Tensor) -> Callable[[], Tensor]:
        said.append(f"begin {int(batch)}")
        return lambda: (said.append(f"wait {int(batch)}"), batch)[1]

    batches = inference.one_behind(iter(torch.arange(n)), copied)
    for i, batch in enumerate(batches):
        assert batch == i
        said.append(f"use {i}")
    order = [line for i in range(n) for line in ([f"begin {i}"] + ([f"wait {i - 1}", f"use {i - 1}"] if i else []))]
    assert said == order + ([f"wait {n - 1}", f"use {n - 1}"] if n else [])


class Streams:
    """In place of torch.cuda, where nothing runs by itself: writes down what waits for what."""

    def __init__(self, said: list[str], name: str = "side") -> None:
        self.said, self.name = said, name

    def wait_stream(self, other: Streams) -> None:
        self.said.append(f"{self.name} waits for {other.name}")

    def record_event(self) -> Streams:
        self.said.append(f"{self.name} records")
        return self

    def synchronize(self) -> None:
        self.said.append("the host waits")

    @contextlib.contextmanager
    def current(self, stream: Streams) -> Iterator[None]:
        self.said.append(f"on {stream.name}")
        yield
        self.said.append("back")


def test_a_copy_waits_for_its_batch_and_the_host_for_the_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    real = torch.empty
    pinned: list[Tensor] = []

    def empty(*args: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        assert pin_memory
        pinned.append(real(*args, **options))
        return pinned[-1]

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Streams(said))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Streams(said, "current"))
    monkeypatch.setattr(torch.cuda, "stream", Streams(said).current)
    copies = inference.PinnedCopies(torch.device("cpu"))
    monkeypatch.setattr(torch, "empty", empty)
    batch = torch.arange(12, dtype=torch.uint8).view(1, 2, 2, 3)
    wait = copies(batch)
    assert said == ["side waits for current", "on side", "back", "side records"]
    got = wait()
    assert said[-1] == "the host waits"
    assert torch.equal(got, batch)
    pinned[0].zero_()  # torch reuses it
    assert torch.equal(got, batch)
