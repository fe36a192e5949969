"""Metrics by name: `swd16k` is the sliced Wasserstein distance of 16,384 images."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Kind: (what it is, how many "k" are). The sliced Wasserstein distance counts in 1024, as the official code does.
KINDS = {
    "swd": ("sliced Wasserstein distance x 1000", 1024),
    "msssim": ("MS-SSIM of pairs", 1000),
    "fd": ("feature distance, random convolutions", 1000),
    "fid": ("Frechet Inception distance", 1000),
    "kid": ("kernel Inception distance", 1000),
    "is": ("Inception score", 1000),
}
EXPECTED = "a kind (swd, msssim, fd, fid, kid, is) and how many images: swd16k is 16 x 1024, fid10k 10,000, fd500 500"
_FORM = re.compile(r"([a-z]+?)([1-9][0-9]{0,8})(k?)(_full)?")
_WITH_FULL = ("fd", "fid", "kid")


@dataclass(frozen=True)
class Name:
    """A metric's name, taken apart."""

    text: str
    kind: str
    count: int  # of generated images, and of reals
    full: bool  # all reals, however many


def parse(text: str) -> Name:
    """`swd16k`, `msssim20k`, `fd10k`, `fid50k_full`, `kid10k`, `is50k`, or without the k. Raises ValueError."""
    match = _FORM.fullmatch(text)
    if match is None or match[1] not in KINDS or (match[4] and match[1] not in _WITH_FULL):
        raise ValueError(f"got {text!r}, expected {EXPECTED}; _full, after fd, fid and kid: all reals")
    count = int(match[2]) * (KINDS[match[1]][1] if match[3] else 1)
    if count < 2:
        raise ValueError(f"got {text!r}, expected at least 2 images")
    return Name(text, match[1], count, bool(match[4]))
