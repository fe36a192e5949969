"""What the emulator's operations compute, what it counts, and which memory it lets kernels use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import emulate
import numpy as np
import pytest
import torch
from emulate import Fault

from pggan_fast import ops
from pggan_fast.backends import layout

POLICIES = [emulate.FIFO, emulate.LIFO, emulate.RANDOM]
LANES = np.arange(32)
RNG = np.random.default_rng(0)


def probe(name: str, words: Any, count: int, policy: int = emulate.FIFO, **settings: Any) -> np.ndarray:
    """The words that a probe (probes.cu) makes of these, which kernels get as device memory."""
    given = torch.from_numpy(np.ascontiguousarray(words).reshape(-1).view(np.int32).copy())
    out = torch.full((count,), -1, dtype=torch.int32)
    with emulate.emulated(policy, **settings):
        emulate.launch(getattr(emulate.module().emulator.probes, name), given, out)
    return out.numpy().view(np.uint32)


# Matrices. The layouts of registers are written here as the PTX manual has them.


def halves(rows: np.ndarray, columns: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Registers that hold two 16-bit elements each: those at (row, column) and (row, column + 1), lower bits first."""
    bits = matrix.view(np.uint16).astype(np.uint32)
    return bits[rows, columns] | bits[rows, columns + 1] << 16


