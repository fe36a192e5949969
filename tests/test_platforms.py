"""Systems that this one is not: what only POSIX has is asked for in one place, and without it everything still works.

Other systems are played: `os` without its POSIX names, and no `fcntl`, in a process that has imported torch before.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from source_tree import ROOT, copied

POSIX_MODULES = {"fcntl", "termios", "tty", "pty", "resource", "pwd", "grp", "posix", "syslog", "readline", "curses"}
# Of os: what Python's manual says is of Unix, or of Linux, alone
POSIX_NAMES = {
    "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "chown", "chroot", "fchmod", "fchown", "fork", "forkpty",
    "geteuid", "getegid", "getgid", "getgroups", "getloadavg", "getpgid", "getpriority", "getuid", "getsid", "killpg",
    "mkfifo", "nice", "posix_fadvise", "posix_fallocate", "posix_spawn", "pread", "preadv", "pwrite", "setuid", "sync",
    "register_at_fork", "sched_getaffinity", "sched_setaffinity", "sched_yield", "sendfile", "setpgid", "setpgrp",
    "setsid", "statvfs", "sysconf", "uname", "wait", "waitid", "WEXITSTATUS", "WIFEXITED",
}  # fmt: skip


def posix_only(source: str) -> list[str]:
    """What a module takes that only POSIX has, less what it asks `hasattr(os, ...)` for first."""
    found: list[str] = []
    asked: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [each.name for each in names if each.name in POSIX_MODULES]
            case ast.ImportFrom(module=str(module)) if module in POSIX_MODULES:
                found.append(module)
            case ast.Call(func=ast.Name(id="hasattr"), args=[ast.Name(id="os"), ast.Constant(value=name)]):
                asked.add(f"os.{name}")
            case ast.Attribute(value=ast.Name(id="os"), attr=name) if name in POSIX_NAMES:
                found.append(f"os.{name}")
    return [name for name in found if name not in asked]


def test_one_module_takes_what_only_posix_has() -> None:
    folders = [ROOT / name for name in ("pggan_fast", "kernels", "benchmarks")]
    files = {p for folder in folders for p in folder.rglob("*.py")} - {ROOT / "pggan_fast" / "system.py"}
    assert len(files) > 200
    assert {p.name: found for p in files if (found := posix_only(p.read_text()))} == {}


def test_what_only_posix_has_is_found() -> None:
    assert posix_only("import os\nif hasattr(os, 'fork'):\n    os.fork()") == []
    fault = "import os, fcntl\ndef f():\n    from resource import getrusage\n    return os.pread(0, 1, 0), os.getpid()"
    assert sorted(posix_only(fault)) == ["fcntl", "os.pread", "resource"]


ELSEWHERE = f"""
import concurrent.futures.process, multiprocessing.connection, os, platform, subprocess, sys, tempfile
import numpy, PIL.Image, rich.console, safetensors.torch, torch, torch.testing, torch.utils.checkpoint, tyro

for name in {sorted(POSIX_MODULES)}:
    sys.modules[name] = None
for name in {sorted(POSIX_NAMES - {"fork", "uname", "wait", "waitid"})}:  # which the standard library goes on calling
    vars(os).pop(name, None)
sys.modules["pggan_fast._cpu"] = sys.modules["pggan_fast._cuda"] = None
"""


def elsewhere(code: str, folder: Path, **variables: str) -> str:
    """What a program prints on a system that is not POSIX and has no native modules."""
    env = os.environ | {"PGGAN_FAST_CACHE": str(folder / "cache")} | variables
    command = [sys.executable, "-c", ELSEWHERE + code]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports_without_posix(tmp_path: Path) -> None:
    code = """
import importlib, pkgutil, pggan_fast
names = [m.name for m in pkgutil.walk_packages(pggan_fast.__path__, "pggan_fast.")]
names = [name for name in names if not name.endswith(("__main__", "_cpu", "_cuda"))]
for name in names:
    importlib.import_module(name)
print(len(names))
try:
    os.pread
except AttributeError:
    print("played")
"""
    count, played = elsewhere(code, tmp_path).split()
    assert int(count) > 150
    assert played == "played"


def test_ops_run_as_torch_computes_them(tmp_path: Path) -> None:
    """By aten, chosen automatically, with the reason why no kernel of ours is there."""
    code = """
import json, warnings
import pggan_fast
from pggan_fast.models import Generator
torch.manual_seed(0)
G, z = Generator(8, fmap_base=64, fmap_max=16, latent_dim=16), torch.randn(2, 16)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    image = G(z)
image.square().mean().backward()
with pggan_fast.use_backend("reference"):
    torch.testing.assert_close(G(z), image, rtol=1e-4, atol=1e-5)
chosen = pggan_fast.explain(pggan_fast.ops.pixel_norm, torch.randn(2, 8, 4, 4))
print(json.dumps({"explained": str(chosen), "unavailable": pggan_fast.backends.unavailable("cpu")}))
"""
    told = json.loads(elsewhere(code, tmp_path))
    assert "aten" in told["explained"]
    assert "pggan_fast._cpu is missing" in told["unavailable"]


def test_data_are_converted_read_and_held(tmp_path: Path) -> None:
    """Images to a ZIP by two processes, read by threads; locks that are not there are not taken."""
    code = """
