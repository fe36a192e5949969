"""Machine code: disassembled, and its instructions counted by kind."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

# Regular expressions of SASS opcodes.
OPCODES = {
    "mma": r"(?:[HIQ]MMA|HGMMA|QGMMA|UTC\w*MMA)\b",  # tensor cores: mma.sync, wgmma, tcgen05
    "warpgroup_mma": r"(?:HGMMA|QGMMA|UTC\w*MMA)\b",  # those of sm_90 and sm_100
    "ffma": r"F(?:FMA|FMA2)\b",
    "async_copies": r"(?:LDGSTS|UBLKCP|UTMALDG)\b",
    "matrix_loads": r"LDSM\b",
    "loads": r"LDG\b",
    "wide_loads": r"(?:LDG\b[.\w]*|LDGSTS\b[.\w]*)\.(?:128|256)\b",
    "stores": r"STG\b",
    "wide_stores": r"STG\b[.\w]*\.(?:128|256)\b",
    "local": r"(?:STL|LDL)\b",
}


def _triton_tools() -> Path:
    spec = find_spec("triton")
    return Path(spec.origin or "").parent / "backends" / "nvidia" / "bin" if spec else Path("/nowhere")


TRITON_TOOLS = _triton_tools()


TOOLKIT = "/usr/local/cuda/bin"


def tool(name: str) -> str | None:
    """NVIDIA's nvdisasm or cuobjdump: of Triton's package, else of the CUDA toolkit; None where neither has it."""
    return shutil.which(name, path=str(TRITON_TOOLS)) or shutil.which(name) or shutil.which(name, path=TOOLKIT)


def run_tool(name: str, *options: str, cubin: bytes) -> str:
    program = tool(name)
    if program is None:
        raise FileNotFoundError(f"{name} is neither in Triton's package nor in a CUDA toolkit")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([program, *options, file.name], capture_output=True, text=True, check=True).stdout


def disassemble(cubin: bytes) -> str:
    return run_tool("nvdisasm", "-c", cubin=cubin)


def count(code: str) -> dict[str, int]:
    """How many instructions of each kind there are."""
    return {name: len(re.findall(rf"\s{pattern}", code)) for name, pattern in OPCODES.items()}


def functions(listing: str) -> dict[str, str]:
    """A listing's machine code, by mangled name."""
    parts = re.split(r"^\s*\.section\s+\.text\.(\S+?),.*$", listing, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
