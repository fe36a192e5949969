"""Readers of networks, trainings, tables of the device, results of the benchmark, and options."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import struct
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import small_trainings
import torch
from convert.test_families import files, pair
from convert.test_official import Case
from fuzz.hunt import Reader
from fuzz.mutations import Sample, text_of
from pggan_fast.benchmarks import compare, growth, page, schema, table
from pggan_fast.benchmarks.schema import Report, Row
from rich.console import Console

from pggan_fast import cli, convert, drawing, networks
from pggan_fast.backends import tables
from pggan_fast.cli import parsing
from pggan_fast.convert import ConversionError
from pggan_fast.data.errors import DataError
from pggan_fast.data.journal import Journal
from pggan_fast.data.sources import Skipped
from pggan_fast.metrics import extractor
from pggan_fast.models import Discriminator, Generator
from pggan_fast.networks import NetworkFileError, Networks
from pggan_fast.training import checkpoint, curves, later, report, resume
from pggan_fast.training.checkpoint import CheckpointError
from pggan_fast.training.config import Config

SIZES: dict[str, Any] = {"fmap_base": 16, "fmap_max": 4}
CPU = torch.device("cpu")


def network_files(folder: Path) -> list[Sample]:
    """safetensors: the metadata's JSON, the header, the numbers."""
    path = folder / "x.safetensors"
    networks.save(path, Networks(Generator(8, latent_dim=3, **SIZES), Discriminator(8, **SIZES), source={"run": "x"}))
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    about = json.loads(header.pop("__metadata__")["pggan_fast"])
    return [Sample((data,)), Sample((about, header, data[8 + length :]), _safetensors)]


def _safetensors(about: Any, header: Any, numbers: bytes) -> bytes:
    text = json.dumps({"__metadata__": {"pggan_fast": json.dumps(about)}, **header}).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def load_network(path: Path) -> None:
    for net in networks.load(path).present().values():
        str(net)


