#!/usr/bin/env bash
# Make .venv with PYTHON and install torch, this package (editable, native code built), the tools for tests and plots.
# usage: TORCH='torch==2.13.0 triton' setup_venv.sh PYTHON
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

python=${1:?usage: setup_venv.sh PYTHON}
scripts/prerequisites.sh "$python"

# One setup at a time in this folder: two at once would write over each other's files.
exec 9<pyproject.toml
flock 9

# Another Python's packages, or scripts that name another folder, cannot be mended in place.
if ! .venv/bin/python -c 'import pip' 2>/dev/null || ! grep -qsF -- "$(pwd -P)/.venv" .venv/bin/activate; then
    rm -rf .venv
    "$python" -m venv .venv
fi

# Progress for a person, silence for a log.
[[ -t 1 ]] && quiet=() || quiet=(--quiet)
install() { .venv/bin/python -m pip --disable-pip-version-check install "${quiet[@]}" "$@"; }

echo "setting up .venv (the first time downloads torch)"
read -ra torch <<<"${TORCH:?}"
install "${torch[@]}"
# The build's own needs go into .venv, so that a rebuild after an edit in csrc/ needs no network.
install 'setuptools>=77' ninja 'pybind11>=2.13'
install --no-build-isolation --editable '.[dev,bench]'
# Runs Triton's kernels on the CPU and watches every access. It asks for Python 3.12, and works on 3.11 too.
install --no-deps --ignore-requires-python ttsem==0.1.0

# A failed native build does not fail an install. Here there is a compiler, so it is a fault.
if ! (cd / && "$OLDPWD/.venv/bin/python" -c 'import pggan_fast._cpu'); then
    echo "pggan_fast._cpu does not load; what its build recorded:" >&2
    cat pggan_fast/_build.json >&2 || true
    exit 1
fi
