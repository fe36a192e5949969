"""float32's precision is read from torch's switches, old and new, in every mixture of them, and never set."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import Any

import pytest
import torch

# torch 2.10 keeps cuDNN's default where only the setting of everything is changed
WHOLE = "tf32 ieee" if torch.__version__.startswith("2.10.") else "ieee ieee"

EVERYTHING = [
    "torch.backends.fp32_precision",
    "torch.backends.cudnn.fp32_precision",
    "torch.backends.mkldnn.fp32_precision",
]
OPERATIONS = [
    "torch.backends.cudnn.conv.fp32_precision", "torch.backends.cuda.matmul.fp32_precision",
    "torch.backends.mkldnn.conv.fp32_precision", "torch.backends.mkldnn.matmul.fp32_precision",
]  # fmt: skip
OLD = [
    *(f"torch.backends.{old}.allow_tf32 = {value}" for old in ("cudnn", "cuda.matmul") for value in (True, False)),
    *(f"torch.set_float32_matmul_precision('{value}')" for value in ("highest", "high", "medium")),
]
NEW = [
    *(f"{new} = '{value}'" for new in EVERYTHING + OPERATIONS for value in ("ieee", "tf32")),
    *(f"torch.backends.mkldnn.{op}fp32_precision = 'bf16'" for op in ("", "conv.", "matmul.")),
]
MIXTURES = [
    "",
    *OLD,
    *NEW,
    *("\n".join(pair) for old, new in itertools.product(OLD, NEW) for pair in ((old, new), (new, old))),
]

# Runs each program in a child of one process that has torch: what they set is not to be undone.
PROGRAM = """
import json, os, sys, torch
from pggan_fast import ops, reference
from pggan_fast.backends import cpu, precision

torch.set_num_threads(1)
x, w, m = torch.randn(1, 16, 32, 32), torch.randn(16, 16, 3, 3), torch.randn(16, 16)
x = x.contiguous(memory_format=torch.channels_last)
KNOWN = {  # what torch itself multiplies by, by its old switches, where it answers
    "cudnn": lambda: torch.backends.cudnn.allow_tf32,
    "cublas": lambda: torch.backends.cuda.matmul.allow_tf32,
    "cpu": lambda: torch.get_float32_matmul_precision(),
}

def answer(f):
    try:
        return f()
    except RuntimeError as error:
        return "refused"

def error(backend):
    y = ops.scaled_conv2d(x, w, weight_scale=0.1, backend=backend)
    z = ops.scaled_linear(y[:, :, 0, 0], m, weight_scale=0.1, backend=backend)
    want = reference.scaled_conv2d(x.double(), w.double(), weight_scale=0.1)
    assert z.isfinite().all()
    return float((y - want).abs().max() / want.abs().max())

for number, program in enumerate(json.loads(sys.stdin.read())):
    if os.fork() == 0:
        exec(program)
        print(json.dumps({
            "number": number, "conv": precision.conv_fp32(), "matmul": precision.matmul_fp32(),
            "exact": precision.exact_matmul(), **{k: answer(f) for k, f in KNOWN.items()},
            "errors": {name: error(name) for name in (None, "aten", "cpu", "reference")},
        }), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"failed after: {program}")
"""


def run(programs: list[str]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], input=json.dumps(programs), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answers["number"] for answers in found] == list(range(len(programs)))
    return found


HIGH = "torch.set_float32_matmul_precision('high')"
SETTINGS = {
    # program: cuDNN's convolutions, cuBLAS's products, whether the CPU's convolutions have to be exact
    "": "tf32 ieee exact",
    "torch.backends.cudnn.allow_tf32 = False": "ieee ieee exact",
    "torch.backends.cudnn.conv.fp32_precision = 'ieee'": "ieee ieee exact",
    HIGH: "tf32 tf32 inexact",
    "torch.set_float32_matmul_precision('medium')": "tf32 tf32 inexact",
    f"{HIGH}; torch.set_float32_matmul_precision('highest')": "tf32 ieee exact",
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'": "tf32 tf32 exact",
    "torch.backends.fp32_precision = 'ieee'": f"{WHOLE} exact",
    "torch.backends.fp32_precision = 'tf32'": "tf32 tf32 inexact",
    "torch.backends.mkldnn.conv.fp32_precision = 'tf32'": "tf32 ieee inexact",
    "torch.backends.mkldnn.conv.fp32_precision = 'bf16'": "tf32 ieee inexact",
    "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'": "tf32 ieee inexact",
    # mixtures: the operation's own setting, whichever came last
    f"{HIGH}; torch.backends.mkldnn.conv.fp32_precision = 'ieee'": "tf32 tf32 exact",
    "torch.backends.cudnn.allow_tf32 = False; torch.backends.cudnn.conv.fp32_precision = 'tf32'": "tf32 ieee exact",
    "torch.backends.cudnn.conv.fp32_precision = 'tf32'; torch.backends.cudnn.allow_tf32 = False": "ieee ieee exact",
    "torch.backends.cuda.matmul.allow_tf32 = True": "tf32 tf32 exact",
    f"{HIGH}; torch.backends.cuda.matmul.fp32_precision = 'ieee'": "tf32 ieee inexact",
}


def test_torchs_switches_decide() -> None:
    for (program, expected), found in zip(SETTINGS.items(), run(list(SETTINGS)), strict=True):
        got = f"{found['conv']} {found['matmul']} {'exact' if found['exact'] else 'inexact'}"
        assert got == expected, program


@pytest.fixture(scope="module")
def mixtures() -> dict[str, dict[str, Any]]:
    return dict(zip(MIXTURES, run(MIXTURES), strict=True))


def test_an_old_and_a_new_switch_leave_ops_that_run(mixtures: dict[str, dict[str, Any]]) -> None:
    """Also where torch refuses to say what an old switch is. Nothing computes in less than the CPU is allowed."""
    refused = [p for p, found in mixtures.items() if "refused" in found.values()]
    assert len(refused) > 50
    for program, found in mixtures.items():
        ours = max(found["errors"][name] for name in ("null", "cpu"))
        assert ours < (1.5e-6 if found["exact"] else 1e-5), program


def test_where_torch_answers_the_answers_agree(mixtures: dict[str, dict[str, Any]]) -> None:
    for program, found in mixtures.items():
        if found["cudnn"] != "refused":
            assert (found["conv"] == "tf32") == found["cudnn"], program
        if found["cublas"] != "refused":
            assert (found["matmul"] == "tf32") == found["cublas"], program
        if program in OLD and "allow_tf32" not in program:
            assert found["exact"] == (found["cpu"] == "highest"), program


def test_large_tiles_run_where_they_may_and_nowhere_else(mixtures: dict[str, dict[str, Any]]) -> None:
    """Their roundings tell: F(4x4, 3x3) loses more than F(2x2, 3x3)."""
    errors = {exact: {f["errors"]["cpu"] for f in mixtures.values() if f["exact"] is exact} for exact in (True, False)}
    assert min(errors[False]) > max(errors[True])