def registers_16(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a [16, 16] and b [16, 8] of 16 bits as mma.m16n8k16 wants them: [32, 4] and [32, 2]."""
    group, thread = LANES // 4, LANES % 4
    of_a = [halves(group + 8 * (i in (1, 3)), 2 * thread + 8 * (i >= 2), a) for i in range(4)]
    of_b = [halves(group, 2 * thread + 8 * i, np.ascontiguousarray(b.T)) for i in range(2)]
    return np.stack(of_a, 1), np.stack(of_b, 1)


def registers_tf32(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a [16, 8] and b [8, 8] of float32 as mma.m16n8k8 wants them: [32, 4] and [32, 2]."""
    group, thread = LANES // 4, LANES % 4
    of_a = [a[group + 8 * (i in (1, 3)), thread + 4 * (i >= 2)] for i in range(4)]
    of_b = [b[thread + 4 * i, group] for i in range(2)]
    return np.stack(of_a, 1).view(np.uint32), np.stack(of_b, 1).view(np.uint32)


def accumulators(c: np.ndarray) -> np.ndarray:
    """c [16, 8] as the registers [32, 4] of a product."""
    rows = (LANES // 4)[:, None] + np.array([0, 0, 8, 8])
    columns = (LANES % 4 * 2)[:, None] + np.array([0, 1, 0, 1])
    return c[rows, columns]


def rounded(x: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """x in a type of the matrix unit: as the unit takes it, and as numbers."""
    if kind == "f16":
        return x.astype(np.float16), x.astype(np.float16).astype(np.float64)
    if kind == "bf16":
        t = torch.from_numpy(x).to(torch.bfloat16)
        return t.view(torch.int16).numpy(), t.double().numpy()
    exact = (x.astype(np.float32).view(np.uint32) & ~np.uint32(0x1FFF)).view(np.float32)
    return exact, exact.astype(np.float64)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["f16", "bf16", "tf32"])
def test_mma_multiplies_matrices(kind: str, policy: int) -> None:
    k = 8 if kind == "tf32" else 16
    a, a_numbers = rounded(RNG.standard_normal((16, k)), kind)
    b, b_numbers = rounded(RNG.standard_normal((k, 8)), kind)
    c = RNG.standard_normal((16, 8)).astype(np.float32)
    of_a, of_b = (registers_tf32 if kind == "tf32" else registers_16)(a, b)
    words = np.concatenate([part.reshape(-1) for part in (of_a, of_b, accumulators(c).view(np.uint32))])
    got = probe(f"mma_{kind}", words, 128, policy).view(np.float32).reshape(32, 4)
    want = accumulators((a_numbers @ b_numbers + c).astype(np.float32))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_mma_ignores_the_lower_bits_of_tf32() -> None:
    x = RNG.standard_normal((16, 8)).astype(np.float32)
    exact, _ = rounded(x, "tf32")
    b = np.eye(8, dtype=np.float32)
    zeros = np.zeros(128, np.uint32)

    def product(a: np.ndarray) -> np.ndarray:
        of_a, of_b = registers_tf32(a, b)
        return probe("mma_tf32", np.concatenate([of_a.reshape(-1), of_b.reshape(-1), zeros]), 128)

    assert (x != exact).any()
    np.testing.assert_array_equal(product(x), product(exact))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(transposed: bool, policy: int) -> None:
    matrices = RNG.integers(0, 1 << 16, (4, 8, 8), dtype=np.uint16)
    got = probe("ldmatrix_transposed" if transposed else "ldmatrix", matrices, 128, policy).reshape(32, 4)
    for m in range(4):
        matrix = np.ascontiguousarray(matrices[m].T) if transposed else matrices[m]
        np.testing.assert_array_equal(got[:, m], halves(LANES // 4, LANES % 4 * 2, matrix))


# Other operations


@pytest.mark.parametrize("policy", POLICIES)
def test_shuffles_and_ballots(policy: int) -> None:
    x = RNG.integers(0, 1 << 32, 32, dtype=np.uint32)
    got = probe("shuffles", x, 192, policy).reshape(6, 32)
    up = np.where(LANES % 8 >= 3, LANES - 3, LANES)
    down = np.where(LANES % 16 < 11, LANES + 5, LANES)
    for row, source in enumerate((LANES * 7 % 32, up, down, LANES ^ 9)):
        np.testing.assert_array_equal(got[row], x[source])
    odd = int(((x % 2).astype(np.uint64) << LANES.astype(np.uint64)).sum())
    assert (got[4] == odd).all()
    assert (got[5][:16] == odd & 0xFFFF).all()
    assert (got[5][16:] == odd & 0xFFFF0000).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_asynchronous_copies_fill_with_zeros(policy: int) -> None:
    x = RNG.integers(0, 1 << 32, (32, 4), dtype=np.uint32)
    got = probe("copies", x, 128, policy).reshape(32, 4)
    np.testing.assert_array_equal(got, np.where(LANES[:, None] % 2 == 0, x, 0))


def test_round_tf32_takes_the_nearest_and_ties_away_from_zero() -> None:
    ulp = 2.0**-10
    ties = np.array([1 + ulp / 2, -1 - ulp / 2, 1 + 3 * ulp / 2, 1 + ulp / 2 - 2.0**-23], np.float32)
    special = np.array([np.inf, -np.inf, 0.0, -0.0, np.nan, -np.nan], np.float32)
    x = np.concatenate([ties, special, RNG.standard_normal(118).astype(np.float32)])
    bits = probe("tf32", x, 128)
    got = bits.view(np.float32)
    assert list(got[:4]) == [1 + ulp, -1 - ulp, 1 + 2 * ulp, 1.0]
    np.testing.assert_array_equal(got[4:8].view(np.uint32), special[:4].view(np.uint32))
    assert np.isnan(got[8:10]).all()
    assert (bits[10:] & 0x1FFF == 0).all()
    assert (abs(got[10:] - x[10:]) <= ulp / 2 * 2.0 ** np.floor(np.log2(abs(x[10:])))).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_atomics_sum(policy: int) -> None:
    x = RNG.integers(0, 1 << 18, 32, dtype=np.uint32)  # whose sums are exact in float32, in every order
    got = probe("sums", x, 3, policy)
    assert (got[0], got[1], got[2:].view(np.float32)[0]) == (x.sum(), x.sum(), np.float32(x.sum()))


# Traffic


def test_traffic_of_known_patterns() -> None:
    given, out = torch.arange(128, dtype=torch.int32), torch.empty(32, dtype=torch.int32)
    with emulate.emulated(stats=True) as emulator:
        emulate.launch(emulate.module().emulator.probes.patterns, given, out)
        places, counts = emulator.traffic(), emulator.counts()
    assert counts["read"] == 512
    assert counts["written"] == 128
    source = (Path(__file__).parent / "probes.cu").read_text().splitlines()

    def at(code: str) -> dict[str, Any]:
        line = next(i for i, text in enumerate(source, 1) if code in text)
        (place,) = (p for p in places if p["at"] == f"probes.cu:{line}")
        return {k: place[k] for k in ("space", "kind", "bytes", "requests", "sectors", "wavefronts", "ideal")}

    def device(kind: str, bytes: int, sectors: int, ideal: int) -> dict[str, Any]:
        return {"space": "global", "kind": kind, "bytes": bytes, "requests": 1, "sectors": sectors, "wavefronts": 0,
                "ideal": ideal}  # fmt: skip

    def shared(kind: str, wavefronts: int) -> dict[str, Any]:
        return {"space": "shared", "kind": kind, "bytes": 4096, "requests": 32, "sectors": 0, "wavefronts": wavefronts,
                "ideal": 32}  # fmt: skip

    assert at("sum = in[lane]") == device("read", 128, 4, 4)
    assert at("sum += in[4 * lane]") == device("read", 128, 16, 4)
    assert at("load128(in + 4 * lane).x") == device("read", 512, 16, 16)
    assert at("out[lane] = sum") == device("write", 128, 4, 4)
    assert at("padded[33 * row + lane] = sum") == shared("write", 32)
    assert at("sum += padded[33 * lane + column]") == shared("read", 32)
    assert at("sum += dense[32 * lane + column]") == shared("read", 1024)


def test_traffic_and_schedules_repeat() -> None:
    x = torch.randn(1, 16, 8, 8)

    def run() -> Any:
        with emulate.emulated(emulate.RANDOM, stats=True) as emulator:
            y = ops.fade_reals(x, 0.25, backend="cuda")
            return y.tolist(), emulator.traffic(), emulator.counts()

    assert run() == run()


def test_the_settings_of_the_device() -> None:
    image = torch.randn(2, 16, 64, 64)

    def threads(**settings: int) -> int:
        with emulate.emulated(**settings) as emulator:
            ops.fade_reals(image, 0.25, backend="cuda")
            return emulator.counts()["threads"]

    assert threads(multiprocessors=1) < threads(multiprocessors=2)
    assert threads(multiprocessors=3) == threads(), "three are usual"


def test_settings_come_back_where_one_emulation_lies_in_another() -> None:
    x = torch.randn(1, 4, 8, 8)
    with emulate.emulated(stats=True) as outer:
        with emulate.emulated(policy=emulate.LIFO):
            ops.fade_reals(x, 0.25, backend="cuda")
        assert outer.counts()["accesses"] == 0
        ops.fade_reals(x, 0.25, backend="cuda")
        assert outer.traffic()


# Which memory is initialised, and where it ends


def sum_of(a: torch.Tensor, b: torch.Tensor) -> None:
    """A kernel that reads `a` [128] and adds to `b` [128]."""
    emulate.launch(emulate.module().emulator.faults.uninitialised_global, a, b, torch.zeros(128), False)


def fresh() -> torch.Tensor:
    return torch.zeros(1).new_empty(128)


@pytest.mark.parametrize("make", [fresh, lambda: layout.empty((1, 1, 1, 128), torch.zeros(1), False)])
def test_an_output_is_uninitialised_for_its_first_kernel(make: Callable[[], torch.Tensor]) -> None:
    with emulate.emulated():
        with pytest.raises(Fault, match="UNINITIALISED"):
            sum_of(torch.ones(128), make())
        out = make()
        emulate.launch(emulate.module().emulator.faults.uninitialised_global, torch.ones(128), out, out, True)
        sum_of(torch.ones(128), out)


def test_what_others_have_written_is_initialised() -> None:
    with emulate.emulated():
        written = fresh()
        written.numpy()[:] = 1.0  # unknown to torch, as a kernel of the CPU's own is
        sum_of(torch.ones(128), written)
        sum_of(torch.ones(128), fresh().copy_(torch.arange(128.0)))
        sum_of(torch.ones(128), fresh().zero_())
        sum_of(torch.ones(128), torch.empty(128))  # not by the package's allocators


def test_a_dead_output_is_forgotten() -> None:
    with emulate.emulated():
        before = len(emulate._fresh)
        out = fresh()
        assert len(emulate._fresh) == before + 1
        del out
        assert len(emulate._fresh) == before


def test_a_slice_ends_where_its_elements_end() -> None:
    """Though its storage goes on."""
    run = emulate.module().emulator.faults
    with emulate.emulated():
        storage, out, zeros = torch.ones(256), torch.ones(128), torch.zeros(128)
        emulate.launch(run.read_past_the_end, storage[64:192], out, zeros, True)
        with pytest.raises(Fault, match=r"OUT-OF-BOUNDS read of 4 bytes"):
            emulate.launch(run.read_past_the_end, storage[64:192], out, zeros, False)
        with pytest.raises(Fault, match=r"OUT-OF-BOUNDS write of 4 bytes"):
            emulate.launch(run.write_before_the_start, torch.ones(128), storage[64:192], zeros, False)


def test_tensors_may_overlap() -> None:
    run = emulate.module().emulator.faults
    storage, zeros = torch.ones(192), torch.zeros(128)
    with emulate.emulated():
        emulate.launch(run.write_past_the_end, storage[:128], storage[64:], zeros, True)
        with pytest.raises(Fault, match=r"argument 0 float32\[128\] and argument 1 float32\[128\] \+768"):
            emulate.launch(run.write_past_the_end, storage[:128], storage[64:], zeros, False)


def test_the_helper_judges_an_op_as_the_grid_does() -> None:
    image = torch.randn(2, 3, 4, 6)
    emulate.check("fade_reals", {"image": image}, {"alpha": 0.25}, data=["image"], seed=0, policy=emulate.LIFO)
