"""Runs a reader on changed files for a time, in a child that may crash, hang or be short of memory.

    cd tests && python -m fuzz.hunt READER [SECONDS [SEED]]

An input is a finding unless it is read, or refused by one of the reader's documented errors in one printable line that
names the file. Seconds, and what counts as a hang, are of CPU time: a busy machine finds the same.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fuzz.mutations import Sample, mutated

SECONDS = float(os.environ.get("PGGAN_TEST_FUZZ_SECONDS", "1"))
MEMORY = 2 << 30  # bytes of address space above what the child begins with
HANG = 10.0  # seconds for one input
PATIENCE = 300.0  # seconds that a child may take above twenty times its own
_MOST_FINDINGS = 5
_LONGEST = 4_000  # characters of a message, less those of the file's name


class Reader(NamedTuple):
    """One kind of file: `name` is what it is called in its folder, `beside` puts what it needs there."""

    name: str
    samples: Callable[[Path], list[Sample]]
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...]
    beside: Callable[[Path], object] = lambda folder: None


class Tally(NamedTuple):
    tried: int
    outcomes: dict[str, int]
    findings: list[str]


class _Hang(BaseException):
    pass


def hunt(reader: Reader, folder: Path, seconds: float = SECONDS, seed: int = 0) -> Tally:
    """`folder` keeps the inputs of findings."""
    (folder / "made").mkdir(parents=True)
    (folder / "in").mkdir()
    samples = reader.samples(folder / "made")
    reader.beside(folder / "in")
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        _child(reader, samples, folder, seconds, seed)
    status = _waited(pid, 20 * seconds + PATIENCE)
    tally = json.loads((folder / "tally.json").read_text()) if (folder / "tally.json").exists() else [0, {}, []]
    if status != 0:
        kept = folder / f"kept-{'hang' if status is None else 'crash'}"
        shutil.copytree(folder / "in", kept)
        said = (folder / "said").read_text(errors="replace")[-2_000:]
        how = "blocked without using the CPU" if status is None else f"ended with status {status}"
        tally[2].append(f"the process {how}: {kept}\n{said}")
    return Tally(*tally)


def _waited(pid: int, most: float) -> int | None:
    end = time.monotonic() + most
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _child(reader: Reader, samples: list[Sample], folder: Path, seconds: float, seed: int) -> None:
    """Never returns."""
    try:
        said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 1)
        os.dup2(said, 2)
        faulthandler.enable(said)
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGPROF, _stop)
        tally = _tried(reader, samples, folder, seconds, random.Random(seed))
        (folder / "tally.json").write_text(json.dumps(tally))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(70)


def _stop(*_: Any) -> None:
    raise _Hang


def _tried(reader: Reader, samples: list[Sample], folder: Path, seconds: float, rng: random.Random) -> Tally:
    path = folder / "in" / reader.name
    findings: dict[str, str] = {}
    outcomes: Counter[str] = Counter()
    tried = 0
    for sample in samples:  # as they are
        path.write_bytes(sample.whole())
        if (outcome := judged(reader, path))[0] != "read":
            findings[outcome[1] or outcome[0]] = f"a valid file: {outcome}"
    end = time.process_time() + seconds
    while (tried == 0 or time.process_time() < end) and len(findings) < _MOST_FINDINGS:
        path.write_bytes(mutated(rng, samples))
        outcome, complaint = judged(reader, path)
        outcomes[outcome] += 1
        tried += 1
        if complaint is not None and complaint not in findings:
            kept = folder / f"kept-{len(findings)}-{reader.name}"
            shutil.copyfile(path, kept)
            findings[complaint] = f"{complaint}: {kept}"
    return Tally(tried, dict(outcomes), list(findings.values()))


def judged(reader: Reader, path: Path) -> tuple[str, str | None]:
    """(what became of the file, what is wrong with that)."""
    signal.setitimer(signal.ITIMER_PROF, HANG)
    try:
        reader.read(path)
    except reader.errors as error:
        return type(error).__name__, _wrong(str(error), path)
    except _Hang:
        return "hang", f"hangs {_where(sys.exc_info()[2])}"
    except BaseException as error:
        return type(error).__name__, f"{type(error).__name__}: {str(error)[:200]} {_where(error.__traceback__)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "read", None


def _wrong(text: str, path: Path) -> str | None:
    """What a message of an error should not be."""
    about = text.replace(str(path), "").replace(str(path.parent), "")
    if about == text:
        return f"names no file: {text[:200]!r}"
    if not about.isprintable():
        return f"is not a printable line: {about[:200]!r}"
    if len(about) > _LONGEST:
        return f"is of {len(about)} characters: {about[:200]!r}"
    if "MemoryError" in about or "allocate" in about:
        return f"allocates too much: {about[:200]!r}"
    return None


def _where(trace: Any) -> str:
    """The innermost line of ours."""
    frames = traceback.extract_tb(trace)
    ours = [f for f in frames if "pggan_fast" in f.filename or "/benchmarks/" in f.filename] or frames[-1:]
    return f"in {Path(ours[-1].filename).name}:{ours[-1].lineno}"


def main() -> None:
    from fuzz.readers import READERS

    name, seconds, seed = [*sys.argv[1:], "", ""][:3]
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    tally = hunt(READERS[name], folder / "run", float(seconds or SECONDS), int(seed or 0))
    print(name, tally.tried, tally.outcomes)
    print(*tally.findings, sep="\n")
    if not tally.findings:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
