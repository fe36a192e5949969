"""The order of a training's images, and the loader against what it says it gives."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_files import file_of, folder_of, pixels
from torch import Tensor

from pggan_fast.data import Loader, open_dataset
from pggan_fast.data import loader as loader_module
from pggan_fast.data.dataset import ArrayDataset, Dataset
from pggan_fast.data.loader import _fits
from pggan_fast.data.sampler import Sampler

COUNT = 23


def small(labels: bool = True) -> ArrayDataset:
    images = np.stack([pixels(i).transpose(2, 0, 1) for i in range(COUNT)])
    return ArrayDataset("small", images, np.arange(COUNT) % 3 if labels else None)


WAYS: dict[str, dict[str, Any]] = {
    "cached": {"cache": "always"},
    "caller": {"cache": "never", "workers": 0},
    "one thread": {"cache": "never", "workers": 1},
    "threads": {"cache": "never", "workers": 3},
}


@given(
    st.integers(1, 40),
    st.integers(0, 2**64 - 1),
    st.integers(1, 4),
    st.lists(st.integers(1, 17), min_size=1, max_size=6),
)
def test_processes_share_one_order(count: int, seed: int, world: int, batches: list[int]) -> None:
    def order(rank: int, world: int, batches: list[int]) -> list[tuple[int, bool]]:
        sampler, got = Sampler(count, seed=seed, rank=rank, world_size=world), []
        for n in batches:
            got += list(zip(*(part.tolist() for part in sampler.at(0, n)), strict=True))
            sampler.advance(n)
        return got

    total = sum(batches) * world
    whole = order(0, 1, [total])
    assert order(0, 1, [1] * total) == whole
    for rank in range(world):
        assert order(rank, world, batches) == whole[rank::world]
    for first in range(0, total - count + 1, count):
        assert sorted(number for number, _ in whole[first : first + count]) == list(range(count))


def test_the_order_is_the_same_in_all_versions() -> None:
    """Recorded once: a change would break every saved state."""
    numbers, coins = Sampler(10, seed=7).at(0, 12)
    assert (numbers.tolist(), coins.tolist()) == RECORDED


RECORDED = (
    [5, 0, 1, 6, 2, 8, 4, 9, 3, 7, 4, 6],
    [True, False, False, False, True, True, True, True, False, False, True, False],
)


def test_coins_are_fair_and_seeds_differ() -> None:
    assert abs(Sampler(10_000, seed=1).at(0, 10_000)[1].mean() - 0.5) < 0.02
    assert Sampler(100, seed=1).at(0, 100)[0].tolist() != Sampler(100, seed=2).at(0, 100)[0].tolist()
    assert Sampler(100).at(0, 100)[0].tolist() != Sampler(100).at(100, 100)[0].tolist()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"count": 0}, "count"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"seed": -1}, "seed"),
        ({"seed": 1 << 64}, "seed"),
    ],
)
def test_samplers_that_are_refused(arguments: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=f"{said}: expected"):
        Sampler(arguments.pop("count", 5), **arguments)


def test_states_that_are_refused() -> None:
    for state, said in (
        ({}, "expected count, seed and position, got nothing"),
        ({"count": 4, "seed": 0, "position": 0}, "count: expected 5, the images of this set, got 4"),
        ({"count": 5, "seed": 0, "position": -1}, "position: expected"),
    ):
        with pytest.raises(ValueError, match=said):
            Sampler(5).load_state_dict(state)


def defined(data: Dataset, number: int, coin: bool, resolution: int, alpha: float) -> Tensor:
    """An image as the loader's documentation says it, in float64."""
    x = torch.from_numpy(np.stack([data.image(number)]))
    x = data.level(x, resolution).double() / 127.5 - 1
    x = x.flip(3) if coin else x
    low = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(x, 2), scale_factor=2)
    return (alpha * x + (1 - alpha) * low)[0]


@pytest.mark.parametrize("way", WAYS)
def test_what_is_given_is_what_is_said(way: str) -> None:
    data = small()
    loader, sampler = (
        Loader(data, batch=5, mirror=True, seed=3, rank=1, world_size=2, **WAYS[way]),
        Sampler(COUNT, seed=3, rank=1, world_size=2),
    )
    plan = [(5, 16, 1.0), (7, 8, 0.3), (7, 8, 1.0), (1, 4, 0.5), (30, 16, 0.25), (3, 16, 1.0)]
    for batch, resolution, alpha in plan:
        loader.set(batch=batch, resolution=resolution, alpha=alpha)
        images, labels = next(loader)
        numbers, coins = sampler.at(0, batch)
        sampler.advance(batch)
        assert (images.dtype, images.shape) == (torch.float32, (batch, 3, resolution, resolution))
        fading = alpha if resolution > 4 else 1.0
        for got, number, coin in zip(images, numbers, coins, strict=True):
            want = defined(data, int(number), bool(coin), resolution, fading)
            torch.testing.assert_close(got.double(), want, atol=1e-6, rtol=0)
        assert labels is not None
        assert torch.equal(labels, torch.nn.functional.one_hot(torch.from_numpy(numbers % 3), 3).float())
    loader.close()


