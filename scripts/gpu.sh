#!/usr/bin/env bash
# Build for the CUDA device of this machine, run every test there, then the benchmarks, into benchmarks/results/.
# Uses the packages of PYTHON as they are, through an environment of its own in build/; installs nothing into PYTHON.
# usage: gpu.sh PYTHON [options of pggan-fast bench]
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

python=${1:?usage: gpu.sh PYTHON [BENCH OPTIONS]}
shift

lacking=$("$python" - <<'CHECK'
import importlib.util
needed = "torch pip setuptools pybind11 ninja numpy PIL safetensors tyro rich pytest hypothesis matplotlib build".split()
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if missing:
    print("this Python lacks " + ", ".join(missing))
else:
    import torch
    if not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no CUDA device")
CHECK
)
if [[ -n $lacking ]]; then
    echo "make gpu: $lacking ($python)" >&2
    exit 1
fi

"$python" scripts/borrow_venv.py build/gpu-venv
run=build/gpu-venv/bin/python
PGGAN_FAST_CUDA=1 "$run" -m pip --disable-pip-version-check install --quiet --no-index --no-deps --no-build-isolation --editable .

"$run" -m pytest

device=$("$run" -c 'import re, torch; print(re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-"))')
mkdir -p benchmarks/results
build/gpu-venv/bin/pggan-fast bench "$@" --json "benchmarks/results/$device.json" --plot "benchmarks/results/$device.png"
