"""The pages of docs/ and the README: their Python runs, their commands exist, what they say is printed is printed."""

from __future__ import annotations

import collections
import re
import types
from pathlib import Path

import doc_blocks
import pytest
from doc_blocks import ROOT, blocks, check_command, check_inline, command_lines, inline_commands, run_page

import pggan_fast
from pggan_fast import convert, data, metrics, models, ops, swap
from pggan_fast.models import Discriminator, Generator

DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
BESIDE = ["README.md", "CONTRIBUTING.md", "csrc/cpu/README.md", "csrc/cuda/README.md", "kernels/README.md"]
# Blocks that no test runs, by their reason; their commands are still held to the command line, their Python compiles.
NOT_RUN = {"takes minutes": 4, "needs several processes": 1}


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs(page: str, own_folder: Path) -> None:
    run_page(page, (DOCS / page).read_text())


# What the README's blocks take for granted, and what of them would take minutes
TAKEN = """
import zipfile
import torch
import pggan_fast
from pggan_fast.data import faces
from pggan_fast.pictures import grid

x, z, model = torch.randn(1, 512, 4, 4), torch.randn(4, 512), torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, padding=1))
loader, saved = [torch.rand(4, 3, 64, 64) * 2 - 1], []
save = saved.append
grid([faces(32)[0].repeat_interleave(2, 1).repeat_interleave(2, 2)]).save("0.png")
with zipfile.ZipFile("clipart.zip", "w") as archive:
    for number in range(20):
        archive.write("0.png", f"{number}.png")
"""
SHORTER = {"stream(50_000, 64": "stream(6, 4"}


def test_the_readme_runs(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for network in (Generator, Discriminator):  # the README's networks, narrower
        monkeypatch.setitem(network.__init__.__kwdefaults__, "fmap_max", 16)
    text = (ROOT / "README.md").read_text()
    for long, short in SHORTER.items():
        assert long in text
        text = text.replace(long, short)
    page = doc_blocks.Page("README.md")
    exec(TAKEN, page.scope)
    run = [block for block in blocks("README.md", text) if block.language == "python"]
    for block in run:
        page.run(block)
    assert len(run) > 6
    assert sum(map(len, page.scope["saved"])) == 6


@pytest.mark.parametrize("page", [*(f"docs/{page}" for page in PAGES), *BESIDE])
def test_commands_within_sentences_exist(page: str) -> None:
    for command in inline_commands((ROOT / page).read_text()):
        check_inline(command)


@pytest.mark.parametrize("page", BESIDE)
def test_commands_that_others_show_exist(page: str) -> None:
    """These have no marks for languages: what is typed begins with a prompt or a name of ours."""
    for block in blocks(page, (ROOT / page).read_text()):
        if block.language == "":
            for words in command_lines(block.text, prompt=True):
                check_command(words)


def test_every_block_has_a_language_and_few_are_not_run() -> None:
    every = [block for page in PAGES for block in blocks(page, (DOCS / page).read_text())]
    odd = [f"{block.where}: {block.language!r}" for block in every if block.language not in doc_blocks.LANGUAGES]
    assert not odd
    assert collections.Counter(block.not_run for block in every if block.not_run is not None) == NOT_RUN


def test_no_fence_escapes() -> None:
    for page in PAGES:
        text = (DOCS / page).read_text()
        assert len(re.findall(r"^ *```", text, re.M)) == 2 * len(blocks(page, text)), page


# What torch and compilers say
OTHERS_SAY = {"does not currently support double backward", "Python.h: No such file", "pip install ."}


def quoted_messages(text: str) -> list[str]:
    """What the terms of a definition list quote, the parts between dots that stand for names and numbers."""
    terms = re.findall(r"^(.+)\n:   ", text, re.M)
    spans = [span for term in terms for span in re.findall(r"`([^`]+)`", term) if " " in span]
    return [part.strip() for span in spans if span not in OTHERS_SAY for part in span.split("...") if part.strip()]


def not_said(messages: list[str]) -> list[str]:
    """Those that stand in no source."""
    folders = [ROOT / "pggan_fast", ROOT / "scripts"]
    sources = "".join(p.read_text() for f in folders for p in [*f.rglob("*.py"), *f.glob("*.sh")])
    said = re.sub(r'"\s*\n\s*f?"', "", sources)  # texts over several lines
    return [message for message in messages if message not in said]


def test_messages_that_are_quoted_are_those_of_the_sources() -> None:
    messages = quoted_messages((DOCS / "troubleshooting.md").read_text())
    assert len(messages) > 8
    assert not_said([m for m in messages if not m.startswith("pggan-fast ")]) == []
    assert not_said(["the one after is taken"]) == ["the one after is taken"]


@pytest.mark.parametrize("module", [pggan_fast, convert, data, metrics, models, ops, swap])
def test_every_public_name_has_its_place_in_the_api(module: types.ModuleType) -> None:
    pages = "".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    names = [name for name in module.__all__ if callable(getattr(module, name))]
    assert names
    assert [name for name in names if not re.search(rf"[.,\[ ]{name}\b", pages)] == []


GOOD = """
```python
import torch
print(torch.zeros(2).sum())
```

<!-- prints -->
```text
tensor(0.)
```

```sh
pggan-fast bench --list
```
"""


@pytest.mark.parametrize(
    ("seeded", "instead"),
    [
        ("import torch\n", "import torch, pggan_fast.no_such_part\n"),
        ("import torch\n", "import torch\nfrom pggan_fast import no_such_name\n"),
        ("zeros(2)", "ones(2)"),
        ("--list", "--lists"),
        ("bench --list", "bench --preset quickest --list"),
        ("bench --list", "benches --list"),
        ("pggan-fast bench --list", "make no-such-target"),
        ("pggan-fast bench --list", "make test PYTEST_ARG=-x"),
        ("pggan-fast bench --list", "python -m pggan_fast.benchmarks.no_such_module"),
        ("pggan-fast bench --list", "pip install '.[no-such-extra]'"),
        ("pggan-fast bench --list", "PGGAN_FAST_FASTER=1 pggan-fast bench --list"),
        ("pggan-fast bench --list", "torchrun --nproc-per-node=2 -m pggan_fast.cli train --dta x"),
        ("pggan-fast bench --list", "no-such-program"),
        ("pggan-fast bench --list", "pggan-fast convert missing.pkl out.safetensors"),
    ],
)
def test_a_fault_in_a_block_is_found(seeded: str, instead: str, own_folder: Path) -> None:
    run_page("good", GOOD)
    with pytest.raises((AssertionError, ImportError)):
        run_page("bad", GOOD.replace(seeded, instead))


def test_a_fault_within_a_sentence_is_found() -> None:
    good, bad = "or `pggan-fast train --new`, and `make\ntest`", "or `pggan-fast train --anew`, `make tests`"
    for command in inline_commands(good):
        check_inline(command)
    assert len(inline_commands(good)) == len(inline_commands(bad)) == 2
    for command in inline_commands(bad):
        with pytest.raises(AssertionError):
            check_inline(command)


def test_a_block_that_is_not_run_is_still_read(own_folder: Path) -> None:
    text = "<!-- not run: takes hours -->\n```sh\npggan-fast train --data {}\n```\n"
    run_page("good", text.format("faces"))
    assert not list(own_folder.iterdir())
    with pytest.raises(AssertionError):
        run_page("bad", text.format("faces --no-such-option"))
    with pytest.raises(SyntaxError):
        run_page("bad", "<!-- not run: needs CUDA -->\n```python\nprint(\n```\n")
