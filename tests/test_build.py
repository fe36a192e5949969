"""The build recipe: flags, reasons, incremental builds, and real compilations of small modules."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from source_tree import ROOT, copied


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("pggan_fast_build_recipe", ROOT / "csrc" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("PGGAN_FAST_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "MAX_JOBS"):
        monkeypatch.delenv(name, raising=False)


def probe(recipe, folder, text):
    source = folder / "probe.cpp"
    source.write_text(text)
    return recipe.Module([recipe.Object(source, "probe.o", recipe.cxx(), recipe.CXX_FLAGS)], recipe.cxx(), ["-shared"])


def test_every_kernel_source_is_compiled_for_every_instruction_set(recipe):
    objects = recipe.cpu_module().objects
    names = [item.name for item in objects]
    assert len(set(names)) == len(names)
    kernels = list((ROOT / "csrc" / "cpu").glob("*.cpp"))
    assert len(objects) == len(kernels) * len(recipe.ISA_FLAGS) + 1
    for item in objects:
        flags = " ".join(item.flags)
        assert not re.search(r"-march=native|-ffast-math|-fopenmp(?!-simd)", flags)
        isa = item.name.partition("/")[0]
        assert item.source.parent.name == "bind" or f"-DPGGAN_ISA={isa}" in item.flags


def test_only_the_bindings_are_of_one_python(recipe, monkeypatch):
    """Kernels are compiled once for the wheels of all Pythons: nothing of a Python is in their names or flags."""
    here = recipe.cpu_module()
    monkeypatch.setattr(recipe, "python_flags", lambda: ["-I/other"])
    monkeypatch.setattr(recipe.sysconfig, "get_config_var", {"SOABI": "cpython-399"}.get)
    there = recipe.cpu_module()
    different = [new for old, new in zip(here.objects, there.objects, strict=True) if old != new]
    assert [item.name for item in different] == ["bind.cpython-399.o"]
    assert "bind.cpython-399.o" not in {item.name for item in here.objects}


def test_kernel_sources_share_no_code_across_instruction_sets(recipe, tmp_path):
    """A weak symbol outside the namespace of its instruction set could be linked from another one's object."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm (binutils) is not installed")
    foreign = re.compile(r" [WVu] (?!.*pggan::\w+::)")
    item = next(o for o in recipe.cpu_module().objects if o.name == "baseline/minibatch_stddev.o")

    def weak_symbols(text):
        source = tmp_path / "kernel.cpp"
        source.write_text(text)
        flags = [*item.flags, f"-I{item.source.parent}"]
        subprocess.run([item.compiler, *flags, "-c", source, "-o", tmp_path / "k.o"], check=True)
        listed = subprocess.run([nm, "-C", tmp_path / "k.o"], check=True, capture_output=True, text=True).stdout
        return [line for line in listed.splitlines() if foreign.search(line)]

    assert weak_symbols(item.source.read_text()) == []
    assert weak_symbols("#include <vector>\nvoid f(std::vector<int>& v) { v.push_back(1); }") != []


def test_a_build_compiles_only_what_changed(recipe, tmp_path):
    module, output = probe(recipe, tmp_path, 'extern "C" int f() { return 1; }'), tmp_path / "made here" / "probe.so"
    recipe.build(module, tmp_path / "objects", output)
    first = output.stat().st_mtime_ns
    recipe.build(module, tmp_path / "objects", output)
    assert output.stat().st_mtime_ns == first
    recipe.build(probe(recipe, tmp_path, 'extern "C" int f() { return 2; }'), tmp_path / "objects", output)
    assert output.stat().st_mtime_ns > first


def test_a_failed_build_tells_the_compilers_words(recipe, tmp_path):
    with pytest.raises(recipe.BuildError, match=r"error: .*nonsense"):
        recipe.build(probe(recipe, tmp_path, "int f() { return nonsense; }"), tmp_path / "o", tmp_path / "p.so")
    missing = probe(recipe, tmp_path, "int f();")._replace(linker="no-such-compiler")
    with pytest.raises(recipe.BuildError, match="no-such-compiler"):
        recipe.build(missing, tmp_path / "o2", tmp_path / "p.so")


@pytest.mark.parametrize(("command", "why"), [(" ", ""), ("g++ '-O2", ": No closing quotation")])
def test_a_command_that_is_none_is_told(recipe, monkeypatch, tmp_path, command, why):
    monkeypatch.setenv("CXX", command)
    with pytest.raises(recipe.BuildError) as error:
        recipe.build(recipe.cpu_module(), tmp_path / "o", tmp_path / "p.so")
    assert str(error.value) == f"CXX: got {command!r}, expected a compiler's command{why}"


