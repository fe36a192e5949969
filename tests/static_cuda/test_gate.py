"""Each gate lets a sound kernel pass and catches the fault that it is there for, on every chip."""

from __future__ import annotations

import ctypes
import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from static.chips import CHIPS
from static_cuda import gate, programs, record
from static_cuda.record import Launch

FAULTY = Path(__file__).parent / "faulty"
PRODUCT = ("mma", "async_copies", "matrix_loads")
TABLE = [
    gate.Must(r"faulty\.(wide|scalar|unbounded)_kernel", gate.WIDE),
    gate.Must(r"faulty\.(spilling|indexing)_kernel"),
    gate.Must(r"faulty\.(slow_)?product_kernel", PRODUCT),
]
EXPECTED = {
    "wide": [],
    "product": [],
    "scalar": ["without 16-byte loads", "without 16-byte stores"],
    "slow_product": ["without a tensor-core instruction", "without an asynchronous copy", "without ldmatrix"],
    "unbounded": ["no __launch_bounds__"],
    "spilling": ["Registers are spilled", "bytes spilled"],
    "indexing": ["Local memory used", "of stack"],
}


def compiled(name: str, code: int) -> programs.Compiled:
    return programs.compile_cached(FAULTY / f"{name}.cu", code)


def program(kernel: str, code: int = 80) -> programs.Program:
    (found,) = (p for p in compiled("faulty", code).programs if p.kernel == f"faulty.{kernel}_kernel")
    return found


@pytest.mark.parametrize("code", gate.COMPILED)
@pytest.mark.parametrize("kernel", EXPECTED)
def test_each_fault_is_named(kernel: str, code: int) -> None:
    found = gate.violations(program(kernel, code), code, table=TABLE)
    if kernel in ("spilling", "indexing"):  # ptxas says it too, and of a spill also that there is local memory
        assert all(any(word in fault for fault in found) for word in EXPECTED[kernel]), found
        assert all("ptxas" in fault or "local memory" in fault for fault in found), found
    else:
        assert len(found) == len(EXPECTED[kernel]), found
        assert all(word in fault for word, fault in zip(EXPECTED[kernel], found, strict=True)), found


def test_every_seeded_kernel_has_a_test() -> None:
    assert {p.kernel for p in compiled("faulty", 80).programs} == {f"faulty.{k}_kernel" for k in EXPECTED}


def test_what_does_not_compile_is_a_violation() -> None:
    result = compiled("too_large", 80)
    assert result.programs == ()
    assert result.failed is not None
    assert "too much shared data" in result.failed


def test_a_kernel_that_the_table_does_not_know_is_a_violation() -> None:
    (fault,) = gate.violations(program("wide"), 80, table=TABLE[1:])
    assert "does not know faulty.wide_kernel" in fault


def test_the_first_row_that_matches_counts() -> None:
    assert gate.required("faulty.wide_kernel", TABLE) == gate.WIDE
    assert gate.required("faulty.wide_kernel", [gate.Must("faulty"), *TABLE]) == ()
    assert gate.required("not_faulty.wide_kernel", TABLE) is None


def launch(threads: int = 256, shared: int = 0, opted: int = gate.UNASKED) -> Launch:
    return Launch("faulty.wide_kernel", (1, 1, 1), (threads, 1, 1), shared, opted)


KIB = 1024


@pytest.mark.parametrize(
    ("chip", "how", "fault"),
    [
        (80, launch(), None),
        (80, launch(shared=48 * KIB), None),
        (80, launch(shared=49 * KIB), "launched with 50176 bytes of shared memory, asked for 49152"),
        (80, launch(shared=163 * KIB, opted=163 * KIB), None),
        (86, launch(shared=99 * KIB, opted=99 * KIB), None),
        (86, launch(shared=100 * KIB, opted=100 * KIB), "launched with 102400 bytes of shared memory, the chip gives"),
        (89, launch(shared=100 * KIB, opted=100 * KIB), "launched with 102400 bytes of shared memory, the chip gives"),
        (90, launch(shared=227 * KIB, opted=227 * KIB), None),
        (90, launch(shared=228 * KIB, opted=228 * KIB), "the chip gives a block 232448"),
        (80, launch(threads=512), "launched with 512 threads, compiled for 256"),
    ],
)
def test_launches_that_a_chip_refuses(chip: int, how: Launch, fault: str | None) -> None:
    found = gate.violations(program("wide"), chip, [how], TABLE)
    assert len(found) == (fault is not None), found
    assert fault is None or fault in found[0]


def test_too_many_registers() -> None:
    many = replace(program("wide"), registers=168, threads=512)
    assert gate.violations(many, 80, table=TABLE) == ["168 registers for 512 threads: a chip has 65536"]
    loose = replace(program("wide"), registers=128, threads=0)
    faults = gate.launch_faults(loose, launch(threads=1024), 80)
    assert faults == ["launched with blocks that do not fit on a multiprocessor"]


