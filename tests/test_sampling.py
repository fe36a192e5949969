"""Latents and images by seed alone, truncation, and closed paths on the hypersphere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from small_networks import LABELS, LATENT, make
from torch import Tensor

from pggan_fast.inference import Sampler, latents
from pggan_fast.models import Generator
from pggan_fast.sampling import (
    Loop,
    check_truncation,
    classes_of_seeds,
    images,
    labels_of_seeds,
    latents_of_seeds,
    slerp,
    truncated,
)

Draw = Callable[[Sequence[int]], Tensor]


def by_seed_alone(draw: Draw) -> None:
    """A seed's row is the same beside any others, and another seed's is another."""
    rows = draw([7, 0, 4294967295, 7])
    assert torch.equal(rows[0], rows[3])
    assert len(np.unique(rows.numpy(), axis=0)) == 3
    for place, seed in enumerate([7, 0, 4294967295]):
        assert torch.equal(draw([seed])[0], rows[place])
        assert torch.equal(draw([5, seed])[1], rows[place])


def test_latents_are_of_their_seed_alone() -> None:
    by_seed_alone(lambda seeds: latents_of_seeds(seeds, 8))
    by_seed_alone(lambda seeds: latents_of_seeds(seeds, 8, truncation=0.5))
    z = np.random.RandomState(3).randn(1, 512).astype(np.float32)
    assert np.array_equal(latents_of_seeds([3]).numpy(), z)
    assert latents_of_seeds([], 8).shape == (0, 8)
    with pytest.raises(ValueError, match=r"seed: expected an integer < 2\^32"):
        latents_of_seeds([1 << 32])


def test_latents_of_one_stream_are_found() -> None:
    """As `latents` draws many: the fault that users of seeds meet."""
    with pytest.raises(AssertionError):
        by_seed_alone(lambda seeds: latents(len(seeds), 8, seed=seeds[0]))


@pytest.mark.parametrize("psi", [0.1, 0.7, 2.0])
def test_truncation_is_the_truncated_normal(psi: float) -> None:
    """Against its distribution function, which the normal's draws inside of the bounds have too."""
    z = latents(200, 500, seed=1)
    got = truncated(z, psi).flatten()
    assert got.dtype == z.dtype
    assert float(got.abs().max()) <= psi
    inside = z.flatten()[z.flatten().abs() <= psi]
    for q in (0.02, 0.3, 0.5, 0.9):
        assert abs(float(got.quantile(q) - inside.quantile(q))) < 0.03 * psi
    order = z.flatten()[:1000].argsort()
    assert bool((got[:1000][order].diff() >= 0).all())  # each component moves steadily


def test_wide_truncation_changes_nothing_and_zero_is_refused() -> None:
    z = latents(4, 64)
    torch.testing.assert_close(truncated(z, 40.0), z, rtol=1e-6, atol=1e-7)
    for psi in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="truncation: expected a"):
            truncated(z, psi)


def test_networks_that_normalise_latents_refuse_truncation() -> None:
    """Of any length they give one image, so that shorter latents mean nothing; the others see how long z is."""
    z = latents(2, LATENT)
    for norm in ("joined", "z", "both"):
        G = make(Generator, 8, latent_norm=norm)
        assert isinstance(G, Generator)
        torch.testing.assert_close(G(z), G(3 * z), rtol=1e-4, atol=1e-4)
        check_truncation(G, None)
        with pytest.raises(ValueError, match=f"truncation: expected none, .*latent_norm='{norm}'.*got 0.7"):
            check_truncation(G, 0.7)
    G = make(Generator, 8, latent_norm="none")
    assert isinstance(G, Generator)
    assert not torch.allclose(G(z), G(3 * z), rtol=1e-2, atol=1e-2)
    check_truncation(G, 0.7)


def test_classes_are_of_their_seed_and_all_likely() -> None:
    by_seed_alone(lambda seeds: torch.tensor(classes_of_seeds(seeds, 1 << 20))[:, None])
    counts = np.bincount(classes_of_seeds(range(2000), 4), minlength=4)
    assert counts.min() > 440  # 3 standard deviations below 500
    of_z = latents_of_seeds(range(2000), 1)[:, 0]
    chosen = torch.tensor(classes_of_seeds(range(2000), 2)).bool()
    assert abs(float(of_z[chosen].mean() - of_z[~chosen].mean())) < 0.15  # independent of z


