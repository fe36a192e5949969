"""Loads exported networks and runs them: `exported_program.py with|without FILE`, with or without pggan_fast.

FILE holds for each the program as bytes and the arguments of its calls; the outputs go to FILE.out.
"""

from __future__ import annotations

import io
import sys

import torch

if __name__ == "__main__":
    kind, file = sys.argv[1:]
    if kind == "with":
        import pggan_fast  # noqa: F401
    else:
        sys.modules["pggan_fast"] = None  # type: ignore[assignment]  # an import raises
    results = []
    for program, calls in torch.load(file, weights_only=True):
        module = torch.export.load(io.BytesIO(program)).module()
        results += [module(*args, **kwargs) for args, kwargs in calls]
    torch.save(results, f"{file}.out")
    if kind == "without":
        assert not [name for name in sys.modules if name.startswith("pggan_fast.")]
