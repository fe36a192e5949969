"""The harness sees every kind of fault that it is there for."""

from __future__ import annotations

import ctypes
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz.hunt import HANG, Reader, hunt
from fuzz.mutations import Sample, mutated, text_of

VALID = b"length\x04data"


class Refused(ValueError):
    pass


def careful(path: Path) -> None:
    data = path.read_bytes()
    if data != VALID:
        raise Refused(f"{path}: not valid")


def with_fault(fault: Callable[[Path, bytes], object]) -> Callable[[Path], None]:
    """A reader that is wrong where the length is."""

    def read(path: Path) -> None:
        data = path.read_bytes()
        if data[:6] == VALID[:6] and data[6:7] not in (b"\x04", b""):
            fault(path, data)
        careful(path)

    return read


def spin(path: Path, data: bytes) -> None:
    while True:
        pass


def sleep(path: Path, data: bytes) -> None:
    time.sleep(3600)


def refuse(text: str) -> Callable[[Path, bytes], object]:
    def fault(path: Path, data: bytes) -> None:
        raise Refused(text.format(path))

    return fault


FAULTS: dict[str, tuple[Callable[[Path, bytes], object], str]] = {
    "another error": (lambda path, data: {}[data], "KeyError"),
    "memory": (lambda path, data: bytearray(1 << 40), "MemoryError"),
    "memory, told": (refuse("{}: Unable to allocate 1 TiB"), "allocates too much"),
    "recursion": (lambda path, data: (lambda f: f(f))(lambda f: f(f)), "RecursionError"),
    "crash": (lambda path, data: ctypes.string_at(1), "ended with status -11"),
    "no name": (refuse("not valid"), "names no file"),
    "two lines": (refuse("{}: not\nvalid"), "not a printable line"),
    "an escape": (refuse("{}: \x1b[2J"), "not a printable line"),
    "exit": (lambda path, data: exit(3), "SystemExit"),
}


def reader(read: Callable[[Path], object]) -> Reader:
    return Reader("x.bin", lambda folder: [Sample((VALID,))], read, (Refused,))


def test_a_careful_reader_has_no_findings(tmp_path: Path) -> None:
    tally = hunt(reader(careful), tmp_path / "x", 0.2)
    assert tally.findings == []
    assert tally.outcomes["Refused"] > 20


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_its_input_kept(name: str, tmp_path: Path) -> None:
    fault, told = FAULTS[name]
    tally = hunt(reader(with_fault(fault)), tmp_path / "x", 0.5)
    assert tally.findings, tally
    assert told in tally.findings[0]
    assert list((tmp_path / "x").glob("kept-*"))


def test_a_hang_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.hunt.HANG", HANG / 50)
    assert "hangs" in hunt(reader(with_fault(spin)), tmp_path / "x", 0.5).findings[0]


@pytest.mark.slow
def test_a_wait_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.hunt.PATIENCE", 1.0)
    (finding,) = hunt(reader(with_fault(sleep)), tmp_path / "x", 0.5).findings
    assert "blocked without using the CPU" in finding


def test_a_valid_file_that_is_refused_is_a_finding(tmp_path: Path) -> None:
    def refuses(path: Path) -> None:
        raise Refused(f"{path}: not today")

    assert "a valid file" in hunt(reader(refuses), tmp_path / "x", 0.2).findings[0]


def test_the_same_seed_makes_the_same_files() -> None:
    samples = [Sample((VALID,)), Sample(({"a": [1, {"b": 2}]},), text_of)]
    made = []
    for seed in (0, 0, 1):
        rng = random.Random(seed)
        made.append([mutated(rng, samples) for _ in range(50)])
    assert made[0] == made[1] != made[2]
    assert len(set(made[0])) > 1


def test_parts_are_changed_behind_their_checksums() -> None:
    """Most changes of a file as it is never reach what is behind a checksum."""
    packed = Sample((VALID,), lambda data: data + bytes([sum(data) % 256]))
    rng = random.Random(0)
    made = [mutated(rng, [packed]) for _ in range(200)]
    right = [data for data in made if data and sum(data[:-1]) % 256 == data[-1] and data != packed.whole()]
    assert len(right) > 40