def test_labels_are_one_hot() -> None:
    plain, labelled = make(Generator, 8), make(Generator, 8, labelled=True)
    assert isinstance(plain, Generator)
    assert isinstance(labelled, Generator)
    assert labels_of_seeds(plain, [1, 2]) is None
    own = labels_of_seeds(labelled, range(9))
    assert own is not None
    assert own.argmax(1).tolist() == classes_of_seeds(range(9), LABELS)
    assert own.sum(1).tolist() == [1.0] * 9
    two = labels_of_seeds(labelled, [5, 6], 2)
    assert two is not None
    assert two.tolist() == [[0, 0, 1]] * 2
    for label in (-1, LABELS):
        with pytest.raises(ValueError, match=f"class: expected 0 to 2, got {label}"):
            labels_of_seeds(labelled, [], label)
    with pytest.raises(ValueError, match="class: expected none, as the network has no classes, got 0"):
        labels_of_seeds(plain, [], 0)


def on_an_arc(path: Callable[[Tensor, Tensor, Tensor | float], Tensor]) -> None:
    """Ends are exact, directions turn evenly, lengths change linearly."""
    a, b = latents(5, 64, seed=1), 3 * latents(5, 64, seed=2)
    assert torch.equal(path(a, b, 0.0), a)
    assert torch.equal(path(a, b, 1.0), b)
    whole = torch.cosine_similarity(a.double(), b.double()).acos()
    for t in (0.1, 0.5, 0.75):
        now = path(a, b, t).double()
        torch.testing.assert_close(torch.cosine_similarity(a.double(), now).acos(), t * whole, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(now.norm(dim=1), torch.lerp(a.double().norm(dim=1), b.double().norm(dim=1), t))


def test_slerp_is_an_arc() -> None:
    on_an_arc(slerp)
    a, b = latents(2, 64, seed=1), latents(2, 64, seed=2)
    each = slerp(a, b, torch.tensor([0.25, 0.75]))
    assert torch.equal(each, torch.stack([slerp(a[0], b[0], 0.25), slerp(a[1], b[1], 0.75)]))


def test_a_chord_is_found() -> None:
    with pytest.raises(AssertionError):
        on_an_arc(lambda a, b, t: torch.lerp(a, b, t))


def test_slerp_of_near_and_opposite_directions() -> None:
    a = latents(1, 64).double()
    assert torch.equal(slerp(a, a, 0.3).float(), a.float())
    near = a + 1e-10 * latents(1, 64, seed=9).double()
    torch.testing.assert_close(slerp(a, near, 0.5), (a + near) / 2, rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match="got opposite ones"):
        slerp(a, -2 * a, 0.5)
    with pytest.raises(ValueError, match="got zeros"):
        slerp(a, 0 * a, 0.5)


def test_a_loop_goes_through_its_keys_and_back() -> None:
    keys = latents(6, LATENT).view(2, 3, LATENT)
    labels = torch.eye(2)
    loop = Loop(keys, 4, labels)
    assert (loop.cells, loop.frames) == (2, 12)
    z, own = loop(range(24))
    frames = z.view(12, 2, LATENT)
    for key in range(3):
        assert torch.equal(frames[4 * key], keys[:, key])
        torch.testing.assert_close(frames[4 * key + 1], slerp(keys[:, key], keys[:, (key + 1) % 3], 0.25))
    assert own is not None
    assert torch.equal(own, labels.repeat(12, 1))
    assert torch.equal(torch.cat([loop(range(start, start + 8))[0] for start in (0, 8, 16)]), z)
    steps = torch.cosine_similarity(frames.double(), frames.roll(-1, 0).double(), dim=2).acos()
    assert bool((steps.view(3, 4, 2).std(1) < 1e-5).all())  # even from key to key, and on to the first
    for few in (keys[:, :1], keys[0]):
        with pytest.raises(ValueError, match=r"keys: expected \[cells, 2 or more, d\]"):
            Loop(few, 4)


@pytest.mark.parametrize("labelled", [False, True])
def test_a_seeds_image_is_its_own(labelled: bool) -> None:
    """Bit by bit where as many are computed at a time, else up to a rounding of the kernels."""
    G = make(Generator, 16, labelled=labelled)
    assert isinstance(G, Generator)
    sampler = Sampler(G)

    def draw(seeds: Sequence[int], batch: int) -> Tensor:
        def inputs(numbers: range) -> tuple[Tensor, Tensor | None]:
            some = seeds[numbers.start : numbers.stop]
            return latents_of_seeds(some, LATENT), labels_of_seeds(G, some)

        return torch.stack(list(images(sampler, len(seeds), inputs, batch)))

    alone = draw(range(6), 1)
    assert alone.dtype == torch.uint8
    assert alone.shape == (6, 3, 16, 16)
    assert len(alone.flatten(1).unique(dim=0)) == 6
    assert torch.equal(draw([5, 9, 2], 1)[[0, 2]], alone[[5, 2]])
    assert torch.equal(draw([5, 9], 2)[0], draw([1, 5], 2)[1])
    for batch in (2, 4, 6, 100):
        assert int((draw(range(6), batch).int() - alone.int()).abs().max()) <= 1
