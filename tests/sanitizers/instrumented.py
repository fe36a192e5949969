"""How the CPU kernels are built for sanitizers: the recipe's own objects, less optimisation, in two variants.

ADDRESS: pggan_fast._cpu under AddressSanitizer and UBSan, for Python with their libraries preloaded (under_asan.py), of
the baseline and the best instruction set that runs here; and the driver. THREAD: the driver under ThreadSanitizer.

g++ instruments no access of a masked, gathering or streaming intrinsic, in either.
"""

from __future__ import annotations

import fcntl
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "csrc"))
import build as recipe  # noqa: E402


class Variant(NamedTuple):
    folder: Path
    flags: list[str]
    libraries: list[str]  # what the compiler has to have


def _variant(name: str, checked: str, *libraries: str) -> Variant:
    # Not vectorised: reports then tell the element's size, and it compiles faster
    flags = ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-tree-loop-vectorize", f"-fsanitize={checked}"]
    return Variant(ROOT / "build" / "sanitizers" / name, [*flags, "-fno-sanitize-recover=undefined"], list(libraries))


ADDRESS = _variant("address", "address,undefined", "libasan.so", "libubsan.so")
THREAD = _variant("thread", "thread", "libtsan.so")


def library(name: str) -> str | None:
    """The path of one of the compiler's libraries, or None where it has no such."""
    command = [recipe.cxx(), f"-print-file-name={name}"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return path if Path(path).is_absolute() else None


def why_missing(variant: Variant) -> str | None:
    missing = [name for name in variant.libraries if library(name) is None]
    return f"{recipe.cxx()} has no {' and no '.join(missing)}" if missing else None


def table() -> list[str]:
    """The kernels of csrc/kernels.h, in the order of their slots."""
    text = (ROOT / "csrc" / "kernels.h").read_text()
    names: list[str] = re.findall(r"^  int \(\*(\w+)\)\(", text.partition("struct Kernels {")[2], re.MULTILINE)
    return names


def _kernels(variant: Variant, isas: list[str]) -> list[recipe.Object]:
    objects = [o for o in recipe.cpu_module().objects if o.name.partition("/")[0] in isas]
    return [o._replace(flags=[*o.flags, *variant.flags]) for o in objects]


def build_module(isas: list[str]) -> Path:
    """`_cpu` under ADDRESS. Where it asks for the tables of other instruction sets, it gets that of the first."""
    variant = ADDRESS
    binding = next(o for o in recipe.cpu_module().objects if o.source.parent.name == "bind")
    others = [f"-Wl,--defsym={_symbol(isa)}={_symbol(isas[0])}" for isa in recipe.ISA_FLAGS if isa not in isas]
    objects = [*_kernels(variant, isas), binding._replace(flags=[*binding.flags, "-O0"])]
    module = recipe.Module(objects, recipe.cxx(), ["-shared", *variant.flags, *others])
    with _locked(variant.folder):
        output = variant.folder / "_cpu.so"
        recipe.build(module, variant.folder, output)
    return output


def _symbol(isa: str) -> str:
    """pggan::<isa>::kernels, as the linker knows it."""
    return f"_ZN5pggan{len(isa)}{isa}7kernelsE"


def build_driver(variant: Variant, isa: str) -> Path:
    """The driver with the kernels of one instruction set, and the seeded faults beside them."""
    kernels = _kernels(variant, [isa])
    flags = [flag for flag in kernels[0].flags if flag not in recipe.KERNEL_FLAGS]
    own = [recipe.Object(path, f"{path.stem}.o", recipe.cxx(), flags) for path in sorted(HERE.glob("*.cpp"))]
    module = recipe.Module([*kernels, *own], recipe.cxx(), ["-pthread", *variant.flags])
    with _locked(variant.folder):
        output = variant.folder / "driver"
        recipe.build(module, variant.folder, output)
    return output


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Processes build one after another."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
