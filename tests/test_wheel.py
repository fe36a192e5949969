"""What users install: the wheel, built from the sdist, in an environment and a folder that know nothing of this one."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from native_objects import current, recipe
from source_tree import ROOT, copied

import pggan_fast

pytestmark = pytest.mark.early

PACKAGES = {"pggan_fast": "pggan_fast", "kernels": "pggan_fast/kernels", "benchmarks": "pggan_fast/benchmarks"}
CHECK = ROOT / "scripts" / "check_install.py"


def run(*command, **options) -> str:
    done = subprocess.run(
        [str(x) for x in command], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The unpacked sdist of a clean copy of the tree."""
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder, copied(folder))
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder)
    return folder / archive.name.removesuffix(".tar.gz")


# What the tree's own build has compiled of the same sources is taken. The rest is compiled without optimisation, in a
# sixth of the time: what is tested here is not speed.
COMPILER = """#!/usr/bin/env bash
for word; do [[ $before == -o ]] && out=$word; before=$word; done
[[ -f "{built}/$out" ]] && exec cp -- "{built}/$out" "$out"
exec c++ "${{@/-O2/-O0}}"
"""


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    compiler = folder / "c++"
    compiler.write_text(COMPILER.format(built=current("_cpu", recipe.cpu_module()) or "/nowhere"))
    compiler.chmod(0o755)
    env = os.environ | {"PGGAN_FAST_CUDA": "0", "CXX": str(compiler)}
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, sdist, env=env)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """A Python with the wheel, our dependencies, and an unrelated distribution whose package is called kernels."""
    folder = tmp_path_factory.mktemp("installed")
    python = Path(run(sys.executable, ROOT / "scripts" / "borrow_venv.py", folder / "venv").strip())
    run(python, "-m", "pip", "install", "--no-index", "--no-deps", "--disable-pip-version-check", wheel)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "kernels").mkdir()
    (site / "kernels" / "__init__.py").write_text("theirs = True\n")
    return python


def modules(folder: Path) -> set[str]:
    """The module names that the tree in `folder` should install."""
    names = set()
    for source, package in PACKAGES.items():
        for path in (folder / source).rglob("*.py"):
            if path.name != "__main__.py":
                name = str(package / path.relative_to(folder / source).with_suffix("")).removesuffix("/__init__")
                names.add(name.replace("/", "."))
    return names


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_sdist_is_the_tree(sdist):
    """What a build, the tests and the documentation take, and nothing that one of them has made."""
    made = ("PKG-INFO", "setup.cfg", "pggan_fast.egg-info/")
    tree, unpacked = files_of(sdist.parent / "copy"), files_of(sdist)
    assert len(tree) > 600
    assert {name for name in tree - unpacked if not name.startswith(("typings/", *made))} <= {".gitignore"}
    assert {name for name in unpacked - tree if not name.startswith(made)} == set()


