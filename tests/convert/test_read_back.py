"""What is written for another program reads back as the same network, or is refused."""

from __future__ import annotations

import copy

import pytest
import torch

from pggan_fast.convert import ConversionError
from pggan_fast.convert.family import check_read_back
from pggan_fast.models import Generator


def small(dtype=torch.float32, **options):
    torch.manual_seed(0)
    widths = {} if "fmaps" in options else {"fmap_base": 64, "fmap_max": 16}
    g = Generator(8, latent_dim=10, **widths, **options).to(dtype)
    for p in g.parameters():
        p.data.normal_().abs_().add_(0.5)
    return g


def differing(g, key, number):
    """A copy with another number in a parameter."""
    again = copy.deepcopy(g)
    again.get_parameter(key).data.view(-1)[3] = number
    return again


@pytest.mark.parametrize("size", [1.5, 1.5e-3])  # of a tiny number as of a large one
@pytest.mark.parametrize(
    ("dtype", "same", "other"),
    [(torch.float32, 9e-6, 1.1e-5), (torch.float64, 9e-6, 1.1e-5), (torch.float16, 1.3e-3, 2.6e-3)],
)
def test_what_reads_back_as_another_number_is_refused(dtype, same, other, size):
    """Beyond two roundings of half types, and 1e-5 of wider ones."""
    key = "blocks.8x8.conv.weight"
    g = differing(small(dtype), key, size)
    again = differing(g, key, size * (1 + same))
    assert not torch.equal(again.get_parameter(key), g.get_parameter(key))
    check_read_back("theirs", "G", g, again, [])
    with pytest.raises(ConversionError, match=rf"G: {key} is not what theirs's keys would be read as"):
        check_read_back("theirs", "G", g, differing(g, key, size * (1 + other)), [])


def test_only_layers_that_a_family_has_not_may_read_back_as_anything():
    g = small()
    for key in ("to_rgb.4x4.weight", "blocks.4x4.conv.bias"):
        again, layer = differing(g, key, 7.0), key.rpartition(".")[0]
        check_read_back("theirs", "G", g, again, [layer])
        for absent in ([], ["to_rgb.8x8"], ["to_rgb", "blocks.4x4"]):
            with pytest.raises(ConversionError, match=key):
                check_read_back("theirs", "G", g, again, absent)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tanh_from": 4}, "without tanh"),
        ({"eps": 1e-6}, "keys would be read as"),
        ({"negative_slope": 0.1}, "keys would be read as"),
        ({"latent_norm": "none"}, "latent_norm joined"),
        ({"pixel_norm": "before_act"}, "keys would be read as"),
        ({"first_norm": False}, "first_norm True"),
    ],
)
def test_what_reads_back_with_another_option_is_refused(options, said):
    g, again = small(), small(**options)
    again.load_state_dict(g.state_dict())
    with pytest.raises(ConversionError, match=said):
        check_read_back("theirs", "G", g, again, [])


def test_widths_may_read_back_in_other_words():
    g, again = small(), small(fmaps=(16, 16, 16))
    again.load_state_dict(g.state_dict())
    names = ("fmap_base", "fmap_decay", "fmap_max", "fmaps")
    assert {name for name in names if g.arguments.get(name) != again.arguments.get(name)}
    check_read_back("theirs", "G", g, again, [])
