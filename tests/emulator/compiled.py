"""How the host emulator is built: the very sources of pggan_fast._cuda, compiled by g++ against cusim.h.

-fsanitize=thread makes g++ call a function at every load and store, the others at arithmetic without a meaning; the
emulator defines those functions (hooks.cpp), so that no sanitizer's library is linked.
"""

from __future__ import annotations

import fcntl
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "csrc"))
import build as recipe  # noqa: E402

FOLDER = ROOT / "build" / "emulator"
WATCHED = ["-O1", "-g", "-fsanitize=thread,bounds,shift-exponent,integer-divide-by-zero,signed-integer-overflow"]
WATCHED += ["--param", "tsan-instrument-func-entry-exit=0", "-fno-tree-vectorize", "-fno-tree-slp-vectorize"]


def cuda_headers() -> str:
    """The folder of cuda_fp16.h, as nvcc tells it; BuildError where there is no CUDA toolkit."""
    told = subprocess.run([recipe.nvcc(), "--dryrun", "-x", "cu", "-c", "/dev/null"], capture_output=True, text=True)
    found = re.search(r'INCLUDES="-I(.*?)"', told.stderr)
    if found is None:
        raise recipe.BuildError(f"nvcc names no folder of headers: {told.stderr[-400:]}")
    return found[1]


def module() -> recipe.Module:
    common = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas", "-DPGGAN_EMULATOR"]
    common += [f"-I{HERE}", f"-I{cuda_headers()}"]
    compiler = recipe.cxx()
    kernels = [*sorted((ROOT / "csrc" / "cuda").glob("*.cu")), *sorted(HERE.glob("*.cu"))]
    objects = [
        recipe.Object(source, f"{source.stem}.cu.o", compiler, [*common, *WATCHED, "-x", "c++"]) for source in kernels
    ]
    binding = ROOT / "csrc" / "bind" / "cuda_module.cpp"
    for source in (*sorted(HERE.glob("*.cpp")), binding):
        flags = ["-O2", "-g", *common, *recipe.python_flags()]
        objects.append(recipe.Object(source, f"{source.stem}.o", compiler, flags))
    return recipe.Module(objects, compiler, ["-shared"])


def build() -> Path:
    """Compile what changed; the path of the module `_cuda` of the emulator. Processes build one after another."""
    output = FOLDER / "_cuda.so"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        recipe.build(module(), FOLDER, output)
    return output
