"""The packages that users install, not copies of their structure: fetched from the index, fused, compared."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pggan_fast.benchmarks import schema

PACKAGES = {"pro-gan-pth": "3.4", "gan-lab": "0.4.2"}  # neither runs on today's torch with what it asks for
PROGRAM = Path(__file__).with_name("real_packages_program.py")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=PACKAGES)
def package(request, tmp_path_factory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--disable-pip-version-check", "--retries", "1"]
    command += ["--target", str(folder), f"{request.param}=={PACKAGES[request.param]}"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode and ("Connection" in done.stderr or "No matching distribution" in done.stderr):
        pytest.skip(f"the index cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return request.param, folder


@pytest.mark.slow
def test_installed_networks_fuse_whole(package):
    name, folder = package
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)}
    command = [sys.executable, "-W", "ignore", str(PROGRAM), name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=env, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "agree" in done.stdout


@pytest.mark.slow
def test_installed_networks_are_measured(package, tmp_path):
    name, folder = package
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    }
    file = tmp_path / "run.jsonl"
    arguments = ["bench", "--cases", f"{name}.D.forward", f"{name}.G.forward", "--resolution", "8", "--batch", "4"]
    arguments += ["--repeats", "3", "--providers", "auto", "--out", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "pggan_fast.cli", *arguments], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    rows = schema.read(file).results
    assert {row.provider for row in rows if row.median_s} == {"auto", "eager", "eager_again"}
