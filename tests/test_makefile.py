"""The Makefile and its scripts, run in a small copy, with a stand-in for Python that notes what it was asked to do."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

STAND_IN = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
if [[ -n ${FAIL_AT:-} && "$*" == *"$FAIL_AT"* ]]; then exit 1; fi
case "$*" in
    --version) echo 'Python 3.9.2' ;;
    *sysconfig*) echo "$HEADERS" ;;
    "-m venv .venv")
        mkdir -p .venv/bin
        cp -- "$0" .venv/bin/python
        cp -- "$0" .venv/bin/pggan-fast
        echo "VIRTUAL_ENV=$(pwd -P)/.venv" >.venv/bin/activate ;;
    *"--target "*) mkdir -p -- "${@: -2:1}" ;;
    -) echo a-device ;;
    scripts/borrow_venv.py*)
        mkdir -p build/gpu-venv/bin
        cp -- "$0" build/gpu-venv/bin/python
        cp -- "$0" build/gpu-venv/bin/pggan-fast ;;
esac
"""


class Copy:
    """A folder with the Makefile, its scripts and something to build."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("Makefile", "scripts", ".ci"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / name)
        (folder / "csrc" / "cpu").mkdir(parents=True)
        (folder / "docs").mkdir()
        for name in ("pyproject.toml", "setup.py", "csrc/cpu/a.cpp", "docs/a.md", *PAGES_BESIDE):
            (folder / name).touch()
        self.python = home / "python3"
        self.python.write_text(STAND_IN)
        self.python.chmod(0o755)
        (home / "Python.h").touch()
        self.log = home / "calls"
        self.env = os.environ | {
            "CALLS": str(self.log),
            "HEADERS": str(home),
            "CXX": "bash",
            "PYTHON": str(self.python),
        }
        # Of a make that runs this test
        for name in ("MAKEFLAGS", "MAKELEVEL", "TORCH", "PYTEST_ARGS", "PGGAN_FAST_CUDA"):
            self.env.pop(name, None)

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            command, cwd=self.folder, env=self.env | env, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    def calls(self, *command: str, **env: str) -> list[str]:
        """The names of what `command` made Python do, in order; its questions left out."""
        self.log.unlink(missing_ok=True)
        done = self.run(*command, **env)
        assert done.returncode == 0, done.stderr
        steps = {
            "-m venv": "venv",
            "install --quiet torch": "torch",
            "install --quiet setuptools": "tools",
            "install --quiet --no-build-isolation --editable": "package",
            "import pggan_fast._cpu": "native",
            "build_ext --inplace": "kernels",
            "import pggan_fast._cuda": "loads",
            "--target": "triton",
            "scripts/install_extra.py docs": "docs tools",
            "-m mkdocs build --strict": "site",
            "-m ruff": "ruff",
            "-m mypy": "mypy",
            "-m pytest": "pytest",
        }
        lines = self.log.read_text().splitlines()
        return [name for line in lines for key, name in steps.items() if key in line]


PAGES_BESIDE = ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")
SETUP = ["torch", "tools", "package", "native"]
LINT = ["ruff", "ruff", "mypy"]
CUDA = ["kernels", "loads"]
TESTS = ["pytest", "pytest", "pytest"]
FIRST, AGAIN = [*SETUP, *LINT, *CUDA, *TESTS], [*LINT, *TESTS]


@pytest.fixture
def copy(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    return Copy(tmp_path / "a folder", home)


def test_a_fresh_clone_is_set_up_once(copy):
    calls = copy.calls("make", "-j4", "test")
    assert [name for name in calls if name not in CUDA] == ["venv", *SETUP, *AGAIN]  # the kernels beside lint
    assert [name for name in calls if name not in LINT] == ["venv", *SETUP, *CUDA, *TESTS]
    assert copy.calls("make", "test") == AGAIN
    assert copy.calls("make", "-j4", "lint", "test") == AGAIN


def test_a_setup_that_was_cut_short_is_done_again(copy):
    assert copy.run("make", "test", FAIL_AT="--editable").returncode != 0
    assert "pytest" not in copy.log.read_text()
    assert copy.calls("make", "test") == FIRST


@pytest.mark.parametrize("changed", ["csrc/cpu/a.cpp", "csrc/cpu", "pyproject.toml", "setup.py", "Makefile"])
def test_a_change_installs_again_into_the_same_environment(copy, changed):
    copy.calls("make", "test")
    later = (copy.folder / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(copy.folder / changed, (later, later))
    assert copy.calls("make", "test") == FIRST


def test_an_environment_whose_python_is_gone_is_made_anew(copy):
    copy.calls("make", "test")
    python = copy.folder / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/no/such/python3")
    assert copy.calls("make", "test") == ["venv", *FIRST]


def test_a_moved_folder_gets_its_own_environment(copy):
    copy.calls("make", "test")
    copy.folder = copy.folder.rename(copy.folder.with_name("moved"))
    assert copy.calls("make", "test") == ["venv", *FIRST]


def test_a_missing_native_module_fails_the_setup_and_says_why(copy):
    copy.run("mkdir", "pggan_fast")
    (copy.folder / "pggan_fast" / "_build.json").write_text('{"_cpu": {"built": false, "reason": "no space left"}}')
    done = copy.run("make", "test", FAIL_AT="import pggan_fast._cpu")
    assert done.returncode != 0
    assert "_cpu does not load" in done.stderr
    assert "no space left" in done.stderr
    assert not (copy.folder / ".venv" / ".installed").exists()


def test_the_kernels_for_cuda_are_built_for_the_tests_alone(copy):
    assert copy.calls("make", "bench") == ["venv", *SETUP]
    assert copy.calls("make", "lint") == LINT
    assert copy.calls("make", "test") == [*LINT, *CUDA, *TESTS]
    later = (copy.folder / ".venv" / ".cuda-built").stat().st_mtime + 10
    (copy.folder / "csrc" / "cuda.cu").touch()
    for path in ("csrc", "csrc/cuda.cu"):
        os.utime(copy.folder / path, (later, later))
    assert copy.calls("make", "bench") == SETUP
    os.utime(copy.folder / ".venv" / ".installed", (later, later))
    assert copy.calls("make", "test") == [*LINT, *CUDA, *TESTS]


def test_without_nvcc_the_kernels_are_looked_for_again(copy):
    """A missing compiler is no fault, and may be there the next time."""
    copy.calls("make", "lint")
    for _ in range(2):
        done = copy.run("make", "test", FAIL_AT="csrc/build.py")
        assert done.returncode == 0, done.stderr
        assert "the CUDA kernels are not compiled" in done.stdout
    assert "build_ext" not in copy.log.read_text()
    assert copy.calls("make", "test", PGGAN_FAST_CUDA="0") == AGAIN
    assert copy.calls("make", "test") == [*LINT, *CUDA, *TESTS]


def test_kernels_that_do_not_compile_fail_the_tests_and_say_why(copy):
    copy.calls("make", "lint")
    (copy.folder / "pggan_fast").mkdir()
    (copy.folder / "pggan_fast" / "_build.json").write_text('{"_cuda": {"built": false, "reason": "ptxas fatal"}}')
    done = copy.run("make", "test", FAIL_AT="import pggan_fast._cuda")
    assert done.returncode != 0
    assert "_cuda does not load" in done.stderr
    assert "ptxas fatal" in done.stderr
    assert "-m pytest" not in copy.log.read_text()
    assert copy.run("make", "test", FAIL_AT="build_ext").returncode != 0
    assert "-m pytest" not in copy.log.read_text()


@pytest.mark.parametrize("failing", ["-m ruff check", "-m ruff format", "-m mypy", "-m pytest"])
def test_a_failing_check_fails_ci(copy, failing):
    copy.calls("make", "test")
    assert copy.run(".ci/run", FAIL_AT=failing).returncode != 0


def test_ci_runs_make_test(copy):
    assert copy.calls(".ci/run", CI="true") == ["venv", *FIRST]
    assert copy.log.read_text().count("-m not slow") == len(TESTS)


def test_the_long_tests_leave_none_out(copy):
    assert copy.calls("make", "test-long") == ["venv", *SETUP, *LINT, *CUDA, "triton", "docs tools", *TESTS]
    assert "not slow" not in copy.log.read_text()


def test_the_long_tests_end_with_the_slowest(copy):
    copy.calls("make", "test-long")
    assert "--durations=25" in copy.log.read_text().splitlines()[-1]


def test_coverage_and_mutation_need_no_kernels(copy):
    assert copy.calls("make", "coverage", COVERED="tests/ops", PYTEST_ARGS="-n 1") == ["venv", *SETUP, "pytest"]
    assert copy.log.read_text().splitlines()[-1].endswith("--cov --cov-report=term-missing -n 1 tests/ops")
    assert copy.calls("make", "mutation", MUTATE_ARGS="--seconds 5") == []
    assert copy.log.read_text().splitlines()[-1] == "scripts/mutate.py --seconds 5"


def test_coverage_leaves_nothing_in_the_root():
    (data,) = re.findall(r'^data_file = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert Path(data).parent == Path("build")


def test_the_site_is_built_once_and_again_where_a_page_changed(copy):
    assert copy.calls("make", "docs") == ["venv", *SETUP, "docs tools", "site"]
    assert copy.run("make", "docs").stdout == "open build/site/index.html\n"
    for changed in ("docs/a.md", "CHANGELOG.md"):
        later = time.time() + 10
        os.utime(copy.folder / changed, (later, later))
        assert copy.calls("make", "docs") == ["site"]
        for path in (changed, "build/.site-built"):
            os.utime(copy.folder / path)


def test_a_site_that_does_not_build_fails_and_is_built_again(copy):
    copy.calls("make", "lint")
    assert copy.run("make", "docs", FAIL_AT="mkdocs").returncode != 0
    assert copy.calls("make", "docs") == ["site"]


def test_an_extra_is_read_off_the_metadata():
    spec = importlib.util.spec_from_file_location("install_extra", ROOT / "scripts" / "install_extra.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    listed = ["torch>=2.10", 'mkdocs-material>=9.5; extra == "docs"', "lmdb; extra == 'data'", 'docs; extra == "docs2"']
    assert module.needs("docs", listed) == ["mkdocs-material>=9.5"]
    assert module.needs("torch", listed) == []


def test_the_build_needs_are_those_of_pyproject():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    line = next(
        x for x in (ROOT / "scripts/setup_venv.sh").read_text().splitlines() if x.startswith("install 'setuptools")
    )
    assert line.replace("'", "").split()[1:] == needs


INSTALL = "this machine lacks what the build needs; install it with: sudo apt-get install -y"


@pytest.mark.parametrize(
    ("env", "packages"),
    [
        ({"CXX": "no-such-compiler"}, "g++"),
        ({"HEADERS": "/nowhere"}, "python3-dev"),
        ({"FAIL_AT": "ensurepip"}, "python3-venv"),
        ({"FAIL_AT": "ensurepip", "HEADERS": "/nowhere", "CXX": "none"}, "g++ python3-venv python3-dev"),
    ],
)
@pytest.mark.parametrize("command", [("make", "bench"), ("make", "test"), (".ci/run",)])
def test_what_the_machine_lacks_is_one_line_and_nothing_is_begun(copy, command, env, packages):
    done = copy.run(*command, **env)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == f"{INSTALL} {packages}"
    assert not (copy.folder / ".venv").exists()


@pytest.mark.parametrize(
    ("arguments", "packages"),
    [
        (["no-such-python"], "python3 python3-venv python3-dev"),
        (["/opt/nothing/bin/python3.12"], "python3.12 python3.12-venv python3.12-dev"),
        (["no-such-python", "no-such-make"], "no-such-make python3 python3-venv python3-dev"),
    ],
)
def test_a_missing_python_is_named_as_debian_names_it(copy, arguments, packages):
    done = copy.run("scripts/prerequisites.sh", *arguments)
    assert (done.returncode, done.stderr) == (1, f"{INSTALL} {packages}\n")


def test_an_old_python_is_refused(copy):
    done = copy.run("make", "test", FAIL_AT="version_info")
    assert done.returncode != 0
    assert done.stderr.startswith("Python 3.9.2 is too old: Python 3.10 or newer is needed")


def test_a_machine_that_lacks_nothing_hears_nothing(copy):
    done = copy.run("scripts/prerequisites.sh", str(copy.python), "make", CXX="env bash")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_make_gpu_without_a_device_says_so_and_measures_nothing(copy):
    done = copy.run("make", "gpu", f"PYTHON={sys.executable}", CUDA_VISIBLE_DEVICES="")
    assert done.returncode != 0
    first = done.stderr.splitlines()[0]
    assert first.startswith("make gpu: torch ")
    assert "sees no CUDA device" in first
    assert not (copy.folder / "benchmarks").exists()
    assert not (copy.folder / "build").exists()


GPU_STAGES = {
    "scripts/borrow_venv.py": "build",
    "-m pytest tests/gpu/test_limits.py": "alone",
    " tests/gpu --ignore": "tests/gpu",
    "-m pytest --ignore": "tests",
    "tests/kernels tests/ops": "interpreter",
    "-k sanitized": "sanitize",
    "tune --dtype": "tune",
    "bench.json": "bench",
    "layers.jsonl": "layers",
}


def gpu_steps(copy):
    return [name for line in copy.log.read_text().splitlines() for key, name in GPU_STAGES.items() if key in line]


@pytest.fixture
def sanitizer(copy):
    """A stand-in for compute-sanitizer, where the CUDA toolkit would have it."""
    tool = copy.python.parent / "bin" / "compute-sanitizer"
    tool.parent.mkdir()
    tool.write_text(STAND_IN)
    tool.chmod(0o755)
    copy.env["CUDA_HOME"] = str(copy.python.parent)


def test_make_gpu_runs_its_stages_in_order(copy, sanitizer):
    done = copy.run("make", "gpu", "BENCH_ARGS=--preset full")
    assert done.returncode == 0, done.stderr
    tests = ["alone", "tests/gpu", "interpreter", "tests"]
    tools = re.findall(r"--tool (\w+) .*tests/gpu/test_grid.py -k sanitized", copy.log.read_text())
    assert sorted(tools) == ["initcheck", "memcheck", "racecheck", "synccheck"]
    judged = re.findall(r"scripts/sanitizer_report.py build/gpu/(\w+).log", copy.log.read_text())
    assert sorted(judged) == sorted(tools)
    assert gpu_steps(copy) == ["build", *tests, "sanitize", *["sanitize" for _ in tools], "tune", "bench", "layers"]
    assert "bench --preset full --json benchmarks/results/a-device/bench.json" in copy.log.read_text()
    logs = {p.name for p in (copy.folder / "build" / "gpu").iterdir()}
    assert logs == {f"{name}.log" for name in ("build", "test", "sanitize", "tune", "bench", *tools)}


def test_a_stage_of_make_gpu_runs_alone_and_builds_once(copy):
    assert copy.run("make", "gpu", "STAGES=tune").returncode == 0
    assert copy.run("make", "gpu", "STAGES=bench tune").returncode == 0
    assert gpu_steps(copy) == ["build", "tune", "bench", "layers", "tune"]
    assert copy.run("make", "gpu", "STAGES=measure").returncode != 0
    assert gpu_steps(copy) == ["build", "tune", "bench", "layers", "tune"]


@pytest.mark.parametrize(
    ("failing", "named"),
    [
        ("pytest tests/gpu/test_limits.py", "test"),
        ("tests/gpu --ignore", "test"),
        ("sanitizer_report.py build/gpu/memcheck.log", "sanitize"),
        ("--tool racecheck", "sanitize"),
        ("--tool synccheck", "sanitize"),
        ("tune --dtype", "tune"),
        ("bench --", "bench"),
    ],
)
def test_a_failing_stage_of_make_gpu_is_named_and_stops_no_other(copy, sanitizer, failing, named):
    done = copy.run("make", "gpu", FAIL_AT=failing)
    assert done.returncode != 0
    assert f"make gpu: failed: {named}; see build/gpu/" in done.stderr
    assert {"tests", "sanitize", "tune", "bench"} <= set(gpu_steps(copy))


def test_make_gpu_without_the_sanitizer_says_so(copy):
    done = copy.run("make", "gpu", "STAGES=sanitize", CUDA_HOME="/nowhere")
    assert done.returncode != 0
    assert "needs compute-sanitizer" in done.stdout + done.stderr


def test_make_gpu_stops_where_the_build_fails(copy):
    done = copy.run("make", "gpu", FAIL_AT="scripts/borrow_venv.py")
    assert done.returncode != 0
    assert gpu_steps(copy) == ["build"]