def run(loader: Loader, steps: int) -> list[Tensor]:
    return [next(loader)[0] for _ in range(steps)]


@pytest.mark.parametrize("before", WAYS)
@pytest.mark.parametrize("after", WAYS)
def test_a_saved_state_goes_on_bit_by_bit(before: str, after: str) -> None:
    first = Loader(small(), batch=6, mirror=True, seed=1, **WAYS[before])
    run(first, 5)
    state = first.state_dict()
    assert all(type(value) is int for value in state.values())
    expected = run(first, 5)
    second = Loader(small(), batch=6, mirror=True, **WAYS[after])
    run(second, 2)
    second.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(run(second, 5), expected, strict=True))
    assert second.state_dict() == first.state_dict()


def test_another_world_size_goes_on_without_a_gap() -> None:
    data = small(labels=False)
    two = [Loader(data, batch=3, rank=rank, world_size=2) for rank in range(2)]
    for loader in two:
        run(loader, 2)
    one = Loader(data, batch=12)
    one.load_state_dict(two[1].state_dict())
    whole = Loader(data, batch=24)
    assert torch.equal(next(one)[0], next(whole)[0][12:])
    assert next(one)[1] is None


def test_alpha_may_be_a_tensor() -> None:
    a, b = Loader(small(), batch=4, alpha=0.5), Loader(small(), batch=4, alpha=torch.tensor(0.5))
    assert torch.equal(next(a)[0], next(b)[0])


@pytest.mark.parametrize("way", WAYS)
def test_corrupt_files_are_skipped_counted_and_warned_of_once(way: str, tmp_path: Path) -> None:
    folder_of(tmp_path, 9)
    data = open_dataset(tmp_path)
    for name in ("03.png", "04.png"):  # they were whole when the set was opened
        (tmp_path / name).write_bytes(file_of(pixels(0))[:200])
    data.labels, data.label_dim = np.arange(9), 9
    loader = Loader(data, batch=9, **WAYS[way])
    with pytest.warns(UserWarning, match="is skipped, and so are others like it: broken") as warned:
        images, labels = next(loader)
    assert len(warned) == 1
    assert sorted(loader.skipped) == [3, 4]
    numbers, _ = Sampler(9).at(0, 9)
    stand_in = {3: 5, 4: 5}
    taken = [stand_in.get(number, number) for number in numbers.tolist()]
    assert labels is not None
    assert labels.argmax(1).tolist() == taken
    for got, number in zip(images, taken, strict=True):
        want = torch.from_numpy(pixels(number).transpose(2, 0, 1).copy()).float() / 127.5 - 1
        assert torch.equal(got, want)


def test_a_loader_goes_on_in_a_forked_process(tmp_path: Path) -> None:
    data = open_dataset(folder_of(tmp_path, 9))
    mine, other = (Loader(data, batch=4, cache="never", workers=w) for w in (2, 0))
    run(mine, 2)
    run(other, 2)
    if (pid := os.fork()) == 0:
        same = False
        try:
            signal.alarm(60)  # threads that stayed behind would be waited for without end
            same = all(torch.equal(next(mine)[0], next(other)[0]) for _ in range(30))
        finally:
            os._exit(0 if same else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert torch.equal(next(mine)[0], next(other)[0])


def test_waiting_is_counted_and_no_image_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    class Slow(ArrayDataset):
        def image(self, number: int) -> Any:
            read.append(number)  # and takes a second of the clock below
            return super().image(number)

    monkeypatch.setattr(loader_module, "time", SimpleNamespace(perf_counter=lambda: float(len(read))))

    data = Slow("slow", small().images)
    loader = Loader(data, batch=COUNT, cache="never", workers=0)
    next(loader)
    next(loader)
    assert loader.waited_s == 2.0 * COUNT
    assert sorted(read) == sorted([*range(COUNT)] * 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batch": 0}, "batch: expected"),
        ({"resolution": 32}, r"resolution: expected one of \[4, 8, 16\], got 32"),
        ({"alpha": "x"}, "alpha: expected"),
        ({"cache": "some"}, "cache: expected"),
        ({"workers": -1}, "workers: expected"),
    ],
)
def test_arguments_that_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Loader(small(), **{"batch": 4, **arguments})


def test_labels_of_a_set_without_any() -> None:
    with pytest.raises(ValueError, match="numbers: expected those of a set with labels, got small"):
        Loader(small(labels=False), batch=4).labels_of(torch.tensor([0]))


def test_what_fits_is_kept() -> None:
    data = small()
    assert _fits(data, torch.device("cpu"))
    data.shape = (3, 1 << 22, 1 << 22)
    assert not _fits(data, torch.device("cpu"))
