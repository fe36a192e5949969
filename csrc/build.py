"""How the native modules are compiled: a ninja file is written and run. Imports neither torch nor the package.

Environment: CXX, CUDA_HOME, TORCH_CUDA_ARCH_LIST, MAX_JOBS as usual; PGGAN_FAST_CUDA=1 builds the CUDA kernels without
a CUDA device too, 0 never builds them; PGGAN_FAST_CPU=0 never builds the CPU kernels.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

CSRC = Path(__file__).resolve().parent
# Of each module in a folder of its name. Not pip's temporary folder, so that the next build compiles only what changed,
# for another Python the bindings.
OBJECTS = CSRC.parent / "build" / f"native-{sysconfig.get_platform()}"

# The variable that switches each module off, and the machines under Linux that it is built for. Elsewhere nobody has
# measured that it is faster than torch's own kernels, which run everywhere.
MODULES = {"_cpu": ("PGGAN_FAST_CPU", ("x86_64",)), "_cuda": ("PGGAN_FAST_CUDA", ("x86_64", "aarch64"))}

# No OpenMP runtime, only its simd pragmas; sums may be reordered only where a pragma says so (no -ffast-math).
# -O2 with the vectoriser: -O3 measured no faster here and takes three times as long to compile.
CXX_FLAGS = ["-std=c++17", "-O2", "-ftree-loop-vectorize", "-fvect-cost-model=dynamic", "-fopenmp-simd"]
CXX_FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
KERNEL_FLAGS = ["-fno-exceptions", "-fno-rtti"]
# ninja begins with what stands first: what takes longest, or one core would end with it alone.
SLOW_SOURCES = ("generator_stage", "tiled_conv", "tiled_conv_weight_grad", "tiles")
_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
ISA_FLAGS = {
    "baseline": [],
    "avx2": _AVX2,
    "avx512": [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"],
}
# The static runtime loads without a driver and next to any other CUDA runtime, torch's own included.
CUDA_LINK_FLAGS = ["-shared", "-cudart=static", "-Xlinker=-s"]
CUDA_ARCHITECTURES = ("8.0", "9.0", "10.0", "12.0")
# A spill is no error here: another nvcc than ours may spill, and its user gets slower kernels rather than none.
# tests/static_cuda holds the kernels to it.
NVCC_FLAGS = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden"]


class BuildError(RuntimeError):
    """A module cannot be built; the message says why in a few lines."""


class Object(NamedTuple):
    source: Path
    name: str
    compiler: str
    flags: list[str]


class Module(NamedTuple):
    objects: list[Object]
    linker: str
    link_flags: list[str]


def excluded(name: str) -> str | None:
    """Why a module is not built here, whatever compilers there are; None where it is to be tried."""
    variable, machines = MODULES[name]
    if os.environ.get(variable) == "0":
        return f"built with {variable}=0"
    if sys.platform == "linux" and platform.machine() in machines:
        return None
    return f"it is for Linux on {' or '.join(machines)}, this is {sys.platform} on {platform.machine()}"


def cxx() -> str:
    return os.environ.get("CXX") or "c++"


def python_flags() -> list[str]:
    """Include flags for the pybind11 modules."""
    import pybind11

    return [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]


def binding_name() -> str:
    """Of the only object that is of one Python: the others serve every wheel that is built in a folder."""
    return f"bind.{sysconfig.get_config_var('SOABI')}.o"


def cpu_module() -> Module:
    """pggan_fast._cpu: every kernel source once per instruction set, and the bindings."""
    compiler = cxx()
    sources = sorted((CSRC / "cpu").glob("*.cpp"), key=lambda source: (source.stem not in SLOW_SOURCES, source.stem))
    binding = CSRC / "bind" / "cpu_module.cpp"
    objects = [Object(binding, binding_name(), compiler, [*CXX_FLAGS, *python_flags()])]
    objects += [
        Object(source, f"{isa}/{source.stem}.o", compiler,
               [*CXX_FLAGS, *KERNEL_FLAGS, f"-DPGGAN_ISA={isa}", *ISA_FLAGS[isa]])
        for source in sources
        for isa in ISA_FLAGS
    ]  # fmt: skip
    return Module(objects, compiler, ["-shared", "-Wl,-s"])


def cuda_module() -> Module:
    """pggan_fast._cuda: the kernels of csrc/cuda and their bindings. Raises BuildError with the reason where it
    should not or cannot be built here."""
    sources = sorted((CSRC / "cuda").glob("*.cu"))
    if not sources:
        raise BuildError("this version has no CUDA kernels")
    architectures = cuda_architectures()
    # The largest take longest: they begin first, so that none is compiled alone at the end
    sources.sort(key=lambda source: -source.stat().st_size)
    objects = [cuda_object(source, architectures) for source in sources]
    binding = CSRC / "bind" / "cuda_module.cpp"  # by nvcc too, which knows where its headers are
    flags = [*NVCC_FLAGS, "-Xcompiler=-Wall,-Wextra", *host_compiler(), *python_flags()]
    objects.append(Object(binding, binding_name(), nvcc(), flags))
    return Module(objects, nvcc(), [*CUDA_LINK_FLAGS, *host_compiler()])


def cuda_object(source: Path, architectures: list[str]) -> Object:
    flags = [*NVCC_FLAGS, "-Xfatbin=-compress-all", *host_compiler()]  # to a third of its size
    flags += [flag for arch in architectures for flag in gencode(arch)]
    return Object(source, f"{source.stem}.cu.o", nvcc(), flags)


def host_compiler() -> list[str]:
    """Which C++ compiler nvcc calls, where it should not choose itself."""
    return [f"-ccbin={cxx()}"] if os.environ.get("CXX") else []


def nvcc() -> str:
    """The CUDA compiler: of CUDA_HOME, else on the PATH, else in /usr/local/cuda."""
    home = os.environ.get("CUDA_HOME")
    found = shutil.which("nvcc", path=f"{home}/bin") if home else shutil.which("nvcc")
    found = found or (None if home else shutil.which("nvcc", path="/usr/local/cuda/bin"))
    if found is None:
        where = f"in CUDA_HOME={home}" if home else "on the PATH; set CUDA_HOME"
        raise BuildError(f"no nvcc {where}")
    return found


def cuda_architectures() -> list[str]:
    """What to compile for: TORCH_CUDA_ARCH_LIST, else every default with PGGAN_FAST_CUDA=1, else the devices here."""
    wanted = os.environ.get("PGGAN_FAST_CUDA", "")
    nvcc()
    devices = [device for device in device_capabilities() if float(device) >= 8.0]
    if not devices and wanted != "1":
        raise BuildError(
            "no CUDA device of compute capability 8.0 or newer here; PGGAN_FAST_CUDA=1 builds the CUDA kernels anyway"
        )
    listed = re.split(r"[\s;,]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip())
    if listed != [""]:
        return listed
    known = known_architectures()
    if wanted == "1":
        chosen = [arch for arch in CUDA_ARCHITECTURES if arch in known]
        return [*chosen[:-1], f"{chosen[-1]}+PTX"]
    return sorted({arch if arch in known else f"{known[-1]}+PTX" for arch in devices})


def known_architectures() -> list[str]:
    """What this nvcc compiles for, oldest first; newer devices compile its PTX when they load it."""
    told = subprocess.run([nvcc(), "--list-gpu-arch"], capture_output=True, text=True, check=False).stdout
    known = sorted({int(number) for number in re.findall(r"compute_(\d+)$", told, re.MULTILINE)})
    if not known or known[-1] < 80:
        raise BuildError(f"{nvcc()} compiles for no device that the kernels run on; CUDA 11.0 or newer does")
    return [f"{number // 10}.{number % 10}" for number in known]


def device_capabilities() -> list[str]:
    """The compute capabilities of the CUDA devices here, by the driver's tool; empty where there are none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=compute_cap", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    return sorted(set(re.findall(r"^\d+\.\d+$", told.stdout, re.MULTILINE))) if told.returncode == 0 else []


