"""Builds the two native modules, each optional: where one cannot be built, the install goes on without it and
pggan_fast/_build.json says why (`pggan-fast info` shows it). What they consist of is in csrc/build.py.

A platform that both are excluded from gets a wheel of Python alone, py3-none-any.
"""

import json
import re
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / "csrc"), str(ROOT / "scripts")]
from long_description import long_description  # noqa: E402

import build as recipe  # noqa: E402

MODULES = {"_cpu": recipe.cpu_module, "_cuda": recipe.cuda_module}
EXCLUDED = {name: reason for name in MODULES if (reason := recipe.excluded(name)) is not None}


def write_report(folder, built):
    """_build.json in the package's folder: of the modules that were tried, and of those that are excluded."""
    report = {name: {"built": False, "reason": why, "excluded": True} for name, why in EXCLUDED.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_build.json").write_text(json.dumps({**report, **built}, indent=2) + "\n")


class NinjaBuild(build_ext):
    """Runs the recipe of each module and records how that went."""

    def run(self):
        report = {}
        for extension in self.extensions:
            name = extension.name.rpartition(".")[2]
            output = Path(self.get_ext_fullpath(extension.name))
            try:
                recipe.build(MODULES[name](), recipe.OBJECTS / name, output)
                report[name] = {"built": True}
            except (recipe.BuildError, OSError, ImportError) as error:
                output.unlink(missing_ok=True)
                report[name] = {"built": False, "reason": str(error)}
                print(f"{extension.name} is not built: {error}", file=sys.stderr)
        write_report(Path(self.get_ext_fullpath("pggan_fast._build")).parent, report)

    def get_ext_fullpath(self, ext_name):
        if self.inplace:  # beside the package's sources, wherever pip runs this from
            return str(ROOT / "pggan_fast" / Path(super().get_ext_fullpath(ext_name)).name)
        return super().get_ext_fullpath(ext_name)

    def get_output_mapping(self):
        return {}


class PythonBuild(build_py):
    """Writes the record where there is nothing to compile, and so no NinjaBuild."""

    def run(self):
        super().run()
        if not self.distribution.has_ext_modules():
            write_report(ROOT / "pggan_fast" if self.editable_mode else Path(self.build_lib, "pggan_fast"), {})


def files(*patterns):
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))


def packages():
    """Import names and their folders: kernels/ and benchmarks/ live beside pggan_fast/ and install below it."""
    folders = {"pggan_fast": "pggan_fast", "pggan_fast.kernels": "kernels", "pggan_fast.benchmarks": "benchmarks"}
    names = []
    for name, folder in folders.items():
        names += [name, *(f"{name}.{below}" for below in find_packages(str(ROOT / folder)))]
    return {"packages": names, "package_dir": folders}


def extensions():
    everything = {
        "_cpu": Extension("pggan_fast._cpu", files("csrc/cpu/*.cpp", "csrc/bind/cpu_module.cpp")),
        "_cuda": Extension("pggan_fast._cuda", files("csrc/cuda/*.cu", "csrc/bind/cuda_module.cpp")),
    }
    return [extension for name, extension in everything.items() if name not in EXCLUDED]


def found_in(file, pattern):
    match = re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)
    return match and match[1]


def readme():
    """For the index: links to the files of this version, where pyproject.toml names the repository."""
    url = found_in("pyproject.toml", r'^Source = "(https://[^"]+)"')
    version = found_in("pggan_fast/__init__.py", r'^__version__ = "(.+)"')
    text = long_description((ROOT / "README.md").read_text(), url, version)
    return {"long_description": text, "long_description_content_type": "text/markdown"}


setup(
    **packages(),
    **readme(),
    py_modules=["pggan_fast_command"],
    ext_modules=extensions(),
    cmdclass={"build_ext": NinjaBuild, "build_py": PythonBuild},
)
