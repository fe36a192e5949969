import json
import shutil
from pathlib import Path

import pytest
from pggan_fast.benchmarks import readme

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()


def test_the_figures_are_those_of_the_committed_results():
    assert readme.rewritten(TEXT, ROOT) == TEXT, "python -m pggan_fast.benchmarks.readme rewrites them"


@pytest.mark.parametrize("name", list(readme.FIGURES))
def test_a_figure_that_drifted_is_found(name):
    start = TEXT.index(f"<!--f:{name}-->") + len(f"<!--f:{name}-->")
    at = next(i for i in range(start, len(TEXT)) if TEXT[i].isdigit())
    drifted = TEXT[:at] + str((int(TEXT[at]) + 1) % 10) + TEXT[at + 1 :]
    assert readme.rewritten(drifted, ROOT) == TEXT


def test_other_results_are_other_figures(tmp_path):
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    path = tmp_path / "benchmarks" / "results" / "cpu-peers.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    plain, fused = (
        next(row for row in lines if (row.get("case"), row.get("provider")) == ("wsconv.step", who))
        for who in ("eager", "auto")
    )
    fused["samples"] = [seconds / 9.87 for seconds in plain["samples"]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "<!--f:swap-wsconv-->9.87 (" in readme.rewritten(TEXT, tmp_path)


def test_marks_that_are_missing_or_unknown_are_errors():
    with pytest.raises(ValueError, match="expected the figures"):
        readme.rewritten(TEXT.replace("<!--f:training-->", ""), ROOT)
    with pytest.raises(ValueError, match="expected the figures"):
        readme.rewritten(TEXT + "<!--f:other-->1<!--/f-->", ROOT)


def test_marks_do_not_break_paragraphs():
    """A line that begins with a comment is a block of its own in Markdown: only a table's marks may."""
    lines = TEXT.splitlines()
    assert [line for line in lines if line.startswith("<!--")] == [
        "<!--f:quick-->", "<!--/f-->", "<!--f:gpu-training-->", "<!--/f-->"
    ]  # fmt: skip
