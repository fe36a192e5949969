# Everything a developer runs. Each target sets up .venv by itself, and does nothing where nothing changed.

PYTHON ?= python3
TORCH ?= torch==2.13.0 triton
BENCH_ARGS ?= --preset quick
PYTEST_ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed
CUDA_STAMP := .venv/.cuda-built
DOCS_STAMP := .venv/.docs-installed
RUN := $(BIN)/python

# The environment is used as it is only if its Python still runs, has torch, and was made for this very folder.
USABLE := $(shell [ "$$(cat $(STAMP) 2>/dev/null)" = "$$(pwd -P)" ] && $(RUN) -c \
	'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("pip", "torch"))))' 2>/dev/null && echo yes)
SOURCES := Makefile pyproject.toml setup.py scripts/setup_venv.sh scripts/prerequisites.sh $(shell find csrc -name __pycache__ -prune -o -print)

.DEFAULT_GOAL := help
.PHONY: help bench test test-long coverage mutation lint docs gpu wheels clean FORCE

help:
	@echo 'make bench      fused against plain PyTorch, side by side: a table, and build/bench/bench.{json,png}'
	@echo 'make test       lint, types and every quick test; compiles the CUDA kernels first, where there is nvcc'
	@echo 'make test-long  lint, types and every test'
	@echo 'make coverage   the lines and branches of the Python sources that quick tests reach'
	@echo 'make mutation   small changes of the sources that their tests do not notice; MUTATE_ARGS="--seconds 600"'
	@echo 'make lint       ruff and mypy'
	@echo 'make docs       the site of docs/, into build/site/, to be opened without a server or a network'
	@echo 'make gpu        build, test, tune and measure on a CUDA device, with the packages of PYTHON; needs no network'
	@echo 'make wheels     build what a release has, and use it in new environments of PYTHON; needs a network'
	@echo 'make clean      remove what was built (.venv keeps its downloads)'
	@echo
	@echo 'PYTHON=$(PYTHON)  TORCH="$(TORCH)"  BENCH_ARGS="$(BENCH_ARGS)"  PYTEST_ARGS="$(PYTEST_ARGS)"'

# Written last, so that a setup that was cut short is done again.
$(STAMP): $(SOURCES) $(if $(USABLE),,FORCE)
	@TORCH="$(TORCH)" scripts/setup_venv.sh "$(PYTHON)"
	@pwd -P > $@

FORCE:

# The CUDA kernels, where there is nvcc. A target of its own, so that `make bench` never waits for them.
$(CUDA_STAMP): $(STAMP) scripts/build_cuda.sh
	@scripts/build_cuda.sh $@

bench: $(STAMP)
	@mkdir -p build/bench
	$(BIN)/pggan-fast bench $(BENCH_ARGS) --json build/bench/bench.json --plot build/bench/bench.png

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# Triton reads TRITON_INTERPRET when it is imported: its kernels are interpreted in a process of their own, by the tests
# of the kernels and by those that every backend shares, less those in float64.
INTERPRET := TRITON_INTERPRET=1 $(RUN) -m pytest -n auto tests/kernels tests/ops --ignore=tests/ops/test_derivatives.py

# The CUDA kernels on the host, in a process of their own too; where there is no nvcc all of it skips.
EMULATE := PGGAN_TEST_EMULATOR=1 $(RUN) -m pytest -n auto tests/emulator tests/ops --ignore=tests/ops/test_derivatives.py
# A file stays with one process: what it builds or caches is its own.
# Files marked as `early` begin first, so that no process ends long after the others.
REST := $(RUN) -m pytest -n auto --dist loadfile --no-loadscope-reorder --ignore=tests/kernels --ignore=tests/emulator

# What is freed stays with the process: tests ask for the same few megabytes again, which the system would clear anew.
test test-long: export MALLOC_TRIM_THRESHOLD_ ?= 1000000000
test test-long: export MALLOC_MMAP_THRESHOLD_ ?= 33554432
# The chips whose machine code quick tests look at; slow ones compile for the others, and a device asks for its own.
test test-long: export TORCH_CUDA_ARCH_LIST ?= $(if $(shell command -v nvidia-smi),,8.0 10.0)

test: lint $(CUDA_STAMP)
	$(INTERPRET) -m 'not slow' $(PYTEST_ARGS)
	$(EMULATE) -m 'not slow' $(PYTEST_ARGS)
	$(REST) -m 'not slow' $(PYTEST_ARGS)

# The oldest Triton that the kernels are for, beside the one in .venv: tests/static compiles with it too.
OLDEST_TRITON := build/triton-3.6

$(OLDEST_TRITON): | $(STAMP)
	$(RUN) -m pip --disable-pip-version-check install --quiet --no-deps --target $@.part triton==3.6.0
	mv $@.part $@

# Every reader of files is fuzzed for so many seconds; for 1 in `make test`.
test-long: export PGGAN_TEST_FUZZ_SECONDS ?= 60
test-long: lint $(CUDA_STAMP) $(OLDEST_TRITON) $(DOCS_STAMP)
	$(INTERPRET) $(PYTEST_ARGS)
	$(EMULATE) $(PYTEST_ARGS)
	$(REST) --durations=25 $(PYTEST_ARGS)

# Of the Python sources, by the tests that need no compiler of kernels. A table and no gate: what has no test is examined.
# Without those that coverage itself fails, as it writes to the full disk and has imported what an interrupt waits for.
COVERED ?= tests/cli tests/convert tests/data tests/models tests/ops tests/swap tests/training tests/test_*.py

coverage: $(STAMP)
	$(RUN) -m pytest -n auto --dist loadfile -m 'not slow' -k "not full_disk and not in_an_import" \
		--cov --cov-report=term-missing $(PYTEST_ARGS) $(COVERED)

# Small changes of the sources, tried against the tests that belong to them. What survives is printed.
mutation: $(STAMP)
	$(RUN) scripts/mutate.py $(MUTATE_ARGS)

# What a page is made of: its own source, what it includes, results, and docstrings.
SITE := build/.site-built
SITE_SOURCES := mkdocs.yml README.md CONTRIBUTING.md CHANGELOG.md $(shell find docs scripts/docs benchmarks pggan_fast kernels \
	-type f ! -name '*.pyc' ! -name '*.so' ! -name '_build.json' 2>/dev/null)

$(DOCS_STAMP): $(STAMP) scripts/install_extra.py
	$(RUN) scripts/install_extra.py docs
	@touch $@

$(SITE): $(DOCS_STAMP) $(SITE_SOURCES)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	@mkdir -p $(@D) && touch $@

docs: $(SITE)
	@echo 'open build/site/index.html'

gpu:
	@BENCH_ARGS="$(BENCH_ARGS)" PYTEST_ARGS="$(PYTEST_ARGS)" scripts/gpu.sh "$(PYTHON)" $(STAGES)

wheels:
	@scripts/check_wheel.sh $(PYTHON)

clean:
	rm -rf build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache $(STAMP) $(CUDA_STAMP) $(DOCS_STAMP)
	rm -f pggan_fast/*.so pggan_fast/_build.json
	find pggan_fast kernels benchmarks tests scripts -name __pycache__ -prune -exec rm -rf {} +
