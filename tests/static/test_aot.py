"""The recorder sees what the JIT would compile, and every kernel of the package compiles and passes the gates."""

from __future__ import annotations

import ast
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import static_analysis
import torch
from pggan_fast.kernels import launch as launching
from static import aot, faulty, gate, networks, record
from static.model_launches import launches_of, model_launches, op_launches

pytestmark = pytest.mark.early

KERNELS = Path(launching.__file__).parent
QUICK = (80, 100)
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def meta(*shape, dtype=F32):
    return torch.empty(shape, dtype=dtype, device="meta")


def jobs_of(*runs, cc=80):
    with record.recorded() as launches:
        for run in runs:
            run()
    return list(record.unique(launches, cc))


# The recorder


def test_launches_are_recorded_and_not_run():
    real = launching.launch
    x = torch.ones(64)
    with record.recorded() as launches:
        faulty.scale(x, x, 2.0)
        faulty.scale(x[:0], x[:0], 2.0)  # an empty grid launches nothing
    assert torch.equal(x, torch.ones(64))
    assert [(launch.grid, launch.shapes) for launch in launches] == [((1,), "x [64], y [64]")]
    assert faulty.launch is launching.launch is real


def test_arguments_become_what_the_jit_would_compile_for():
    (job,) = jobs_of(lambda: faulty.scale(meta(48, dtype=F16), meta(48), 2.0))
    assert dict(job.signature) == {
        "x": "*fp16", "y": "*fp32", "scale": "fp32", "N": "i32", "STRIDE": "constexpr", "B": "constexpr"
    }  # fmt: skip
    assert dict(job.constants) == {(4,): 1, (5,): 1024}
    assert [path for path, _ in job.attributes] == [(0,), (1,), (3,)]  # both pointers, and N = 48
    assert dict(job.options) == {"enable_fp_fusion": True, "num_warps": 4}


def test_only_what_is_compiled_for_makes_another_program():
    def run(n=48, factor=2.0, dtype=F32, first=0):
        return lambda: faulty.scale(meta(n + first, dtype=dtype)[first:], meta(n, dtype=dtype), factor)

    assert len(jobs_of(run(), run(n=64), run(factor=3.0))) == 1
    for other in (run(n=49), run(n=1), run(dtype=F16), run(first=1)):
        assert len(jobs_of(run(), other)) == 2
    with record.recorded() as launches:
        run()()
    assert record.specialise(launches[0], 80) != record.specialise(launches[0], 90)


def test_the_size_of_an_integer_decides_its_type():
    large = record.Launch(faulty.scale_kernel, (1,), (meta(8), meta(8), 1.0, 2**31, 1, 64), {})
    assert dict(record.specialise(large, 80).signature)["N"] == "i64"


# The package


def entries(folder):
    """Kernels that a file of `folder` launches, as "file.kernel"."""
    found = set()
    for path in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "launch":
                found.add(f"{path.stem}.{node.args[0].id}")
    return found


@functools.cache
def recorded_launches(cc):
    return model_launches(BF16, cc, (8, 64)) + op_launches(BF16, cc)


def test_every_kernel_is_among_the_launches():
    names = {job.name for job in record.unique(recorded_launches(80), 80)}
    assert names == entries(KERNELS)
    assert {f"faulty.{name}_kernel" for name in ("scale", "sort", "product")} == entries(Path(faulty.__file__).parent)


def test_the_gates_know_every_kernel_and_no_other():
    assert set(gate.MAIN) <= entries(KERNELS)


def violations(report):
    rows = [r for r in report["results"] if r["violations"]]
    return "\n".join(f"{r['kernel']} {r['arch']} {r['dtype']} {r['shapes']}: {r['violations']}" for r in rows)


@pytest.mark.slow
def test_kernels_compile_without_biases():
    """Such programs are few of all, and what they lack is None, of which Triton compiles other branches."""
    launches = launches_of(lambda: networks.unbiased(BF16), 80)
    programs = aot.compile_all(record.unique(launches, 80))
    assert {job.kernel for job in programs} >= {"forward_kernel", "blend_rgb"}
    assert [program.failed for program in programs.values() if program.failed] == []


