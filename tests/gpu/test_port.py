"""Each operation of csrc/cuda/port.h on the device, bit for bit what the emulator takes it to be."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "emulator")]
import probes

SEEDS = range(8)


@pytest.fixture
def device_probes(device: str) -> ctypes.CDLL:
    """Compiled for this device, or a skip."""
    major, minor = torch.cuda.get_device_capability()
    if (major, minor) < (8, 0):
        pytest.skip(f"{torch.cuda.get_device_name()} is older than compute capability 8.0")
    try:
        probes.recipe.nvcc()
    except probes.recipe.BuildError as error:
        pytest.skip(str(error))
    return probes.library((f"{major}.{minor}",))


def on_device(library: ctypes.CDLL, name: str, words: probes.Words, count: int) -> probes.Words:
    given = torch.from_numpy(words.view(np.int32).copy()).cuda()
    out = torch.full((count,), -1, dtype=torch.int32, device="cuda")
    torch.cuda.synchronize()
    assert library.run(name.encode(), given.data_ptr(), out.data_ptr()) == 0
    return out.cpu().numpy().view(np.uint32)


def emulated(name: str, words: probes.Words, count: int) -> probes.Words:
    import emulate

    if reason := emulate.why_missing():
        pytest.skip(f"the CUDA kernels cannot be emulated: {reason}")
    given = torch.from_numpy(words.view(np.int32).copy())
    out = torch.full((count,), -1, dtype=torch.int32)
    with emulate.emulated():
        emulate.launch(getattr(emulate.module().emulator.probes, name), given, out)
    return out.numpy().view(np.uint32)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", probes.INPUTS)
def test_the_device_does_what_the_emulator_does(device_probes: ctypes.CDLL, name: str, seed: int) -> None:
    make, count = probes.INPUTS[name]
    words = make(np.random.default_rng(seed))
    np.testing.assert_array_equal(on_device(device_probes, name, words, count), emulated(name, words, count))


def test_every_probe_is_tried(device_probes: ctypes.CDLL) -> None:
    assert probes.names(device_probes) == set(probes.INPUTS)


def test_a_difference_would_be_seen(device_probes: ctypes.CDLL) -> None:
    """The fault: a matrix that is loaded as it lies where its transpose is meant."""
    make, count = probes.INPUTS["ldmatrix"]
    words = make(np.random.default_rng(0))
    assert (on_device(device_probes, "ldmatrix", words, count) != emulated("ldmatrix_transposed", words, count)).any()


@pytest.mark.parametrize("name", ["mma_f16", "mma_bf16", "mma_tf32"])
def test_products_are_rounded_like_float32(device_probes: ctypes.CDLL, name: str) -> None:
    """Of numbers whose products and sums are not exact; the unit cuts off what it adds, float32 rounds it."""
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal(512).astype(np.float32)
    kinds = {
        "mma_f16": lambda x: x.astype(np.float16).view(np.uint32),
        "mma_bf16": lambda x: (x.view(np.uint32) >> 16).astype(np.uint16).view(np.uint32),
        "mma_tf32": lambda x: x[: len(x) // 2].view(np.uint32) & ~np.uint32(0x1FFF),
    }
    a, b = kinds[name](numbers[:256]), kinds[name](numbers[256:384])
    words = np.concatenate([a, b, numbers[384:].view(np.uint32)])
    got, want = (f(name, words, 128).view(np.float32) for f in (lambda *x: on_device(device_probes, *x), emulated))
    assert float(abs(got - want).max()) <= 16 * 2.0**-22 * float(abs(numbers).max() ** 2)


def test_the_lower_bits_of_tf32_do_not_count(device_probes: ctypes.CDLL) -> None:
    words = np.random.default_rng(0).standard_normal(320).astype(np.float32).view(np.uint32)
    cut = words.copy()
    cut[:192] &= ~np.uint32(0x1FFF)
    assert (words != cut).any()
    results = [on_device(device_probes, "mma_tf32", x, 128) for x in (words, cut)]
    np.testing.assert_array_equal(*results)