from pathlib import Path
import pggan_fast.data
from pggan_fast.data.convert import convert
from pggan_fast.backends import tables
from pggan_fast.training import run_dir

if __name__ == "__main__":
    from pggan_fast.cli import main
    for number, pixels in enumerate(pggan_fast.data.faces(8)[:20]):
        Path("faces").mkdir(exist_ok=True)
        PIL.Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(f"faces/{number:02d}.png")
    try:
        main(["data", "convert", "--source", "faces", "--dest", "faces.zip", "--workers", "1"])
    except SystemExit as ended:
        assert not ended.code, ended.code
    dataset = pggan_fast.data.open_dataset(Path("faces.zip"))
    assert len(dataset) == 20
    first = dataset.usable(0)[1]
    assert (first == pggan_fast.data.faces(8)[0].numpy()).all()
    tables.add(torch.device("cpu"), "checks", {"x": {"build": "y"}})
    assert "x" in tables.load(tables.device_key(torch.device("cpu")))["checks"]
    with run_dir.held(Path(".")), run_dir.held(Path(".")):
        print("held")
"""
    assert elsewhere(code, tmp_path).endswith("held\n")


@pytest.mark.slow
def test_a_training_runs_without_posix(tmp_path: Path) -> None:
    code = """
from pggan_fast.cli import main
try:
    main("train --data faces --outdir runs --cbase 16 --cmax 4 --resolution 8 --kimg 0.02 --batch 4".split())
except SystemExit as ended:
    assert not ended.code, ended.code
"""
    elsewhere(code, tmp_path)
    assert list(tmp_path.glob("runs/*/stats.jsonl"))


SETUP = """
import platform, runpy, sys
import setuptools.build_meta  # chooses by the system that is here
from setuptools.command import bdist_wheel
name, machine, where, *arguments = sys.argv[1:]
sys.platform, platform.machine = name, lambda: machine
sys.argv = ["setup.py", "-q", *arguments]
runpy.run_path(where, run_name="__main__")
"""


def wheel_without_modules(folder: Path, system: str, machine: str, **variables: str) -> tuple[str, dict[str, Any]]:
    """The name of a wheel that such a system builds, and what it records."""
    env = {name: text for name, text in os.environ.items() if not name.startswith("PGGAN_FAST")} | variables
    command = [sys.executable, "-c", SETUP, system, machine, "setup.py", "bdist_wheel", "--dist-dir", folder / "dist"]
    done = subprocess.run(command, cwd=copied(folder), env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if name.endswith(".so")] == []
        return wheel.name, json.loads(archive.read("pggan_fast/_build.json"))


def test_a_wheel_for_any_system_is_made_on_this_one(tmp_path: Path) -> None:
    name, report = wheel_without_modules(tmp_path, "linux", "x86_64", PGGAN_FAST_CPU="0", PGGAN_FAST_CUDA="0")
    assert name.endswith("-py3-none-any.whl")
    assert {each["reason"] for each in report.values()} == {
        "built with PGGAN_FAST_CPU=0",
        "built with PGGAN_FAST_CUDA=0",
    }


@pytest.mark.parametrize(
    ("system", "machine", "pure"),
    [("win32", "AMD64", True), ("darwin", "arm64", True), ("darwin", "x86_64", True), ("linux", "aarch64", False)],
)
def test_a_wheel_for_another_platform_has_python_alone(tmp_path: Path, system: str, machine: str, pure: bool) -> None:
    """And its record says why; only where the CUDA kernels could be built too, the wheel is of that platform."""
    name, report = wheel_without_modules(tmp_path, system, machine, CUDA_HOME="/none")
    assert name.endswith("-py3-none-any.whl") == pure
    assert f"this is {system} on {machine}" in report["_cpu"]["reason"]
    assert report["_cpu"]["excluded"]
    assert report["_cuda"].get("excluded", False) == pure


def test_a_module_that_no_compiler_would_bring_has_no_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from pggan_fast.backends import cpu

    recorded = {"built": False, "reason": "it is for Linux on x86_64, this is win32 on AMD64"}
    monkeypatch.setattr(cpu, "build_report", lambda: {"_cpu": recorded})
    assert cpu.missing("_cpu", None, "buy a compiler").endswith("AMD64); buy a compiler")
    recorded["excluded"] = True
    assert cpu.missing("_cpu", None, "buy a compiler").endswith("this is win32 on AMD64)")


def test_what_a_platform_never_has_is_no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's kernels run without a warning, also where a fallback is an error; a compiler that is missing is one."""
    from pggan_fast import ops
    from pggan_fast.backends import cpu, registry

    recorded = {"built": False, "reason": "it is for Linux on x86_64, this is win32 on AMD64", "excluded": True}
    monkeypatch.setattr(cpu, "native", None)
    monkeypatch.setattr(cpu, "build_report", lambda: {"_cpu": recorded})
    monkeypatch.setenv("PGGAN_FAST_STRICT", "1")
    x = torch.randn(1, 2, 8, 8)
    registry.forget()
    try:
        assert torch.equal(ops.bias_act(x, negative_slope=0.2), torch.nn.functional.leaky_relu(x, 0.2))
        recorded["excluded"] = False
        registry.forget()
        with pytest.raises(registry.BackendUnavailable, match="install a C"):
            ops.bias_act(x, negative_slope=0.2)
    finally:
        registry.forget()