def test_the_wheel_takes_no_name_but_its_own(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    (info,) = {name.split("/")[0] for name in names} - {"pggan_fast", "pggan_fast_command.py"}
    assert info.startswith("pggan_fast-")
    assert info.endswith(".dist-info")
    assert f"{info}/licenses/LICENSE" in names
    assert f"{info}/licenses/NOTICE" in names
    assert "pggan_fast/py.typed" in names
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        notice = archive.read(f"{info}/licenses/NOTICE").decode()
    assert metadata["Version"] == pggan_fast.__version__
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert re.findall(r"\]\((?!https?://)[^)]*\.(?:md|png|json|txt)\)", metadata.get_payload()) == []
    assert metadata["License-Expression"] == "Apache-2.0 AND CC-BY-4.0"
    assert all(text in notice for text in ("faces32.npz", "Lisa Wischofsky", "CC BY 4.0"))


SECRETS = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|hf_[A-Za-z0-9]{34}")


def intruders(archive):
    """Files that are neither code of the package nor one of the few kinds of data that it brings."""
    folders = ("tests/", "test_", "results/", "typings/", "scripts/", ".git")
    code = (".py", ".so", "/py.typed", "/_build.json", "/data/faces32.npz")
    found = []
    for name in archive.namelist():
        inside = name.partition("/")[2]
        tuned = re.fullmatch(r"backends/tuned/[\w.-]+\.json", inside)
        known = name.endswith(code) or tuned or ".dist-info/" in name
        where = any(part in f"/{inside}" for part in map("/".__add__, folders)) and inside != "benchmarks/test_cases.py"
        if not known or where or SECRETS.search(archive.read(name)):
            found.append(name)
    return found


def test_the_wheel_holds_nothing_else(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        assert intruders(archive) == []
    seeded = {"pggan_fast/tests/x.py": b"", "pggan_fast/data/celeba.zip": b"", "pggan_fast/x.py": b"gho_" + b"a" * 36}
    shutil.copyfile(wheel, tmp_path / "x.whl")
    with zipfile.ZipFile(tmp_path / "x.whl", "a") as archive:
        for name, data in seeded.items():
            archive.writestr(name, data)
    with zipfile.ZipFile(tmp_path / "x.whl") as archive:
        assert intruders(archive) == list(seeded)


IMPORT_ALL = f"import runpy\nnames = runpy.run_path({str(CHECK)!r})['every_module']()\n"


def test_every_module_imports_from_the_wheel(python, tmp_path):
    names = set(run(python, "-I", "-c", IMPORT_ALL + "print(*names)", cwd=tmp_path).split())
    assert {"pggan_fast._cpu", "pggan_fast.kernels", "pggan_fast.benchmarks"} <= names
    assert modules(ROOT) - names == {"pggan_fast"}


def test_what_was_installed_is_checked(python, tmp_path):
    env = os.environ | {"HOME": str(tmp_path)}
    assert "native _cpu;" in run(python, "-I", CHECK, "_cpu", cwd=tmp_path, env=env)
    done = subprocess.run(
        [python, "-I", CHECK, "_cpu", "_cuda"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("missing: _cuda; the build recorded {")


def test_two_packages_called_kernels_live_side_by_side(python, tmp_path):
    code = "import kernels, pggan_fast.kernels as k; assert kernels.theirs; print(kernels.__file__, k.__file__)"
    theirs, ours = run(python, "-I", "-c", code, cwd=tmp_path).split()
    assert theirs.endswith("site-packages/kernels/__init__.py")
    assert ours.endswith("site-packages/pggan_fast/kernels/__init__.py")


def test_the_wheel_brings_data_command_and_version(python, tmp_path):
    code = """
import importlib.metadata, pggan_fast, pggan_fast.data
assert importlib.metadata.version("pggan-fast") == pggan_fast.__version__
print(*pggan_fast.data.faces(8).shape)"""
    assert run(python, "-I", "-c", code, cwd=tmp_path) == "1024 3 8 8\n"
    assert "bench" in run(python.parent / "pggan-fast", "--help", cwd=tmp_path)


def test_an_editable_install_finds_the_top_level_folders(tmp_path):
    code = "import pggan_fast.kernels as k, pggan_fast.benchmarks as b; print(k.__file__); print(b.__file__)"
    found = run(sys.executable, "-I", "-c", code, cwd=tmp_path).splitlines()
    assert found == [str(ROOT / "kernels" / "__init__.py"), str(ROOT / "benchmarks" / "__init__.py")]


QUIET_IMPORT = """
import os, sys
import torch
done = []
def note(event, args):
    writes = event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    acts = ("subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.mkdir", "os.rename", "socket.")
    if writes or event.startswith(acts):
        done.append((event, str(args)))
sys.addaudithook(note)
exec(sys.argv[1])
print(*done, sep="\\n", end="")
"""


@pytest.mark.parametrize("code", ["import pggan_fast", IMPORT_ALL], ids=["package", "every module"])
def test_importing_compiles_fetches_and_writes_nothing(python, tmp_path, code):
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    assert run(python, "-I", "-B", "-c", QUIET_IMPORT, code, cwd=tmp_path, env=env) == ""
    assert list(tmp_path.iterdir()) == []


def test_the_watch_over_imports_sees_faults(tmp_path):
    faults = {
        "open": "open('cache', 'w')",
        "os.mkdir": "os.mkdir('folder')",
        "subprocess.Popen": "import subprocess; subprocess.run(['true'])",
        "socket.connect": "import socket; socket.socket().connect_ex(('127.0.0.1', 9))",
    }
    seen = run(sys.executable, "-I", "-B", "-c", QUIET_IMPORT, "\n".join(faults.values()), cwd=tmp_path)
    assert [event for event in faults if f"('{event}'" not in seen] == []