def torch_bytes(value: Any, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def _members(data: bytes) -> tuple[tuple[str, ...], tuple[bytes, ...]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return tuple(archive.namelist()), tuple(archive.read(name) for name in archive.namelist())


def of_members(data: bytes) -> Sample:
    """A file of torch.save whose members the fuzzer changes, with the checksums of the ZIP."""
    names, members = _members(data)

    def packed(*parts: bytes) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, part in zip(names, parts, strict=True):
                archive.writestr(name, part)
        return stream.getvalue()

    return Sample(members, packed)


_TRAINER: list[Any] = []  # one for all inputs, since a state is loaded into it whole


def training_states(folder: Path) -> list[Sample]:
    trainer = small_trainings.trainer()
    _TRAINER[:] = [trainer]
    trainer.iteration()
    state = {"schema": checkpoint.SCHEMA, **trainer.state_dict(), "tick": 1, "seconds": 2.0}
    data = torch_bytes(state)
    return [Sample((data,)), of_members(data), Sample((state,), torch_bytes)]


def load_training(path: Path) -> None:
    """As `pggan-fast train --resume FILE` does."""
    found = resume.of(path, _TRAINER[0].config)
    found.restore(_TRAINER[0].load_state_dict)


def feature_weights(folder: Path) -> list[Sample]:
    data = torch_bytes({"fc.weight": torch.ones(3, 2), "fc.bias": torch.ones(3)})
    return [Sample((data,)), of_members(data), Sample((torch_bytes({"a": torch.ones(2)}, zipped=False),))]


def load_features(path: Path) -> None:
    """Without the package that knows the network, the weights are read all the same."""
    sys.modules["torch_fidelity.feature_extractor_inceptionv3"] = None  # type: ignore[assignment]
    with contextlib.suppress(extractor.ExtractorError):
        extractor.load(path)


def journals(folder: Path) -> list[Sample]:
    with Journal(folder / "x.zip", "state") as journal:
        for i in range(2):
            journal.add(2 * i + 2, [2 * i], [bytes(9)], [Skipped("a", "broken", "why")], [4, 4, 3])
    lines = [json.loads(text) for text in (folder / ".x.zip.journal").read_text().splitlines()]
    _PART[:] = [(folder / ".x.zip.part").read_bytes()]
    as_lines = lambda *parts: b"".join(text_of(part) + b"\n" for part in parts)  # noqa: E731
    return [Sample(tuple(lines), as_lines), Sample((as_lines(*lines),))]


_PART: list[bytes] = []


def go_on(path: Path) -> None:
    """What cannot be gone on with is begun anew."""
    (path.parent / ".x.zip.part").write_bytes(_PART[0])
    with Journal(path.parent / "x.zip", "state") as journal:
        assert journal.done.next >= 0


def convertible(folder: Path) -> list[Sample]:
    found = [Sample((Case(resolution=8, labels=2, dtype="float32").data,))]
    for name in ("gan_zoo", "akanimax", "rosinality"):
        value = files(name, *pair(name, 1, torch.float32))
        found += [Sample((value,), torch_bytes), Sample((torch_bytes(value, zipped=False),))]
        found.append(of_members(torch_bytes(value)))
    return found


def convert_file(path: Path) -> None:
    convert.read(path).networks()


def device_tables(folder: Path) -> list[Sample]:
    plan = {"config": [1, 2, 3, 4, 5], "splits": 1, "fused": True}
    entries = {"ways": {"a": {"best": "cpu", "seconds": {"cpu": 1.0, "aten": 2.0}}}, "plans": {"p": plan},
               "checks": {"cpu a": {"build": "x", "error": 0.1, "limit": 1.0}}}  # fmt: skip
    whole = {"schema": tables.SCHEMA, "key": tables.device_key(CPU), **entries}
    return [Sample((whole,), text_of), Sample((text_of(whole),))]


def load_table(path: Path) -> None:
    """What is wrong with it is a warning."""
    key = tables.device_key(CPU)
    os.environ["PGGAN_FAST_CACHE"] = str(path.parent)  # of the child that reads
    shutil.copyfile(path, tables.path_of(key))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = tables.load(key)
    if caught:
        raise ValueError(str(caught[0].message).replace(str(tables.path_of(key)), str(path)))
    for entry in found["ways"].values():
        sorted(entry["seconds"].values())


def results(folder: Path) -> list[Sample]:
    rows = []
    for resolution in (8, 16, 32, 64):
        for who, factor in (("eager", 1.0), ("auto", 2.0), ("compile", None)):
            row = Row("G.forward", who, resolution, 4, "float32", "cpu", threads=2)
            row.reason = None if factor else "refused"
            if factor:
                time = resolution / factor
                row.samples, row.median_s, row.p20_s, row.p80_s = [time] * 3, time, 0.9 * time, 1.1 * time
                row.ratio, row.ratio_p20, row.ratio_p80, row.noise, row.images_per_s = factor, 1.0, 2.0, 0.1, 4 / time
                row.peak_bytes, row.error, row.floor_s, row.bound, row.flops = 1 << 20, 1e-6, 0.1, "memory", 1e9
            rows.append(row)
    machine = {"device": "A CPU", "threads": 2, "fp32_precision": "ieee", "memory_bytes": 1 << 34,
               "ceilings": {"flops": 1e11, "bytes": 1e10, "launch_s": 5e-6}}  # fmt: skip
    run = Report(machine, {"torch": "2.13.0", "cuda": None}, "0123abc", rows, preset="full", seed=0, elapsed_s=9.0)
    (folder / "run.json").write_text(schema.dumps(run))
    records = [json.loads(text) for text in (schema.header(run) + schema.lines(rows)).splitlines()]
    as_lines = lambda *parts: b"".join(text_of(part) + b"\n" for part in parts)  # noqa: E731
    return [
        Sample((json.loads(schema.dumps(run)),), text_of),
        Sample(tuple(records), as_lines),
        Sample((as_lines(*records[:3]),)),
    ]


def show_results(path: Path) -> None:
    """Everything but pictures that `bench report` and `bench compare` make."""
    run = schema.read(path)
    with _no_pictures():
        found = page.sections([(path.name, run)])
    page.files(found)
    screen = Console(file=io.StringIO(), width=200)
    for section in found:
        screen.print(table.render(section.report, False))
        screen.print(growth.render(section.growths, False))
    screen.print(compare.render(compare.reports(run, run), (compare.title(run, "a"), "b"), [], False))
    _no_escapes(screen.file.getvalue())  # type: ignore[attr-defined]


def results_to_draw(folder: Path) -> list[Sample]:
    pytest.importorskip("matplotlib", reason="draws with it")
    return results(folder)


def draw_results(path: Path) -> None:
    page.files(page.sections([(path.name, schema.read(path))]))


@contextlib.contextmanager
def _no_pictures() -> Any:
    before, drawing.available = drawing.available, lambda: False
    try:
        yield
    finally:
        drawing.available = before


def _no_escapes(text: str) -> None:
    if bad := [c for c in set(text) if not c.isprintable() and c != "\n"]:
        raise AssertionError(f"a terminal gets {bad!r}")


def stats(folder: Path) -> list[Sample]:
    lines = []
    for kimg in range(1, 5):
        values = {"Progress/kimg": kimg, "Progress/tick": kimg, "Progress/resolution": 8, "Progress/alpha": 0.5,
                  "Progress/minibatch": 16, "Timing/sec_per_kimg": 3.5, "Timing/total_sec": 4.0 * kimg,
                  "Timing/wait_share": 0.1, "Loss/D": 0.5}  # fmt: skip
        lines.append({**{k: {"num": 1, "mean": v, "std": 0.0} for k, v in values.items()}, "timestamp": 1.8e9})
    as_lines = lambda *parts: b"".join(text_of(part) + b"\n" for part in parts)  # noqa: E731
    return [Sample(tuple(lines), as_lines), Sample((as_lines(*lines),))]


def stats_to_draw(folder: Path) -> list[Sample]:
    pytest.importorskip("matplotlib", reason="draws with it")
    return stats(folder)


def show_run(path: Path) -> None:
    run = report.read(path.parent)
    report.render(run, None).encode(errors="backslashreplace")


def draw_run(path: Path) -> None:
    run = report.read(path.parent)
    if run.ticks:
        curves.draw(run)


def cut_run(path: Path) -> None:
    show_run(path)
    later.cut_stats(path, 2.0)


def scores(folder: Path) -> list[Sample]:
    lines = [
        {"results": {"fd10k": 7.5, "fd10k_x": 1}, "snapshot_pkl": f"network-snapshot-{k:06}.safetensors"}
        for k in (1, 3)
    ]
    return [Sample((lines[0], lines[1]), lambda *parts: b"".join(text_of(part) + b"\n" for part in parts))]


def beside_run(folder: Path) -> None:
    (folder / "stats.jsonl").write_bytes(stats(folder)[0].whole())


def options(folder: Path) -> list[Sample]:
    whole = {"config": small_trainings.config(small_trainings.images()).as_json(), "options": {"snap": 2}}
    return [Sample((whole,), text_of), Sample((text_of(whole),))]


def read_options(path: Path) -> None:
    """As the page shows them, and as `pggan-fast train` looks for a run to go on with."""
    show_run(path)
    asked: Config = small_trainings.config(small_trainings.images())
    resume.find(path.parents[1], asked)


def beside_options(folder: Path) -> None:
    beside_run(folder)
    (folder / "training-state-000001000.pt").write_bytes(b"")


def pictures(folder: Path) -> list[Sample]:
    from fuzz.data_readers import image_files

    return image_files(folder)


def command_lines(folder: Path) -> list[Sample]:
    """One argument a line, of commands that are parsed and not run."""
    given = (
        ["train", "--data", "faces", "--kimg", "3", "--cfg", "demo", "--lr", "0.1", "--metrics", "swd16k", "--mirror"],
        ["generate", "x.safetensors", "--seeds", "1,3-5", "--trunc", "0.7", "--outdir", "x"],
        ["data", "convert", "--source", "x", "--dest", "y.zip", "--resolution", "128x96", "--background", "ffffff"],
        ["bench", "--resolution", "8", "16", "--batch", "4", "--dtype", "float32", "--budget", "3"],
        ["metrics", "x", "--metrics", "fid10k,swd16k"],
        ["video", "x", "--seeds", "0-3", "--outdir", "y"],
    )
    return [Sample(("\n".join(words).encode(),)) for words in given]


def parse_command_line(path: Path) -> None:
    """A command is one line or help, and never a traceback."""
    words = path.read_bytes().decode(errors="surrogateescape").split("\n")
    words = [word for word in words if "\0" not in word]
    said = io.StringIO()
    before = parsing.parse
    parsing.parse = lambda *arguments: None if before(*arguments) is None else _Nothing()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            cli.main(words)
    except SystemExit as stop:
        if stop.code not in (0, 2):
            raise AssertionError(f"exit status {stop.code}") from None
        text = said.getvalue()
        if stop.code == 2 and words[:1] != [""] and text and not (text.endswith("\n") and text[:-1].isprintable()):
            raise AssertionError(f"said {text[:300]!r}") from None
    finally:
        parsing.parse = before


class _Nothing:
    def run(self) -> int:
        return 0


RUNS = {
    "network": Reader("x.safetensors", network_files, load_network, (NetworkFileError,)),
    "training state": Reader("training-state-000001000.pt", training_states, load_training,
                             (CheckpointError, resume.Mismatch)),
    "feature network": Reader("x.pth", feature_weights, load_features, ()),
    "journal": Reader(".x.zip.journal", journals, go_on, (DataError,)),
    "checkpoint of others": Reader("x.pkl", convertible, convert_file, (ConversionError,)),
    "device table": Reader("x.json", device_tables, load_table, (ValueError,)),
    "results": Reader("x.jsonl", results, show_results, (ValueError,)),
    "results drawn": Reader("x.jsonl", results_to_draw, draw_results, (ValueError,)),
    "stats": Reader("stats.jsonl", stats, cut_run, ()),
    "stats drawn": Reader("stats.jsonl", stats_to_draw, draw_run, ()),
    "scores": Reader("metric-fd10k.jsonl", scores, show_run, (), beside_run),
    "training options": Reader("training_options.json", options, read_options, (resume.Mismatch,), beside_options),
    "pictures of a run": Reader("fakes000001.png", pictures, show_run, (), beside_run),
    "command line": Reader("words.txt", command_lines, parse_command_line, ()),
}  # fmt: skip
