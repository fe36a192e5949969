"""Measured plans: kept in one file per device and version, whole or not at all, and never measured unasked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from pggan_fast.kernels.configs import ConvPlan, ConvProblem, bucketed, conv_plans

from pggan_fast.backends.triton import tuning

CPU = torch.device("cpu")
PROBLEM = ConvProblem(4096, 1, 512, 4608, 512, 2, True, True, 227 * 1024)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PGGAN_FAST_CACHE", str(tmp_path))
    tuning.forget()
    yield tmp_path
    tuning.forget()


def tune(problem: ConvProblem = PROBLEM, aten: float = 3.0, fastest: int = 1) -> tuning.Measured:
    """With a clock of its own: candidate number `fastest` takes 1 s, the others 2."""
    plans = conv_plans(problem)
    took: dict[Any, float] = dict.fromkeys(plans, 2.0) | {plans[fastest]: 1.0}
    ran: list[ConvPlan | None] = []

    def seconds(f: Callable[[], Any]) -> float:
        f()
        return aten if ran[-1] is None else took[ran[-1]]

    return tuning.tune("conv", problem, CPU, plans, ran.append, lambda: ran.append(None), seconds)


def test_without_a_measurement_the_first_candidate_runs_and_aten_is_automatic() -> None:
    plans = conv_plans(PROBLEM)
    assert tuning.plan_for("conv", PROBLEM, CPU, plans) == plans[0]
    assert not tuning.beats_aten("conv", PROBLEM, CPU)


def test_the_fastest_plan_runs_from_then_on() -> None:
    plans = conv_plans(PROBLEM)
    assert len(plans) > 1
    assert tune().plan == plans[1]
    assert tuning.plan_for("conv", PROBLEM, CPU, plans) == plans[1]
    assert tuning.beats_aten("conv", PROBLEM, CPU)
    near, far = (bucketed(PROBLEM._replace(pixels=n)) for n in (3000, 10000))
    assert tuning.beats_aten("conv", near, CPU)
    assert not tuning.beats_aten("conv", far, CPU)
    assert not tuning.beats_aten("conv_weight_grad", PROBLEM, CPU)


def test_a_slower_kernel_is_not_automatic() -> None:
    tune(aten=0.5)
    assert not tuning.beats_aten("conv", PROBLEM, CPU)


def test_measurements_add_up_and_other_processes_read_them(cache: Path) -> None:
    tune()
    tune(PROBLEM._replace(channels=64))
    (path,) = cache.iterdir()
    assert len(json.loads(path.read_text())["entries"]) == 2
    code = (
        "import torch; from pggan_fast.backends.triton import tuning;"
        "print(len(tuning.load(tuning.device_key(torch.device('cpu')))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"schema": 1', '"schema": 2'),
        lambda text: text.replace(torch.__version__, "1.0"),
        lambda text: text.replace('"splits"', '"parts"'),
        lambda text: re.sub(r'"entries": {.*}', '"entries": []}', text, flags=re.S),
        lambda text: re.sub(r'"config": .\s*\d+', '"config": [Infinity', text),
        lambda text: text + "\xff",
    ],
    ids=["cut", "form", "schema", "version", "a key missing", "a list", "infinite", "not UTF-8"],
)
def test_a_file_that_cannot_be_used_is_ignored_and_named(cache: Path, spoil: Callable[[str], str]) -> None:
    tune()
    (path,) = cache.iterdir()
    path.write_text(spoil(path.read_text()), encoding="latin-1")
    tuning.forget()
    with pytest.warns(RuntimeWarning, match=str(path)):
        assert not tuning.beats_aten("conv", PROBLEM, CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once: the answer is kept
        assert not tuning.beats_aten("conv", PROBLEM, CPU)
    with pytest.warns(RuntimeWarning, match=str(path)):
        tune()
    assert tuning.beats_aten("conv", PROBLEM, CPU)


def test_a_plan_that_is_no_candidate_any_more_is_passed_over() -> None:
    tune()
    plans = conv_plans(PROBLEM)
    assert tuning.plan_for("conv", PROBLEM, CPU, plans[:1]) == plans[0]


def test_a_failed_write_leaves_the_old_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tune()
    (path,) = cache.iterdir()
    before = path.read_text()

    def fail(*args: Any, **options: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("json.dump", fail)
    with pytest.raises(OSError, match="no space"):
        tune(PROBLEM._replace(channels=64))
    assert path.read_text() == before
    assert list(cache.iterdir()) == [path]


def test_nothing_is_measured_in_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="tune before the capture"):
        tuning.tune("conv", PROBLEM, torch.device("cuda"), [], id, id, lambda f: 0.0)
