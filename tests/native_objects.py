"""What `make` has compiled of the native modules, for tests that would compile the same again."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from source_tree import ROOT

sys.path.insert(0, str(ROOT / "csrc"))
import build as recipe


def current(name: str, module: recipe.Module) -> Path | None:
    """The folder with the objects of `module`, _cpu or _cuda by `name`; None where they are not what a build would make
    now: where flags, the compiler's name or sources have changed. Another version under the same name is not seen, as
    the build does not see it: after an upgrade, `make clean`."""
    folder, output = recipe.OBJECTS / name, ROOT / "pggan_fast" / f"{name}{EXTENSION_SUFFIXES[0]}"
    plan = folder / "build.ninja"
    if not plan.exists() or plan.read_text() != recipe.ninja_file(module, output):
        return None
    command = [sys.executable, "-m", "ninja", "-C", str(folder), "-n"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return folder if "no work to do" in said else None
