#!/usr/bin/env bash
# Build pggan_fast._cuda in .venv for the architectures that csrc/build.py chooses, and write the file STAMP. Where
# there is no nvcc there is nothing to build: it is said, and asked again the next time.
# usage: build_cuda.sh STAMP
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

stamp=${1:?usage: build_cuda.sh STAMP}
python=.venv/bin/python

[[ ${PGGAN_FAST_CUDA:-} != 0 ]] || exit 0
if ! missing=$("$python" csrc/build.py); then
    echo "the CUDA kernels are not compiled, and what needs them skips: $missing"
    exit 0
fi
mkdir -p build
echo "compiling the CUDA kernels (build/cuda.log)"
# A failed build does not fail an install. Here there is a compiler, so it is a fault.
if ! PGGAN_FAST_CUDA=1 "$python" setup.py --quiet build_ext --inplace >build/cuda.log 2>&1; then
    tail -n 20 build/cuda.log >&2
    exit 1
fi
if ! (cd / && "$OLDPWD/$python" -c 'import pggan_fast._cuda'); then
    echo "pggan_fast._cuda does not load; what its build recorded:" >&2
    cat pggan_fast/_build.json >&2 || true
    exit 1
fi
touch -- "$stamp"