def gencode(architecture: str) -> list[str]:
    """nvcc's flags for "9.0", "9.0a" or "12.0+PTX"."""
    match = re.fullmatch(r"(\d+)\.(\d+[a-z]?)(\+PTX)?", architecture)
    if match is None:
        raise BuildError(f"TORCH_CUDA_ARCH_LIST: {architecture!r} is no architecture such as 9.0 or 12.0+PTX")
    number = match[1] + match[2]
    flags = [f"-gencode=arch=compute_{number},code=sm_{number}"]
    if match[3]:
        flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def ninja_file(module: Module, output: Path) -> str:
    """The text of the build.ninja that compiles and links `module` into `output`."""
    lines = [
        "ninja_required_version = 1.3",
        "rule compile",
        "  command = $compiler $flags -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        "  command = $compiler $in $flags -o $out",
    ]
    for item in module.objects:
        lines += [f"build {item.name}: compile {_path(item.source)}", *_variables(item.compiler, item.flags)]
    lines.append(f"build {_path(output)}: link {' '.join(item.name for item in module.objects)}")
    lines += _variables(module.linker, module.link_flags)
    return "\n".join(lines) + "\n"


def _path(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def _variables(compiler: str, flags: list[str]) -> list[str]:
    quoted = " ".join(f"'{flag}'" if re.search(r"\s", flag) else flag for flag in flags)
    return [f"  compiler = {compiler}", f"  flags = {quoted.replace('$', '$$')}"]


def build(module: Module, folder: Path, output: Path) -> None:
    """Compile `module` in `folder` and link it into `output`; only what changed is compiled again.

    Raises BuildError with the last lines of the first command that failed.
    """
    for compiler in {item.compiler for item in module.objects} | {module.linker}:
        program = _program(compiler)
        if shutil.which(program) is None:
            raise BuildError(f"the compiler {program} is not found")
    folder.mkdir(parents=True, exist_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    (folder / "build.ninja").write_text(ninja_file(module, output.resolve()))
    command = [sys.executable, "-m", "ninja", "-C", str(folder)]
    if os.environ.get("MAX_JOBS"):
        command += ["-j", os.environ["MAX_JOBS"]]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout)
    if done.returncode != 0:
        raise BuildError(last_words(done.stdout))


def _program(compiler: str) -> str:
    """The first word of a compiler's command: CXX may have options, or begin with ccache."""
    try:
        return shlex.split(compiler)[0]
    except (ValueError, IndexError) as error:  # a quotation without its end; blanks alone
        told = f": {error}" if isinstance(error, ValueError) else ""
        raise BuildError(f"CXX: got {compiler!r}, expected a compiler's command{told}") from None


def last_words(output: str, lines: int = 6) -> str:
    """The lines of a failed build's output that say most: those with errors, else the last ones."""
    told = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in told if re.search(r"\b(error|not found|No module)\b", line)]
    return "\n".join((errors or told)[-lines:]) or "the build said nothing"


if __name__ == "__main__":  # for scripts/build_cuda.sh: which nvcc; where there is none, why, and status 1
    try:
        print(nvcc())
    except BuildError as error:
        print(error)
        sys.exit(1)