def test_static_and_dynamic_shared_memory_count_together() -> None:
    both = replace(program("wide"), shared=40 * KIB)
    assert gate.launch_faults(both, launch(shared=20 * KIB, opted=20 * KIB), 86) == []
    (fault,) = gate.launch_faults(both, launch(shared=60 * KIB, opted=60 * KIB), 86)
    assert "launched with 102400 bytes" in fault


def test_a_row_of_the_table() -> None:
    row = gate.row(program("product"), 86, [replace(launch(threads=32, shared=1024), kernel="")], TABLE)
    assert (row["chip"], row["code"], row["launches"], row["threads"]) == ("sm_86", "sm_80", 1, 32)
    assert (row["shared_bytes"], row["dynamic_bytes"], row["violations"]) == (512, 1024, [])
    assert row["blocks_per_sm"] == 16
    assert row["instructions"]["mma"] == 1


# What is read


@pytest.mark.parametrize(
    ("signature", "name"),
    [
        ("void pggan::cuda::(anonymous namespace)::f<__half, 2>(__half const*)", "f<__half, 2>"),
        ("pggan::cuda::_GLOBAL__N__4d822478_13_fade_reals_cu_28765399::g(float*, int)", "g"),
        (
            "void pggan::cuda::f<pggan::cuda::Rows<float, 1>, (pggan::Norm)1>(pggan::Shape)",
            "f<Rows<float, 1>, (Norm)1>",
        ),
        ("void f<pggan::cuda::Rows<float> >(int)", "f<Rows<float>>"),
    ],
)
def test_names_are_what_both_compilers_mean(signature: str, name: str) -> None:
    assert programs.plain(signature) == name


def test_the_second_run_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = compiled("faulty", 90)
    monkeypatch.setattr(programs, "compile_one", lambda *args: pytest.fail("compiled again"))
    assert compiled("faulty", 90) == first


def test_a_changed_source_or_flag_is_compiled_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "faulty.cu"
    source.write_text((FAULTY / "faulty.cu").read_text())
    keys = [programs.key(source, 80), programs.key(source, 90)]
    source.write_text(source.read_text() + "// more\n")
    keys.append(programs.key(source, 80))
    monkeypatch.setattr(programs.recipe, "NVCC_FLAGS", [*programs.recipe.NVCC_FLAGS, "-lineinfo"])
    keys.append(programs.key(source, 80))
    assert len(set(keys)) == len(keys)


OCCUPANCY = r"""
#include <cuda_occupancy.h>
extern "C" int blocks(int major, int minor, int threads_sm, int blocks_sm, int shared_sm, int shared_block,
                      int reserved, int threads, int registers, int shared) {
  cudaOccDeviceProp device;
  device.computeMajor = major, device.computeMinor = minor, device.maxThreadsPerBlock = 1024;
  device.maxThreadsPerMultiprocessor = threads_sm, device.regsPerBlock = device.regsPerMultiprocessor = 65536;
  device.warpSize = 32, device.sharedMemPerBlock = 48 << 10, device.sharedMemPerMultiprocessor = shared_sm;
  device.numSms = 100, device.sharedMemPerBlockOptin = shared_block, device.reservedSharedMemPerBlock = reserved;
  cudaOccFuncAttributes kernel = {};
  kernel.maxThreadsPerBlock = 1024, kernel.numRegs = registers, kernel.sharedSizeBytes = 0;
  kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN, kernel.maxDynamicSharedSizeBytes = shared_block;
  cudaOccDeviceState state;
  state.carveoutConfig = 100;
  cudaOccResult result;
  if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, threads, shared) != CUDA_OCC_SUCCESS)
    return -1;
  int most = 0;
  cudaOccMaxBlocksPerMultiprocessor(&most, &device);
  return most == blocks_sm ? result.activeBlocksPerMultiprocessor : -2;
}
"""


@pytest.mark.parametrize("cc", sorted(CHIPS.keys() - {75}))
def test_occupancy_is_what_the_toolkit_computes(cc: int, tmp_path: Path) -> None:
    """By its cuda_occupancy.h, with the chip's limits."""
    include = record.cuda_headers()
    (tmp_path / "occupancy.cpp").write_text(OCCUPANCY)
    library = tmp_path / "occupancy.so"
    command = [
        programs.recipe.cxx(),
        "-w",
        "-fPIC",
        "-shared",
        f"-I{include}",
        tmp_path / "occupancy.cpp",
        "-o",
        library,
    ]
    subprocess.run(command, check=True)
    toolkit, chip, rng = ctypes.CDLL(str(library)), CHIPS[cc], random.Random(cc)
    limits = (chip.threads, chip.blocks, chip.shared, chip.shared_block, chip.reserved)
    seen = set()
    for _ in range(300):
        threads, registers = rng.randrange(1, 1025), rng.randrange(16, 256)
        shared = rng.choice([0, rng.randrange(chip.shared_block + 1)])
        want = toolkit.blocks(cc // 10, cc % 10, *limits, threads, registers, shared)
        assert chip.blocks_of(threads, registers, shared) == want, (threads, registers, shared)
        seen.add(want)
    assert len(seen) > 3
