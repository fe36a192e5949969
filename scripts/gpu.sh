#!/usr/bin/env bash
# On this machine's CUDA device: build, test, look for memory faults and races, tune, and measure.
# Uses the packages of PYTHON as they are, through an environment of its own in build/; installs nothing into PYTHON.
# Results go to benchmarks/results/DEVICE/, logs to build/gpu/STAGE.log. A failed stage does not stop the later ones.
# usage: gpu.sh PYTHON [STAGE...]      stages: build test sanitize tune bench; all of them, if none is named
# environment: PYTEST_ARGS (-n 8; -m slow: what is left out otherwise), TUNE_ARGS and BENCH_ARGS (their options)
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

python=${1:?usage: gpu.sh PYTHON [STAGE...]}
shift
stages=("$@")
[[ $# -gt 0 ]] || stages=(build test sanitize tune bench)
for stage in "${stages[@]}"; do
    case $stage in
        build | test | sanitize | tune | bench) ;;
        *) echo "make gpu: no stage $stage; there are build, test, sanitize, tune and bench" >&2 && exit 2 ;;
    esac
done

# The folder of the results, or what is missing
device=$("$python" - <<'CHECK'
import importlib.util
import re
needed = "torch pip setuptools pybind11 ninja numpy PIL safetensors tyro rich pytest hypothesis matplotlib build"
missing = [name for name in needed.split() if importlib.util.find_spec(name) is None]
if missing:
    print("lacks: this Python lacks " + ", ".join(missing))
else:
    import torch
    if torch.cuda.is_available():
        print(re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-"))
    else:
        print(f"lacks: torch {torch.__version__} sees no CUDA device")
CHECK
)
if [[ $device == lacks:* ]]; then
    echo "make gpu: ${device#lacks: } ($python)" >&2
    exit 1
fi

results=benchmarks/results/$device
run=build/gpu-venv/bin/python
read -ra pytest_args <<<"${PYTEST_ARGS:-}"
read -ra tune_args <<<"${TUNE_ARGS:---dtype bfloat16 float32}"
read -ra bench_args <<<"${BENCH_ARGS:-}"
export PGGAN_FAST_CACHE=$PWD/$results # the table that tune writes is the one that bench reads
unset TRITON_INTERPRET

build() {
    "$python" scripts/borrow_venv.py build/gpu-venv
    PGGAN_FAST_CUDA=1 "$run" -m pip --disable-pip-version-check install --quiet --no-index --no-deps \
        --no-build-isolation --editable .
    "$run" -m pggan_fast.cli info
}

run_tests() { # status 5: the selection of PYTEST_ARGS holds none of these
    local status=0
    "$@" -m 'not slow' ${pytest_args[@]+"${pytest_args[@]}"} || status=$?
    [[ $status -eq 0 || $status -eq 5 ]] || failed=1
}

# The device first, whose kernels are compiled by all the host's cores; then what `make test` runs, the kernels in
# Triton's interpreter in a process of their own.
test_all() {
    failed=0
    local processes=() alone=(tests/gpu/test_limits.py tests/gpu/test_port.py) # want the memory; compile in one folder
    ! "$run" -c 'import xdist' 2>/dev/null || processes=(-n auto)
    run_tests "$run" -m pytest "${alone[@]}"
    run_tests "$run" -m pytest ${processes[@]+"${processes[@]}"} tests/gpu "${alone[@]/#/--ignore=}"
    run_tests env TRITON_INTERPRET=1 "$run" -m pytest ${processes[@]+"${processes[@]}"} tests/kernels tests/ops \
        --ignore=tests/ops/test_derivatives.py
    run_tests "$run" -m pytest --ignore=tests/kernels --ignore=tests/gpu
    return "$failed"
}

# Without torch's caching of memory every tensor has bounds of its own.
sanitize() {
    local sanitizer tool tools=(memcheck racecheck initcheck synccheck) status=0
    sanitizer=$(command -v compute-sanitizer || true)
    [[ -n $sanitizer ]] || sanitizer=${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer
    if [[ ! -x $sanitizer ]]; then
        echo "make gpu: sanitize needs compute-sanitizer of the CUDA toolkit, on the PATH or in CUDA_HOME/bin" >&2
        return 1
    fi
    # Compiled before, outside the tools: bounds, races in shared memory, reads of what nobody wrote, barriers
    "$run" -m pytest -q tests/gpu/test_grid.py -k sanitized
    echo "compute-sanitizer: ${tools[*]}, side by side"
    rm -f build/gpu/*.failed                   # of a stage that was cut off
    trap 'kill $(jobs -p) 2>/dev/null || true' EXIT # they ignore Ctrl-C
    for tool in "${tools[@]}"; do
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" --print-limit 100000 --target-processes all \
            "$run" -m pytest -q -p no:cacheprovider tests/gpu/test_grid.py -k sanitized \
            >"build/gpu/$tool.log" 2>&1 || touch "build/gpu/$tool.failed" &
    done
    wait
    for tool in "${tools[@]}"; do
        grep -E "^[0-9]+ (passed|failed)|SUMMARY" "build/gpu/$tool.log" || true
        "$python" scripts/sanitizer_report.py "build/gpu/$tool.log" || status=1
        [[ ! -e build/gpu/$tool.failed ]] || { rm "build/gpu/$tool.failed" && status=1; }
    done
    return "$status"
}

tune() {
    build/gpu-venv/bin/pggan-fast tune "${tune_args[@]}"
}

bench() {
    build/gpu-venv/bin/pggan-fast bench ${bench_args[@]+"${bench_args[@]}"} \
        --json "$results/bench.json" --plot "$results/bench.png"
    rm -f "$results/layers.jsonl"
    build/gpu-venv/bin/pggan-fast bench --preset layers --dtype bfloat16 --budget 90 --out "$results/layers.jsonl" \
        --providers auto eager best_eager triton cuda
    for precision in bf16 fp32; do
        "$run" -m pggan_fast.benchmarks.training --batch 16 --rounds 5 --precision "$precision" \
            --json "$results/training-$precision.json"
    done
    "$run" -m pggan_fast.benchmarks.overhead --json "$results/overhead.json"
}

mkdir -p build/gpu "$results"

if [[ ${#stages[@]} -eq 1 ]]; then
    stage=${stages[0]}
    if [[ $stage != build ]] && ! "$run" -c 'import pggan_fast' 2>/dev/null; then
        "$0" "$python" build
    fi
    [[ $stage == test ]] && stage=test_all # `test` is bash's own
    "$stage" 2>&1 | tee "build/gpu/${stages[0]}.log"
    exit
fi

failed_stages=()
for stage in "${stages[@]}"; do
    echo "make gpu: $stage"
    if ! "$0" "$python" "$stage"; then
        failed_stages+=("$stage")
        [[ $stage != build ]] || break
    fi
done
if [[ ${#failed_stages[@]} -gt 0 ]]; then
    echo "make gpu: failed: ${failed_stages[*]}; see build/gpu/" >&2
    exit 1
fi
