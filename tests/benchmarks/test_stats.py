import math

import pytest
from pggan_fast.benchmarks.stats import speedup, spread


def test_spread_is_linear_percentiles_whatever_the_order():
    assert spread([5.0, 1.0, 4.0, 2.0, 3.0]) == pytest.approx((3.0, 1.8, 4.2))
    assert spread([7.0]) == (7.0, 7.0, 7.0)
    with pytest.raises(ValueError, match="got none"):
        spread([])


def test_speedup_pairs_the_samples_of_a_round():
    """The machine slows down threefold half-way: the ratio within each round stays 2, so its spread is nothing."""
    ours = [1.0, 1.0, 3.0, 3.0]
    result = speedup([2 * t for t in ours], ours)
    assert result == pytest.approx((2.0, 2.0, 2.0))
    unpaired = speedup([6.0, 6.0, 2.0, 2.0], ours)  # the same times in another order: the pairing must show
    assert unpaired.median == pytest.approx(10 / 3)  # of 6, 6, 2 / 3 and 2 / 3
    assert unpaired.p80 / unpaired.p20 > 5
    with pytest.raises(ValueError, match="expected pairs"):
        speedup([1.0], ours)


def test_a_ratio_lies_in_its_own_spread():
    """The ratio of the medians is 10 here, and every round but one says 1."""
    assert speedup([1.0, 1.0, 10.0, 10.0, 10.0], [1.0, 1.0, 1.0, 10.0, 10.0]) == pytest.approx((1.0, 1.0, 2.8))


def test_faster_is_above_one():
    assert math.isclose(speedup([3.0], [1.5]).median, 2.0)
