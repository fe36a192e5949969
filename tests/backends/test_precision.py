"""float32's precision on a CUDA device is read from torch's switches, old and new, and never set."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

# torch 2.10 keeps cuDNN's default where only the setting of everything is changed
WHOLE = "tf32 ieee" if torch.__version__.startswith("2.10.") else "ieee ieee"
PRINT = "from pggan_fast.backends import precision; print(precision.conv_fp32(), precision.matmul_fp32())"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("", "tf32 ieee"),
        ("torch.backends.cudnn.allow_tf32 = False", "ieee ieee"),
        ("torch.backends.cudnn.conv.fp32_precision = 'ieee'", "ieee ieee"),
        ("torch.set_float32_matmul_precision('high')", "tf32 tf32"),
        ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", "tf32 tf32"),
        ("torch.backends.fp32_precision = 'ieee'", WHOLE),
    ],
)
def test_torchs_switches_decide(setting: str, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import torch; {setting}\n{PRINT}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected
