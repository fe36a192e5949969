"""The operations of csrc/cuda/port.h one by one: compiled for devices, and words to try them on.

tests/emulator/probes.cu has a kernel of one warp for each; the emulator's answers are tests/emulator's to prove.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
EMULATOR = ROOT / "tests" / "emulator"
sys.path.insert(0, str(ROOT / "csrc"))  # before a package named build
import build as recipe  # noqa: E402

Words = Any  # a NumPy array of uint32


@functools.cache
def library(architectures: tuple[str, ...]) -> ctypes.CDLL:
    """Raises BuildError where there is no nvcc."""
    folder = ROOT / "build" / ("probes-" + "-".join(architectures).replace("+", "-"))
    sources = (EMULATOR / "probes.cu", Path(__file__).with_name("probes_main.cu"))
    objects = [recipe.cuda_object(source, list(architectures)) for source in sources]
    recipe.build(recipe.Module(objects, recipe.nvcc(), recipe.CUDA_LINK_FLAGS), folder, folder / "probes.so")
    found = ctypes.CDLL(str(folder / "probes.so"))
    found.name.restype = ctypes.c_char_p
    found.run.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p]
    return found


def names(found: ctypes.CDLL) -> set[str]:
    return {found.name(i).decode() for i in range(found.count())}


def halves(rng: np.random.Generator, words: int) -> Words:
    """Two small whole numbers in half precision a word: every product and sum of them is exact."""
    return rng.integers(-16, 17, 2 * words).astype(np.float16).view(np.uint32)


def bfloats(rng: np.random.Generator, words: int) -> Words:
    """The same in bfloat16, the upper halves of floats."""
    upper = rng.integers(-16, 17, 2 * words).astype(np.float32).view(np.uint32) >> 16
    return upper.astype(np.uint16).view(np.uint32)


def floats(rng: np.random.Generator, words: int) -> Words:
    return rng.integers(-16, 17, words).astype(np.float32).view(np.uint32)


def product(kind: Callable[[np.random.Generator, int], Words], rng: np.random.Generator) -> Words:
    """Registers of a, b and c: [32, 4], [32, 2], [32, 4]."""
    return np.concatenate([kind(rng, 128), kind(rng, 64), floats(rng, 128)])


def any_words(rng: np.random.Generator, words: int) -> Words:
    return rng.integers(0, 1 << 32, words, dtype=np.uint32)


def to_round(rng: np.random.Generator) -> Words:
    """Floats of every size, ties between two TF32 numbers among them, and what has no neighbour."""
    x = any_words(rng, 122)
    x = x & ~np.uint32(0x7F800000) | rng.integers(1, 254, 122).astype(np.uint32) << np.uint32(23)  # normal
    x[:32] = x[:32] & ~np.uint32(0x1FFF) | np.uint32(0x1000)
    return np.concatenate([x, np.array([0.0, -0.0, np.inf, -np.inf, 1.0, -1.0], np.float32).view(np.uint32)])


# For each probe its words, and how many it makes of them
INPUTS: dict[str, tuple[Callable[[np.random.Generator], Words], int]] = {
    "mma_f16": (lambda rng: product(halves, rng), 128),
    "mma_bf16": (lambda rng: product(bfloats, rng), 128),
    "mma_tf32": (lambda rng: product(floats, rng), 128),
    "ldmatrix": (lambda rng: any_words(rng, 128), 128),
    "ldmatrix_transposed": (lambda rng: any_words(rng, 128), 128),
    "shuffles": (lambda rng: any_words(rng, 32), 192),
    "copies": (lambda rng: any_words(rng, 128), 128),
    "tf32": (to_round, 128),
    "sums": (lambda rng: rng.integers(0, 1 << 16, 32, dtype=np.uint32), 3),
    "patterns": (lambda rng: rng.integers(0, 1 << 8, 128, dtype=np.uint32), 32),
}
