"""SECURITY.md's tests exist; texts of files stay texts on the terminal; what is written over nothing else."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pggan_fast import cli, networks
from pggan_fast.errors import printable
from pggan_fast.models import Generator
from pggan_fast.networks import Networks

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ESCAPE = "\x1b]0;owned\x07\x9b2J\u202e[/x]"


def missing(text: str) -> list[str]:
    """Tests that the text names and that are in no file."""
    defined: dict[str, set[str]] = {}
    for file, _ in NAMED.findall(text):
        path = ROOT / file
        nodes = ast.walk(ast.parse(path.read_text())) if path.is_file() else ()
        defined[file] = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    return [f"{file}::{name}" for file, name in NAMED.findall(text) if name not in defined[file]]


def test_every_test_that_is_named_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    rows = [row for row in text.splitlines() if row.startswith("| ") and not row.startswith("| Threat")]
    assert len(rows) >= 20
    assert [row for row in rows if not NAMED.search(row)] == []
    assert missing(text) == []


def test_one_that_does_not_would_be_found() -> None:
    here = "tests/test_security.py"
    text = f"`{here}::test_every_test_that_is_named_exists` `{here}::test_none` `tests/none.py::test_x`"
    assert missing(text) == [f"{here}::test_none", "tests/none.py::test_x"]


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return int(stop.value.code or 0)


def hostile_files(folder: Path) -> list[tuple[str, ...]]:
    """Commands that show texts of files which hold ESCAPE wherever a text may stand."""
    row = {"case": f"G.{ESCAPE}", "provider": ESCAPE, "resolution": 8, "batch": 4, "dtype": ESCAPE, "device": ESCAPE}
    rows = [{**row, "reason": ESCAPE}, {**row, "median_s": 1.0, "mode": ESCAPE, "bound": ESCAPE, "ratio": 2.0}]
    run = {"schema": 1, "machine": {"device": ESCAPE, ESCAPE: ESCAPE}, "versions": {"torch": ESCAPE},
           "commit": ESCAPE, "preset": ESCAPE, "results": rows}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "wrong.json").write_text(json.dumps({**run, "schema": ESCAPE}))
    about = {"schema": 1, "networks": {"G": {"resolution": 8, ESCAPE: 1}}}
    save_file({"G.x": torch.ones(1)}, folder / "x.safetensors", {"pggan_fast": json.dumps(about)})
    torch.save({"schema": ESCAPE}, folder / "state.pt")
    torch.save({ESCAPE: torch.ones(1), "n": {ESCAPE: 1}}, folder / "other.pt")
    (folder / "images").mkdir()
    (folder / "images" / f"{ESCAPE.replace('/', '')}.png").write_bytes(b"no image")
    made = Networks(
        G=Generator(8, fmap_base=16, fmap_max=4, latent_dim=3), source={"resolution": ESCAPE, "run": ESCAPE}
    )
    networks.save(folder / "source.safetensors", made)
    return [
        ("bench", "report", str(folder / "run.json"), "--out", str(folder / "page")),
        ("bench", "compare", str(folder / "run.json"), str(folder / "run.json")),
        ("bench", "compare", str(folder / "wrong.json"), str(folder / "run.json")),
        ("generate", "--network", str(folder / "x.safetensors"), "--seeds", "0", "--outdir", str(folder / "o")),
        ("generate", "--network", str(folder / "source.safetensors"), "--seeds", "0", "--outdir", str(folder / "o")),
        ("convert", str(folder / "other.pt"), str(folder / "y.safetensors")),
        ("train", "--data", "faces", "--resume", str(folder / "state.pt"), "--outdir", str(folder / "runs")),
        ("data", "info", str(folder / "images")),
        ("data", "verify", str(folder / "images")),
        ("data", "convert", "--source", str(folder / "images"), "--dest", str(folder / "z.zip"), "--workers", "1"),
    ]


def test_no_text_of_a_file_reaches_the_terminal_as_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in hostile_files(tmp_path):
        status = run(*words)
        said = capsys.readouterr()
        assert status in (0, 1, 2)
        assert said.out + said.err != "", words
        bad = {c for c in said.out + said.err if not c.isprintable() and c not in "\n\r"}
        assert not bad, (words, bad, said)


@pytest.mark.parametrize("value", [ESCAPE, [ESCAPE], {ESCAPE: ESCAPE}, {"a": [{"b": ESCAPE}]}, "\ud800"])
def test_printable(value: Any) -> None:
    assert not json.dumps(value, ensure_ascii=False).replace('"', "").isprintable() or value == "\ud800"
    assert json.dumps(printable(value), ensure_ascii=False).isprintable()
    assert printable("a\nb\té") == "a\nb\té"
