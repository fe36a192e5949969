"""Drawings need matplotlib, an extra; what those of trainings and of benchmarks share."""

from __future__ import annotations

import importlib.util

MISSING = "plots need matplotlib: pip install 'pggan-fast[bench]'"
# Okabe and Ito's palette: told apart with every common colour blindness, and in grey by their order.
BLUE, GREY, ORANGE, GREEN = "#0072B2", "#999999", "#E69F00", "#009E73"
OTHERS = ("#CC79A7", "#56B4E9", "#D55E00", "#F0E442")


def available() -> bool:
    return importlib.util.find_spec("matplotlib") is not None
