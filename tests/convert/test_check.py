"""Which levels a converted network is compared at, with what, and what counts as agreement."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pggan_fast.convert import Layout, check
from pggan_fast.models import Discriminator, Generator

NARROW = {"fmap_base": 2, "fmap_decay": 0.0}


def test_large_levels_between_are_looked_at_fading_in_alone(monkeypatch):
    monkeypatch.setattr(check, "_outputs", lambda layout, net, r, alpha: (np.ones(1), np.ones(1)))
    found = check.compare("G", Layout({}, [], {}, forward=print), Generator(512, latent_dim=2, **NARROW))
    assert [(a.resolution, a.alpha) for a in found] == [
        (4, 1.0), *[(r, alpha) for r in (8, 16, 32, 64) for alpha in (1.0, 0.25)],
        (128, 0.25), (256, 0.25), (512, 1.0), (512, 0.25),
    ]  # fmt: skip


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_errors_are_parts_of_the_largest_number(factor, monkeypatch):
    theirs = factor * np.array([-4.0, 1.0])
    net, layout = Generator(4, latent_dim=2, **NARROW), Layout({}, [], {}, forward=print)
    for off, passed in ((0.9e-5, True), (1.1e-5, False), (np.nan, False)):
        monkeypatch.setattr(
            check, "_outputs", lambda *args, off=off: (theirs, theirs + factor * np.array([0, 4 * off]))
        )
        (agreement,) = check.compare("G", layout, net)
        assert agreement.error == pytest.approx(off, rel=1e-6, nan_ok=True)
        assert agreement.passed == passed


def test_without_a_forward_nothing_is_compared():
    with pytest.raises(ValueError, match="expected one with a forward, got none for G"):
        list(check.compare("G", Layout({}, [], {}), Generator(4, latent_dim=2, **NARROW)))


@pytest.mark.parametrize(("group", "batch"), [(0, 8), (4, 8), (16, 32), (1 << 30, 8)])
@torch.no_grad()
def test_small_images_come_in_several_groups(group, batch):
    seen = []
    layout = Layout({}, [], {}, forward=lambda image, alpha: seen.append((image.shape[2], len(image))) or np.ones(1))
    net = Discriminator(16, stddev_group=group, **NARROW)
    list(check.compare("D", layout, net))
    assert seen == [(4, batch), (8, batch), (8, batch), (16, 2), (16, 2)]