@pytest.mark.parametrize("cc", QUICK)
def test_a_program_of_each_kernel_passes_the_gates(cc):
    report = static_analysis.analyse(["bfloat16"], [cc], [64], each=1)
    assert {row["kernel"] for row in report["results"]} == entries(KERNELS)
    assert not violations(report), violations(report)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float32-ieee"])
@pytest.mark.parametrize("cc", gate.COMPILED)
def test_programs_of_the_networks_pass_the_gates(cc, dtype):
    """A selection; `scripts/static_analysis.py` compiles them all."""
    report = static_analysis.analyse([dtype], [cc], [2**i for i in range(2, 11)], each=12 if dtype == "bfloat16" else 4)
    assert not violations(report), violations(report)


@pytest.mark.slow
@pytest.mark.parametrize(("cc", "dtype"), [(75, "float16"), (86, "bfloat16"), (89, "bfloat16")])
def test_tiles_fit_the_smaller_chips(cc, dtype):
    """Triton has no tensor-core products for sm_75: there only the memory-bound kernels are held to anything."""
    report = static_analysis.analyse([dtype], [cc], [16, 256], each=3)
    report["results"] = [r for r in report["results"] if cc > 75 or not r["tensor_cores_required"]]
    assert report["results"]
    assert not violations(report), violations(report)


# The command


@pytest.fixture
def command(monkeypatch, tmp_path):
    def run(*options):
        file = tmp_path / "table.json"
        words = [
            "--arch",
            "80",
            "--dtype",
            "bfloat16",
            "--resolution",
            "8",
            "--kernel",
            "fade_reals",
            "--json",
            str(file),
        ]
        monkeypatch.setattr(sys, "argv", ["static_analysis.py", *words, *options])
        return static_analysis.main(), json.loads(file.read_text())

    return run


def test_the_command_writes_its_table(command, capsys):
    status, report = command()
    assert (status, report["schema"], report["label"]) == (0, 1, "static analysis, compiled and not run")
    assert {"triton", "ptxas", "torch"} <= set(report["versions"])
    assert {r["kernel"] for r in report["results"]} == {"fade_reals.blend_means"}
    row = report["results"][0]
    assert row["arch"] == "sm_80"
    assert 0 < row["registers"] < 256
    assert row["blocks_per_sm"] > 0
    assert row["instructions"]["wide_loads"] > 0
    assert "fade_reals.blend_means" in capsys.readouterr().out


def test_the_command_refuses_the_name_of_no_kernel(command, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        command("--kernel", "fade_raels")
    assert stop.value.code == 2
    assert "--kernel: got 'fade_raels', which is in the name of no kernel" in capsys.readouterr().err
    assert not (tmp_path / "table.json").exists()


def test_the_command_fails_where_a_gate_does(command, monkeypatch, capsys):
    monkeypatch.setattr(gate, "violations", lambda *args: ["seeded"])
    status, report = command()
    assert status == 1
    assert all(r["violations"] == ["seeded"] for r in report["results"])
    assert "seeded" in capsys.readouterr().out


OLDEST = Path(__file__).parents[2] / "build" / "triton-3.6"


@pytest.mark.slow
@pytest.mark.skipif(not OLDEST.exists(), reason=f"needs Triton 3.6 in {OLDEST}, where `make test-long` puts it")
def test_the_oldest_triton_compiles_them_too(tmp_path):
    report = tmp_path / "report.json"
    command = [sys.executable, static_analysis.__file__, "--each", "2", "--arch", "80", "90", "--json", str(report)]
    environment = os.environ | {"PYTHONPATH": str(OLDEST), "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    found = json.loads(report.read_text())
    assert found["versions"]["triton"].startswith("3.6.")
    assert {row["kernel"] for row in found["results"]} == entries(KERNELS)
