"""Compile CUDA sources for chips that are not here, and read what ptxas and the machine code say. Nothing runs."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import native_objects
from native_objects import recipe
from source_tree import ROOT
from static import sass

CSRC = ROOT / "csrc" / "cuda"
CACHE = ROOT / "build" / "cuda-static"  # by content: what did not change is not compiled again
# Bytes of shared memory a block that are the system's: from sm_90 on, machine code that uses any counts them
RESERVED = 1024
PTXAS = "-v,--warn-on-spills,--warn-on-local-memory-usage"


@dataclass(frozen=True)
class Program:
    """One kernel, with its template's arguments, as machine code of one architecture."""

    kernel: str  # file.kernel<arguments>
    code: int  # 80 is sm_80
    registers: int  # per thread
    shared: int  # bytes per block that the kernel declares
    stack: int  # bytes per thread
    spilled: int  # bytes per thread, stores and loads
    threads: int  # the most that its __launch_bounds__ allows a block; 0: it has none
    instructions: dict[str, int] = field(hash=False)
    warnings: tuple[str, ...] = ()  # of ptxas


@dataclass(frozen=True)
class Compiled:
    programs: tuple[Program, ...] = ()
    failed: str | None = None  # the compiler's last words where there is no program


def sources() -> list[Path]:
    return sorted(CSRC.glob("*.cu"))


def compile_all(
    files: Iterable[Path], codes: Iterable[int], processes: int = 2, *, built: bool = False
) -> dict[tuple[Path, int], Compiled]:
    """Every file for every architecture, so many at a time. `built`: what is in the module's objects is read there."""
    jobs = [(file, code) for file in files for code in codes]
    objects = built_objects() if built else None

    def one(job: tuple[Path, int]) -> Compiled:
        return (objects and read_built(objects, *job)) or compile_cached(*job)

    with ThreadPoolExecutor(processes) as pool:
        return dict(zip(jobs, pool.map(one, jobs), strict=True))


def compile_cached(source: Path, code: int) -> Compiled:
    file = CACHE / f"{source.stem}-sm{code}-{key(source, code)}.json"
    if not file.exists():
        found = compile_one(source, code)
        if found.failed is not None:
            return found
        CACHE.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{id(found)}.part")
        part.write_text(json.dumps([asdict(p) for p in found.programs]))
        part.replace(file)
    loaded = json.loads(file.read_text())
    return Compiled(tuple(Program(**{**p, "warnings": tuple(p["warnings"])}) for p in loaded))


def key(source: Path, code: int) -> str:
    """Of all that decides the result: the file, every header, the compiler, and how its output is read."""
    headers = [*sorted(CSRC.glob("*.h")), *sorted(CSRC.glob("*.cuh")), CSRC.parent / "kernels.h"]
    parts = [source, *headers, Path(__file__), Path(sass.__file__)]
    text = "\n".join([str(command(source, code, Path())), compiler_version(), *(p.read_text() for p in parts)])
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def command(source: Path, code: int, output: Path) -> list[str]:
    flags = [*recipe.NVCC_FLAGS, f"-arch=sm_{code}", "-cubin", f"-Xptxas={PTXAS}", f"-I{CSRC}"]
    return [recipe.nvcc(), *flags, "-o", str(output), str(source)]


