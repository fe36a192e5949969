"""The kernels in ttsem, which executes Triton's IR on the CPU: accesses out of bounds and races between programs.

It needs a process of its own, in which it takes the place of the compiler and of the device; `suite.py` and `faults.py`
run there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
INSTALL = "python -m pip install --no-deps --ignore-requires-python ttsem==0.1.0"

pytestmark = pytest.mark.skipif(find_spec("ttsem") is None, reason=f"ttsem is not installed: {INSTALL}")


def sanitized(file, *options):
    """(what pytest printed, its exit status)"""
    command = [sys.executable, "-m", "ttsem.sanitize", "pytest", str(FOLDER / file), "-q", "-p", "no:cacheprovider"]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_DEFAULT_FP_FUSION": "1", "COLUMNS": "200"}
    done = subprocess.run([*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr, done.returncode


def test_seeded_faults_are_reported():
    """Every fault at its line; if ttsem did nothing, at most the race could fail."""
    text, status = sanitized("faults.py")
    assert status == 1, text
    assert "3 failed, 1 passed" in text, text
    faults = re.findall(r"KernelFault: kernel `row_sums_kernel`, launch \d+: .*", text)
    for part in (
        "reads 5 element(s) past the end of the tensor passed as `x`",
        "writes 1 element(s) past the end",
        "both touch element 3",
    ):
        assert sum(part in fault for fault in faults) >= 1, text


@pytest.mark.parametrize(
    "chosen",
    [
        "bfloat16 and planes",
        pytest.param("float32 or channels_last", marks=pytest.mark.slow),
    ],
)
def test_every_op_keeps_inside_its_tensors_without_races(chosen):
    text, status = sanitized("suite.py", "-k", chosen)
    assert status == 0, text
    assert re.search(r"\d+ passed", text), text
    assert not re.search(r"skipped|failed|error", text.splitlines()[-1]), text
