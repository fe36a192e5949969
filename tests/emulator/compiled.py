"""How the host emulator is built: the very sources of pggan_fast._cuda, compiled by g++ against cusim.h. Twice:

WATCHED: -fsanitize=thread makes g++ call a function at every load and store, the others at arithmetic without meaning;
the emulator defines those functions (hooks.cpp), so that no sanitizer's library is linked.

ADDRESS: the kernels, the launchers and the emulator itself under the real AddressSanitizer and UBSan, for what shadow
memory does not see: local arrays, stacks, host code. Loads only where their libraries are preloaded (test_asan.py).
"""

from __future__ import annotations

import fcntl
import importlib.machinery
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "csrc"))
import build as recipe  # noqa: E402


class Variant(NamedTuple):
    folder: Path
    kernel_flags: list[str]
    host_flags: list[str]
    link_flags: list[str]
    seeded: list[Path]  # kernels that only its tests know


def _watched() -> Variant:
    kernels = ["-O1", "-g", "-fsanitize=thread,bounds,shift-exponent,integer-divide-by-zero,signed-integer-overflow"]
    kernels += ["--param", "tsan-instrument-func-entry-exit=0", "-fno-tree-vectorize", "-fno-tree-slp-vectorize"]
    seeded = [HERE / f"{name}.cu" for name in ("faults_memory", "faults_shared", "faults_threads", "probes")]
    return Variant(ROOT / "build" / "emulator", kernels, ["-O2", "-g"], [], seeded)


def _address() -> Variant:
    checked = ["-fsanitize=address,undefined"]
    # -O0 compiles in half the time of -O1, runs as fast, and leaves no access out
    flags = ["-O0", "-g", *checked, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    return Variant(ROOT / "build" / "emulator-asan", flags, flags, checked, [HERE / "faults_host.cu"])


WATCHED, ADDRESS = _watched(), _address()


def cuda_headers() -> str:
    """The folder of cuda_fp16.h, as nvcc tells it; BuildError where there is no CUDA toolkit."""
    told = subprocess.run([recipe.nvcc(), "--dryrun", "-x", "cu", "-c", "/dev/null"], capture_output=True, text=True)
    found = re.search(r'INCLUDES="-I(.*?)"', told.stderr)
    if found is None:
        raise recipe.BuildError(f"nvcc names no folder of headers: {told.stderr[-400:]}")
    return found[1]


def module(variant: Variant = WATCHED) -> recipe.Module:
    common = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas", "-DPGGAN_EMULATOR"]
    common += [f"-I{HERE}", f"-I{cuda_headers()}"]
    compiler = recipe.cxx()
    flags = [*common, *variant.kernel_flags, "-x", "c++"]
    kernels = [*sorted((ROOT / "csrc" / "cuda").glob("*.cu")), *variant.seeded]
    objects = [recipe.Object(source, f"{source.stem}.cu.o", compiler, flags) for source in kernels]
    binding = ROOT / "csrc" / "bind" / "cuda_module.cpp"
    flags = [*variant.host_flags, *common, *recipe.python_flags()]
    objects += [
        recipe.Object(source, f"{source.stem}.o", compiler, flags) for source in (*sorted(HERE.glob("*.cpp")), binding)
    ]
    return recipe.Module(objects, compiler, ["-shared", *variant.link_flags])


def build(variant: Variant = WATCHED) -> Path:
    """Compile what changed; the path of the module `_cuda` of the emulator. Processes build one after another."""
    folder = variant.folder
    output = folder / "_cuda.so"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        recipe.build(module(variant), folder, output)
    return output


def load(path: Path, name: str = "_cuda") -> Any:
    """The module at `path`. pybind11 makes one module of a name."""
    loader = importlib.machinery.ExtensionFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    found = importlib.util.module_from_spec(spec)
    loader.exec_module(found)
    return found
