"""What test_sanitizers.py runs in a process of its own, where libasan is preloaded.

usage: under_asan.py MODULE ISA,... tests PYTEST_ARGUMENT... | under_asan.py MODULE ISA,... past read|write|nothing
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import instrumented

sys.path.append(str(instrumented.ROOT / "tests"))

COUNT = 64


def load(path: str, isas: list[str]) -> ModuleType:
    """The module at `path`, which every import of pggan_fast._cpu gets from here on; of `isas`, the best is active."""
    name = "pggan_fast._cpu"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.isa() == isas[-1]
    module.isas = lambda: isas  # type: ignore[attr-defined]
    sys.modules[name] = module
    from pggan_fast.backends import cpu

    assert cpu.native is module
    return module


def recorded(function: Callable[..., Any], name: str, called: set[str]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        called.add(name)
        return function(*args)

    call.__name__ = name
    return call


def run_tests(module: ModuleType, arguments: list[str]) -> int:
    """pytest, which hides no report and leaves crashes to AddressSanitizer; 3 where a kernel was never called."""
    import kernel_checks
    import pytest

    kernel_checks.ALLOWED = 4
    called: set[str] = set()
    for name in instrumented.table():
        setattr(module, name, recorded(getattr(module, name), name, called))
    status = pytest.main(["-q", "-s", "-p", "no:cacheprovider", "-p", "no:faulthandler", *arguments])
    never = sorted({*instrumented.table()} - called)
    if never:
        print(f"no test calls {', '.join(never)}")
    return int(status) or 3 * bool(never)


def run_past_the_end(module: ModuleType, which: str) -> None:
    """A fade of tensors of which one is an element too short."""
    import torch

    low, high, out = (torch.zeros(COUNT + (which != short)) for short in ("read", "", "write"))
    alpha = torch.tensor(0.5)
    addresses = [t.data_ptr() for t in (low, high, alpha, out)]
    module.fade_in_forward(*addresses, 0, 1, 1, 1, COUNT + (which != "nothing"), False, False)


if __name__ == "__main__":
    del os.environ["LD_PRELOAD"]  # the tools that this process starts do without
    os.environ.pop("PGGAN_FAST_CPU_ISA", None)
    path, names, what, *rest = sys.argv[1:]
    native = load(path, names.split(","))
    if what == "tests":
        sys.exit(run_tests(native, rest))
    run_past_the_end(native, rest[0])
