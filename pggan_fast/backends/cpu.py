"""Backend "cpu": the native kernels of csrc/cpu, one pass over memory each.

Arguments and results are those of the ops' schemas (pggan_fast/ops). Kernels run on torch's own thread pool; sums are
formed in fixed pieces, so that results do not depend on the number of threads.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pggan_fast import settings
from pggan_fast.backends import tables
from pggan_fast.backends.launch import launch, let_read
from pggan_fast.backends.native import DTYPES, NativeOps
from pggan_fast.backends.registry import Excluded, backend_status, forget

native: Any = None
_missing: str | None = None
try:
    from pggan_fast import _cpu as native  # type: ignore[attr-defined, no-redef, unused-ignore]
except ImportError as error:
    _missing = str(error)


def build_report() -> dict[str, Any]:
    """What the build recorded, per native module: {"_cpu": {"built": bool, "reason": str where not}, ...}.

    And "excluded", true where no compiler would have changed that.
    """
    path = Path(__file__).resolve().parent.parent / "_build.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return report


def missing(module: str, error: str | None, remedy: str) -> str:
    """Why a native module is not there: what the build recorded, else the error of its import; and the remedy, where
    there is one."""
    recorded = build_report().get(module, {})
    reason = f"the native module pggan_fast.{module} is missing ({recorded.get('reason') or error})"
    return Excluded(reason) if recorded.get("excluded") else f"{reason}; {remedy}"


def why_missing() -> str | None:
    """Why the native kernels cannot be used, with the remedy; None where they can."""
    if native is not None:
        return _bad_isa
    return missing("_cpu", _missing, "install a C++17 compiler and reinstall pggan_fast")


def use_torch_threads() -> str | None:
    """Let the kernels run on torch's thread pool; returns the reason where they have to run serially."""
    library = next((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"), None)
    try:
        function = ctypes.CDLL(str(library)).torch_parallel_for
    except (OSError, AttributeError) as error:
        native.set_parallel_for(0)
        return f"CPU kernels run on one thread: torch {torch.__version__} has no torch_parallel_for ({error})"
    native.set_parallel_for(ctypes.cast(function, ctypes.c_void_p).value)
    return None


def describe() -> dict[str, Any]:
    """For `pggan-fast info`: the instruction set in use, those that can run here, and why loops are serial if so."""
    if (reason := why_missing()) is not None:
        return {"missing": reason}
    return {"isa": native.isa(), "isas": native.isas(), "serial": serial_reason}


def isa() -> str | None:
    """The instruction set that the kernels use; None where there are no kernels."""
    return None if native is None else native.isa()


def set_isa(name: str) -> None:
    """Use the kernels compiled for one instruction set; ValueError names those that can run here."""
    from pggan_fast.backends import selfcheck

    native.set_isa(name)
    for forgotten in (tables.forget, selfcheck.forget, forget):
        forgotten()


backend_status("cpu", why_missing)
serial_reason: str | None = None
_bad_isa: str | None = None
if native is not None:
    let_read(native)
    serial_reason = use_torch_threads()
    if (wanted := settings.cpu_isa()) is not None:
        try:
            set_isa(wanted)
        except ValueError as error:
            _bad_isa = f"PGGAN_FAST_CPU_ISA: {error}"


def unsupported(x: Tensor, *others: Any) -> str | None:
    """Reason of most ops: their first tensor's dtype and device decide, the rest has been checked against it."""
    if not x.is_cpu:
        return f"it needs tensors on the CPU, got {x.device}"
    if x.dtype not in DTYPES:
        return f"it has no kernels for {x.dtype}"
    return None


def _launch(name: str, *args: Any) -> Any:
    return launch(getattr(native, name), *args)


ops = NativeOps(_launch, workspaces=False)
ops.register("cpu", unsupported)