def test_a_failed_module_does_not_fail_the_install(tmp_path):
    """setup.py without a usable compiler: exit 0, no module, and the reason in _build.json."""
    copy = copied(tmp_path)
    environment = {**os.environ, "CXX": "no-such-compiler", "PGGAN_FAST_CUDA": "0"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((copy / "pggan_fast" / "_build.json").read_text())
    assert report["_cpu"]["built"] is False
    assert report["_cpu"]["reason"] == "the compiler no-such-compiler is not found"
    assert report["_cuda"]["built"] is False
    assert list((copy / "pggan_fast").glob("*.so")) == []


@pytest.fixture
def stand_in_nvcc(recipe, monkeypatch, tmp_path):
    """An nvcc that knows the architectures it is given, on a machine without a device."""
    tool = tmp_path / "bin" / "nvcc"
    tool.parent.mkdir()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(recipe, "device_capabilities", list)

    def knows(*architectures):
        words = " ".join(f"compute_{arch}" for arch in architectures)
        tool.write_text(f"#!/bin/sh\nprintf '%s\\n' {words}\n")
        tool.chmod(0o755)

    knows("75", "80", "86", "90", "90a", "100", "110", "120", "121")
    return knows


def test_cuda_is_built_for_what_was_asked_for(recipe, monkeypatch, stand_in_nvcc):
    with pytest.raises(recipe.BuildError, match="no CUDA device"):
        recipe.cuda_architectures()
    monkeypatch.setenv("PGGAN_FAST_CUDA", "1")
    assert recipe.cuda_architectures() == ["8.0", "9.0", "10.0", "12.0+PTX"]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6;9.0a 12.0+PTX")
    assert recipe.cuda_architectures() == ["8.6", "9.0a", "12.0+PTX"]
    assert recipe.excluded("_cuda") is None
    monkeypatch.setenv("PGGAN_FAST_CUDA", "0")
    assert recipe.excluded("_cuda") == "built with PGGAN_FAST_CUDA=0"
    assert recipe.gencode("12.0+PTX") == [
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]
    with pytest.raises(recipe.BuildError, match="Hopper"):
        recipe.gencode("Hopper")


@pytest.mark.parametrize(
    ("known", "devices", "native", "everywhere"),
    [
        (["80", "90", "120"], ["9.0"], ["9.0"], ["8.0", "9.0", "12.0+PTX"]),
        (["75", "80", "90"], ["7.5", "8.9", "12.0"], ["9.0+PTX"], ["8.0", "9.0+PTX"]),  # an older toolkit
        (["70", "75"], ["8.0"], "compiles for no device", "compiles for no device"),
        (["75", "80", "90"], ["7.5"], "no CUDA device of compute capability 8.0", ["8.0", "9.0+PTX"]),
    ],
)
def test_an_older_nvcc_builds_what_it_knows(recipe, monkeypatch, stand_in_nvcc, known, devices, native, everywhere):
    stand_in_nvcc(*known)
    monkeypatch.setattr(recipe, "device_capabilities", lambda: devices)
    for wanted, expected in (("", native), ("1", everywhere)):
        monkeypatch.setenv("PGGAN_FAST_CUDA", wanted)
        if isinstance(expected, str):
            with pytest.raises(recipe.BuildError, match=expected):
                recipe.cuda_architectures()
        else:
            assert recipe.cuda_architectures() == expected


def test_the_reason_for_no_cuda_is_told(recipe, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(recipe.BuildError, match="CUDA_HOME"):
        recipe.nvcc()
    if not list((ROOT / "csrc" / "cuda").glob("*.cu")):
        with pytest.raises(recipe.BuildError, match="no CUDA kernels"):
            recipe.cuda_module()


def test_a_cuda_module_compiles_through_the_recipe(recipe, monkeypatch, tmp_path):
    """A probe kernel for one architecture and PTX, linked as the module is, loads without a driver."""
    try:
        compiler = recipe.nvcc()
    except recipe.BuildError as error:
        pytest.skip(str(error))
    source = tmp_path / "probe.cu"
    source.write_text(
        "__global__ void twice(float* x) { if (x) x[threadIdx.x] *= 2; }\n"
        'extern "C" __attribute__((visibility("default"))) int run(float* x) {\n'
        "  twice<<<1, 32>>>(x);\n  return cudaGetLastError();\n}\n"
    )
    monkeypatch.setenv("PGGAN_FAST_CUDA", "1")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0+PTX")
    item = recipe.cuda_object(source, recipe.cuda_architectures())
    output = tmp_path / "probe.so"
    recipe.build(recipe.Module([item], compiler, recipe.CUDA_LINK_FLAGS), tmp_path / "objects", output)
    call = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).run(None))"
    told = subprocess.run([sys.executable, "-c", call, str(output)], check=True, capture_output=True, text=True).stdout
    assert (int(told) == 0) == bool(recipe.device_capabilities())
    needed = subprocess.run(["readelf", "-d", output], check=True, capture_output=True, text=True).stdout
    assert "NEEDED" in needed
    assert "libcuda" not in needed


def test_the_binding_compiles_where_the_kernels_do(recipe, monkeypatch):
    """By nvcc, which finds its own headers: a plain C++ compiler does not."""
    try:
        compiler = recipe.nvcc()
    except recipe.BuildError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("PGGAN_FAST_CUDA", "1")
    module = recipe.cuda_module()
    assert {item.compiler for item in module.objects} == {module.linker} == {compiler}
    monkeypatch.setenv("CXX", "g++-12")
    assert all("-ccbin=g++-12" in item.flags for item in recipe.cuda_module().objects)


def test_the_module_loads_without_a_driver():
    """And says so: the versions are what `pggan-fast info` explains the missing backend with."""
    native = pytest.importorskip("pggan_fast._cuda", reason="pggan_fast._cuda is not built here")
    assert native.runtime_version() >= 11000
    assert native.driver_version() >= 0
    if native.driver_version() == 0:
        with pytest.raises(RuntimeError, match="CUDA error in fade_reals on device 0: "):
            native.fade_reals(0, 0, 0, 0, 0, 0, 1, 3, 2, 2, False)
