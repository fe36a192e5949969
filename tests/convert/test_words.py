"""Options in words: each has its own, and those of numbers name the number."""

from __future__ import annotations

import pytest

from pggan_fast.convert.words import WHOLE_BATCH, said, short

CHOICES = {
    "first_norm": (True, False),
    "unit_bias": (True, False),
    "latent_norm": ("joined", "z", "both", "none"),
    "pixel_norm": ("after_act", "before_act", "none"),
    "downsample": ("down", "pool"),
    "widen_first": (True, False),
    "stddev_unbiased": (True, False),
}


@pytest.mark.parametrize("key", CHOICES)
def test_every_choice_has_words_of_its_own(key):
    texts = [said(key, value).removesuffix(f" ({key} {value})") for value in CHOICES[key]]
    assert len(set(texts)) == len(texts)
    assert not [text for text in texts if key in text]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("tanh_from", None, "images without tanh (tanh_from None)"),
        ("tanh_from", 8, "tanh on images from 8x8 on (tanh_from 8)"),
        ("stddev_group", 0, "no minibatch stddev (stddev_group 0)"),
        ("stddev_group", 4, "a minibatch stddev of groups of 4 (stddev_group 4)"),
        ("stddev_group", WHOLE_BATCH, f"a minibatch stddev over the whole batch (stddev_group {WHOLE_BATCH})"),
        ("eps", 1e-8, "eps 1e-08"),
        ("fade_from", 16, "fade_from 16"),
    ],
)
def test_an_option_names_its_value(key, value, text):
    assert said(key, value) == text


def test_short_words():
    assert short("stddev_group", WHOLE_BATCH) == "stddev_group whole batch"
    assert short("stddev_group", 4) == "stddev_group 4"
    assert short("fmap_max", WHOLE_BATCH) == f"fmap_max {WHOLE_BATCH}"
