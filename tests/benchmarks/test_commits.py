"""Commits of a small repository that stands in for ours: same folders, a bench that writes what the commit says."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from pggan_fast.benchmarks import commits, compare

import pggan_fast

SETUP = """
import json, pathlib
if "fails" in pathlib.Path("csrc/kernel.cpp").read_text():
    told = {"built": False, "reason": "kernel.cpp: error: fails"}
else:
    told = {"built": True}
    pathlib.Path("pggan_fast/_cpu.x.so").write_text("built here")
pathlib.Path("pggan_fast/_build.json").write_text(json.dumps({"_cpu": told}))
"""
BENCH = """
import json, os, pathlib, sys, time
import pggan_fast.benchmarks
here = pathlib.Path(__file__).resolve().parents[2]
with open(os.environ["TEST_LOG"], "a") as log:
    log.write(json.dumps([pggan_fast.benchmarks.RATIO, (here / "pggan_fast/_cpu.x.so").read_text(), sys.argv[1:-1],
                          os.environ["PGGAN_FAST_CACHE"]]) + "\\n")
if "--hang" in sys.argv:
    time.sleep(600)
if pggan_fast.benchmarks.RATIO is None:
    sys.exit(2)
row = {"case": "G.forward", "provider": "auto", "resolution": 32, "batch": 4, "dtype": "float32", "device": "cpu",
       "median_s": 1.0, "ratio": pggan_fast.benchmarks.RATIO}
run = {"schema": 1, "machine": {}, "versions": {}, "commit": None, "results": [row]}
pathlib.Path(sys.argv[-1]).write_text(json.dumps(run))
"""


def git(root, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", root, *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(root, ratio, kernel="one"):
    (root / "benchmarks" / "__init__.py").write_text(f"RATIO = {ratio}\n")
    (root / "csrc" / "kernel.cpp").write_text(kernel)
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "-m", "a commit")
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two commits, the newer twice as fast, native modules built for both; the log is what each bench tells."""
    root = tmp_path / "checkout"
    for folder in ("pggan_fast/cli", "kernels", "benchmarks", "csrc"):
        (root / folder).mkdir(parents=True)
    for package in ("pggan_fast", "pggan_fast/cli", "kernels"):
        (root / package / "__init__.py").write_text("")
    (root / "pggan_fast" / "cli" / "__main__.py").write_text(BENCH)
    (root / "setup.py").write_text(SETUP)
    (root / ".gitignore").write_text("*.so\n_build.json\n__pycache__\n")
    git(tmp_path, "init", "--quiet", root)
    commit(root, 2.0)
    commit(root, 4.0)
    (root / "pggan_fast" / "_cpu.x.so").write_text("copied")
    (root / "pggan_fast" / "_build.json").write_text("{}")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TEST_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PGGAN_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setattr(commits, "checkout", lambda: root)
    return root


def told(root):
    text = (root.parent / "log").read_text()
    return [json.loads(line) for line in text.splitlines()]


def left_behind(root):
    """Worktrees beside the checkout itself, and temporary files."""
    return git(root, "worktree", "list").splitlines()[1:], list((root.parent / "scratch").iterdir())


def test_each_commit_runs_its_own_code_in_turns(root):
    (root.parent / "cache").mkdir()
    (root.parent / "cache" / "table.json").write_text("tuned")
    found = commits.measure(("HEAD~1", "HEAD"), ["--cases", "G.forward"], 2)
    assert [ratio for ratio, *_ in told(root)] == [2.0, 4.0, 2.0, 4.0]
    assert {native for _, native, *_ in told(root)} == {"copied"}
    assert told(root)[0][2] == ["bench", "--cases", "G.forward", "--json"]
    caches = {cache for *_, cache in told(root)}
    assert len(caches) == 2  # one commit's verdicts on its kernels are not the other's
    assert str(root.parent / "cache") not in caches
    sides = [compare.together([compare.measured(run) for run in runs]) for runs in found]
    (change,) = compare.changes(*sides)
    assert (change.times, change.verdict) == (2.0, "faster")
    assert left_behind(root) == ([], [])


def test_modules_are_copied_only_from_the_same_sources(root):
    commit(root, 8.0, kernel="two")
    commits.measure(("HEAD~1", "HEAD"), [], 1)
    assert [native for _, native, *_ in told(root)] == ["built here", "copied"]
    assert not (root / "pggan_fast" / "benchmarks").exists()


def test_modules_that_cannot_be_built_are_an_error(root):
    commit(root, 8.0, kernel="fails")
    (root / "csrc" / "kernel.cpp").write_text("mended, and not committed")
    with pytest.raises(commits.CommitError, match=r"cannot be built: kernel.cpp: error: fails"):
        commits.measure(("HEAD~1", "HEAD"), [], 1)
    assert left_behind(root) == ([], [])


def test_a_bench_that_ends_without_a_file_is_an_error(root):
    newest = commit(root, None)
    with pytest.raises(commits.CommitError, match=rf"{newest[:10]}: its `pggan-fast bench --seed 1` ended with 2"):
        commits.measure(("HEAD~1", "HEAD"), ["--seed", "1"], 1)
    assert left_behind(root) == ([], [])


def test_what_is_no_commit(root):
    with pytest.raises(commits.CommitError, match="nonsense is neither a file nor a commit"):
        commits.measure(("HEAD", "nonsense"), [], 1)
    with pytest.raises(commits.CommitError, match="neither a file nor a commit"):
        commits.resolve(root, "--version")


def test_outside_of_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(pggan_fast, "__file__", str(tmp_path / "site-packages" / "pggan_fast" / "__init__.py"))
    with pytest.raises(commits.CommitError, match="compared in a git checkout"):
        commits.checkout()


def test_worktrees_are_removed_after_an_interrupt(root):
    program = (
        "import signal, sys, pathlib, tempfile; from pggan_fast.benchmarks import commits\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a job in the background ignores
        "tempfile.tempdir = sys.argv[2]; commits.checkout = lambda: pathlib.Path(sys.argv[1])\n"
        "commits.measure(('HEAD~1', 'HEAD'), ['--hang'], 1)"
    )
    ours = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(root), str(root.parent / "scratch")],
        env={**os.environ, "PYTHONPATH": ours},
        cwd=root.parent,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + 120
        while not (root.parent / "log").exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert len(left_behind(root)[0]) == 2  # so that there is something to remove
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "KeyboardInterrupt" in errors
    assert left_behind(root) == ([], [])
