"""What messages are made of."""

from __future__ import annotations

import pytest

from pggan_fast.errors import counted, file_size


@pytest.mark.parametrize(
    ("n", "what", "said"),
    [(0, "image", "0 images"), (1, "image", "1 image"), (2, "image", "2 images"), (1, "class", "1 class"),
     (22, "class", "22 classes")],
)  # fmt: skip
def test_counts(n: int, what: str, said: str) -> None:
    assert counted(n, what) == said


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (3072, "3.1 kB"),
        (120_400, "120 kB"),
        (74_512_345, "74.5 MB"),
        (2_500_000_000, "2.5 GB"),
        (5_000_000_000_000, "5000 GB"),
    ],
)
def test_sizes_of_files(n: int, said: str) -> None:
    assert file_size(n) == said