@functools.cache
def compiler_version() -> str:
    told = subprocess.run([recipe.nvcc(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"V([\d.]+)", told)
    return found[1] if found else told


def compile_one(source: Path, code: int) -> Compiled:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "kernels.cubin"
        done = subprocess.run(command(source, code, output), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return Compiled(failed=recipe.last_words(done.stderr))
        listing = sass.run_tool("nvdisasm", cubin=output.read_bytes())
    return Compiled(tuple(read(source.stem, code, done.stderr, listing)))


def read(stem: str, code: int, log: str, listing: str) -> list[Program]:
    """The programs that ptxas's `log` tells of, with what the disassembly adds."""
    bodies, bounds = sass.functions(listing), launch_bounds(listing)
    entries = re.split(r"Compiling entry function '(\S+)' for", log)
    mangled = entries[1::2]
    warnings = [line.strip() for line in log.splitlines() if re.search(r"ptxas\b.*\bwarning\b", line)]
    programs = []
    for symbol, text in zip(mangled, entries[2::2], strict=True):
        # Of the kernel itself: functions that were not inlined have properties of their own
        properties = re.search(
            rf"Function properties for {re.escape(symbol)}\s+(\d+) bytes stack frame, (\d+) bytes spill stores, "
            r"(\d+) bytes spill loads",
            text,
        )
        used = re.search(r"Used (\d+) registers", text)
        shared = re.search(r"(\d+) bytes smem", text)
        if properties is None or used is None:
            raise RuntimeError(f"ptxas says nothing of {symbol}: {text[:400]}")
        programs.append(
            Program(
                kernel=symbol,
                code=code,
                registers=int(used[1]),
                shared=int(shared[1]) if shared else 0,
                stack=int(properties[1]),
                spilled=int(properties[2]) + int(properties[3]),
                threads=bounds.get(symbol, 0),
                instructions=sass.count(bodies[symbol]),
                warnings=tuple(w for w in warnings if symbol in w or not any(m in w for m in mangled)),
            )
        )
    return renamed(programs, stem)


@functools.cache
def built_objects() -> Path | None:
    """Where the objects of pggan_fast._cuda are, as the Makefile builds it, if they are of these sources."""
    with mock.patch.dict(os.environ, {"PGGAN_FAST_CUDA": "1"}):
        return native_objects.current("_cuda", recipe.cuda_module())


@functools.cache
def read_built(objects: Path, source: Path, code: int) -> Compiled | None:
    """The programs of an object file. None where it has none of that architecture, or one that uses local memory: how
    much of that is spilled only ptxas says."""
    extract = sass.tool("cuobjdump")
    if extract is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        command = [extract, "-xelf", f"sm_{code}", str(objects / f"{source.stem}.cu.o")]
        subprocess.run(command, cwd=folder, capture_output=True, check=False)
        cubins = [path.read_bytes() for path in Path(folder).glob("*.cubin")]
    if len(cubins) != 1:
        return None
    listing = sass.run_tool("nvdisasm", cubin=cubins[0])
    usage = sass.run_tool("cuobjdump", "-res-usage", cubin=cubins[0])
    bodies, bounds, programs = sass.functions(listing), launch_bounds(listing), []
    for symbol, *numbers in re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", usage):
        registers, stack, shared = map(int, numbers)
        shared = max(0, shared - RESERVED) if code >= 90 else shared
        counts = sass.count(bodies[symbol])
        programs.append(Program(symbol, code, registers, shared, stack, 0, bounds.get(symbol, 0), counts))
    if not programs or any(p.stack or p.instructions["local"] for p in programs):
        return None
    return Compiled(tuple(renamed(programs, source.stem)))


def renamed(programs: list[Program], stem: str) -> list[Program]:
    """By names as people know them, in their order."""
    names = demangled([p.kernel for p in programs])
    named = [replace(p, kernel=f"{stem}.{name}") for p, name in zip(programs, names, strict=True)]
    return sorted(named, key=lambda p: p.kernel)


def launch_bounds(listing: str) -> dict[str, int]:
    """Threads of a block at most, by mangled name, of the kernels that say so."""
    found = {}
    for section in re.split(r"^\s*\.section\s", listing, flags=re.MULTILINE):
        name = re.match(r"\.nv\.info\.(\S+?),", section)
        words = re.search("EIATTR_MAX_THREADS" + r".*?\.word\s+(0x[0-9a-f]+)" * 3, section, re.DOTALL)
        if name and words:
            found[name[1]] = int(words[1], 16) * int(words[2], 16) * int(words[3], 16)
    return found


def demangled(symbols: list[str]) -> list[str]:
    """Kernels' names with their template's arguments: no namespaces, no parameters."""
    if not symbols:
        return []
    told = subprocess.run(["c++filt", *symbols], capture_output=True, text=True, check=True).stdout
    return [plain(line) for line in told.splitlines()]


def plain(signature: str) -> str:
    """ "void pggan::cuda::(anonymous namespace)::f<pggan::cuda::G<2>, 1>(float*)" -> "f<G<2>, 1>"."""
    text = re.sub(r"\(anonymous namespace\)::|\b_GLOBAL__N_\w+::|\bpggan::(?:cuda::)?", "", signature)
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            text = text[:i]
            break
    text = text.strip().removeprefix("void ")
    return re.sub(r"> >", ">>", text)


def versions() -> dict[str, Any]:
    """Of what decides the result."""
    tool = sass.tool("nvdisasm")
    told = subprocess.run([str(tool), "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"V([\d.]+)", told)
    return {"nvcc": compiler_version(), "nvdisasm": release[1] if release else told.strip()}
