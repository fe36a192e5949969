"""How the host emulator is built: the very sources of pggan_fast._cuda, compiled by g++ against cusim.h.

-fsanitize=thread makes the compiler call a function at every load and store; the emulator defines those functions, so
that libtsan is not linked.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "csrc"))
import build as recipe  # noqa: E402

FOLDER = ROOT / "build" / "emulator"
WATCHED = ["-O1", "-g", "-fsanitize=thread,bounds", "-fsanitize-undefined-trap-on-error"]
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
    objects = [
        recipe.Object(source, f"{source.stem}.cu.o", compiler, [*common, *WATCHED, "-x", "c++"])
        for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    ]
    binding = ROOT / "csrc" / "bind" / "cuda_module.cpp"
    for source in (*sorted(HERE.glob("*.cpp")), binding):
        flags = ["-O2", "-g", *common, *recipe.python_flags()]
        objects.append(recipe.Object(source, f"{source.stem}.o", compiler, flags))
    return recipe.Module(objects, compiler, ["-shared"])


def build() -> Path:
    """Compile what changed; the path of the module `_cuda` of the emulator."""
    output = FOLDER / "_cuda.so"
    recipe.build(module(), FOLDER, output)
    return output
