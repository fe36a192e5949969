"""Every kernel of csrc/cuda compiles for every chip, is launched by what users run, and passes the gates."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import cuda_static_analysis
import pytest
from static_cuda import gate, launches, programs, record

pytestmark = pytest.mark.early

QUICK = ([86, 100], ["bfloat16", "float32"])


def violations(report: dict[str, Any]) -> str:
    return "\n".join(f"{r['kernel']} {r['chip']}: {r['violations']}" for r in report["results"] if r["violations"])


def test_every_kernel_passes_the_gates() -> None:
    report = cuda_static_analysis.analyse(QUICK[0], dtypes=QUICK[1], built=True)
    assert {row["chip"] for row in report["results"]} == {"sm_86", "sm_100"}
    assert not violations(report), violations(report)


@pytest.mark.slow
def test_every_kernel_passes_the_gates_on_every_chip() -> None:
    report = cuda_static_analysis.analyse(list(gate.RUNS))
    assert not violations(report), violations(report)


def test_built_machine_code_is_what_is_compiled() -> None:
    """The same programs, but for what only ptxas says, which is nothing here."""
    objects = programs.built_objects()
    if objects is None:
        pytest.skip("the objects of pggan_fast._cuda are not of these sources: `make test` builds them")
    source = programs.CSRC / "fade_reals.cu"
    for code in (80, 100):
        assert programs.read_built(objects, source, code) == programs.compile_cached(source, code)
    assert programs.read_built(objects, source, 75) is None


def declared(source: Path) -> set[str]:
    """Names of the kernels in a source file."""
    return set(re.findall(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(", source.read_text()))


def test_every_kernel_is_compiled_and_launched() -> None:
    names = {f"{source.stem}.{name}" for source in programs.sources() for name in declared(source)}
    assert len(names) > 20
    compiled = programs.compile_all(programs.sources(), [80], built=True)
    forms = {p.kernel for result in compiled.values() for p in result.programs}
    assert {form.partition("<")[0] for form in forms} == names
    launched = launches.by_kernel(80, QUICK[1]).keys()
    assert launched <= forms, "a launch of what is not compiled"
    assert {form.partition("<")[0] for form in launched} == names


def test_each_row_of_the_table_is_of_a_kernel() -> None:
    compiled = programs.compile_all(programs.sources(), [80], built=True)
    forms = [p.kernel for result in compiled.values() for p in result.programs]
    first = {next((i for i, must in enumerate(gate.TABLE) if re.match(must.kernel, form)), None) for form in forms}
    assert first == set(range(len(gate.TABLE)))


def test_the_launches_know_the_chip() -> None:
    """What is allowed on one is too large for another, and nothing takes more than it has asked for."""
    large, small = (launches.by_kernel(chip, ["bfloat16"]) for chip in (90, 86))

    def most(found: dict[str, list[record.Launch]]) -> int:
        return max(launch.shared for some in found.values() for launch in some)

    assert 100 * 1024 < most(large) <= 227 * 1024
    assert gate.UNASKED < most(small) <= 99 * 1024
    assert most(launches.by_kernel(90, ["bfloat16"])) == most(large), "another chip's limits are in force"
    assert all(launch.shared <= launch.opted for some in large.values() for launch in some)


@pytest.mark.slow
def test_a_launch_that_does_not_ask_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    found = launches.by_kernel(90, ["bfloat16"])
    kernel, some = next((k, n) for k, n in found.items() if any(launch.shared > gate.UNASKED for launch in n))
    (program,) = (
        p
        for result in programs.compile_all(programs.sources(), [90]).values()
        for p in result.programs
        if p.kernel == kernel
    )
    assert gate.violations(program, 90, some) == []
    mute = [record.Launch(n.kernel, n.grid, n.block, n.shared, gate.UNASKED) for n in some]
    assert any("asked for 49152" in fault for fault in gate.violations(program, 90, mute))


# The command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    def run(*options: str) -> tuple[int, Any]:
        file = tmp_path / "table.json"
        words = ["--chip", "86", "--kernel", "fade_reals", "--json", str(file), *options]
        monkeypatch.setattr(sys, "argv", ["cuda_static_analysis.py", *words])
        return cuda_static_analysis.main(), json.loads(file.read_text())

    monkeypatch.setattr(launches, "DTYPES", ("float32",))
    return run


def test_the_command_writes_its_table(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = command()
    assert (status, report["schema"], report["label"]) == (0, 1, "static analysis, compiled and not run")
    assert {"nvcc", "nvdisasm", "torch"} <= set(report["versions"])
    assert {row["kernel"].partition("<")[0] for row in report["results"]} == {"fade_reals.fade_reals_kernel"}
    row = report["results"][0]
    assert (row["chip"], row["code"]) == ("sm_86", "sm_80")
    assert 0 < row["registers"] < 256
    assert row["blocks_per_sm"] > 0
    assert "fade_reals.fade_reals_kernel" in capsys.readouterr().out


def test_the_command_fails_where_a_gate_does(
    command: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate, "violations", lambda *args: ["seeded"])
    status, report = command()
    assert status == 1
    assert all(row["violations"] == ["seeded"] for row in report["results"])
    assert "seeded" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["fade_raels", "fade_reals.typo"])
def test_the_command_refuses_the_name_of_no_kernel(
    command: Any, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        command("--kernel", name)
    assert stop.value.code == 2
    assert f"--kernel: got '{name}', no kernel's name begins so" in capsys.readouterr().err
    assert not (tmp_path / "table.json").exists()


def test_only_what_was_asked_for_is_compiled(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "compile_cached", lambda source, code: programs.Compiled(failed="ptxas fatal"))
    for name, files in (("bias_act_norm.for", ["bias_act_norm"]), ("bias_act", ["bias_act", "bias_act_norm"])):
        assert [row["kernel"] for row in command("--kernel", name)[1]["results"]] == [f"{file}.*" for file in files]


def test_a_file_that_does_not_compile_is_a_row(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "compile_cached", lambda source, code: programs.Compiled(failed="ptxas fatal"))
    status, report = command()
    assert status == 1
    assert {row["violations"][0] for row in report["results"]} == {"does not compile: ptxas fatal"}
