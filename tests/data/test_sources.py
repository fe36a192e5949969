"""Every kind of source: what it holds, and what is wrong with broken and hostile ones, in one line that names them."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_files import (
    attempt,
    cifar_batch,
    crc32c,
    example,
    file_of,
    folder_of,
    idx,
    pixels,
    records,
    tar_gz,
    zip_of,
)

from pggan_fast.data import tfrecords
from pggan_fast.data.errors import DataError, ImageRefused
from pggan_fast.data.guess import open_source
from pggan_fast.data.lmdb_pages import Pages
from pggan_fast.data.sources import Source

WHITE = (255, 255, 255)


def read(source: Source) -> list[Any]:
    return [source.pixels(i, 3, WHITE).tolist() for i in range(len(source.names))]


def images(*numbers: int) -> list[Any]:
    return [pixels(i).tolist() for i in numbers]


def refusal(path: Path) -> str:
    """The one line that it is refused with."""
    with pytest.raises(DataError) as refused:
        open_source(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_folders_are_read_in_order_with_links_but_without_loops(tmp_path: Path) -> None:
    folder_of(tmp_path / "x/a", 2)
    folder_of(tmp_path / "elsewhere", 3)
    root = tmp_path / "x"
    (root / "é \U0001f600.png").write_bytes(file_of(pixels(7)))
    os.symlink(root, root / "a" / "loop")
    os.symlink("self", root / "self")
    os.symlink(tmp_path / "elsewhere", root / "linked")
    os.symlink(root / "a" / "00.png", root / "again.png")
    os.symlink("nowhere", root / "broken.png")
    os.mkfifo(root / "pipe")
    folder_of(root / ".trash", 1)
    (root / "a" / "._00.png").write_bytes(file_of(pixels(8)))
    source = open_source(root)
    assert source.names == [
        "a/00.png",
        "a/01.png",
        "linked/00.png",
        "linked/01.png",
        "linked/02.png",
        "é \U0001f600.png",
    ]
    assert read(source) == images(0, 1, 0, 1, 2, 7)
    left = {row.name: row.kind for row in source.skipped}
    assert left == {
        "again.png": "the same file",
        "broken.png": "unreadable",
        "self": "unreadable",
        "pipe": "not a file",
        ".trash": "hidden",
        "a/._00.png": "hidden",
    }


def test_folders_within_folders_without_end(tmp_path: Path) -> None:
    folders = [tmp_path / "d"]
    for _ in range(1500):  # more than Python calls within each other
        folders[-1].mkdir()
        folders.append(folders[-1] / "d")
    (folders[-2] / "x.png").write_bytes(file_of(pixels(1)))
    assert read(open_source(tmp_path)) == images(1)
    (folders[-2] / "x.png").unlink()
    for folder in reversed(folders[:-1]):  # not left to who removes folders by recursion
        folder.rmdir()


def test_names_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(file_of(pixels(1)))
    source = open_source(tmp_path)
    assert read(source) == images(1)
    assert len(source.state()) == 64


def test_the_state_follows_files_and_labels(tmp_path: Path) -> None:
    folder_of(tmp_path, 3)
    first = open_source(tmp_path).state()
    assert open_source(tmp_path).state() == first
    (tmp_path / "dataset.json").write_text('{"labels": [["00.png", 1], ["01.png", 0], ["02.png", 1]]}')
    labelled = open_source(tmp_path)
    assert labelled.labels == [1, 0, 1]
    assert labelled.state() != first
    (tmp_path / "01.png").write_bytes(file_of(pixels(9)) + b"more")
    assert open_source(tmp_path).state() != labelled.state()


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"labels": 3}', '{"labels": [["a"]]}', '{"labels": [["a", -1]]}', '{"labels": [["a", true]]}',
     '{"labels": [["a", 1], ["b", [1.0]]]}', '{"labels": [["a", 1], ["a", 2]]}', '{"labels": [["a", [1e999]]]}',
     "[" * 100_000, f'{{"labels": [["a", [1{"0" * 400}]]]}}'],
)  # fmt: skip
def test_labels_that_are_none(text: str, tmp_path: Path) -> None:
    folder_of(tmp_path, 1)
    (tmp_path / "dataset.json").write_text(text)
    assert "dataset.json" in refusal(tmp_path)


def test_zips_are_read_and_hostile_names_refused(tmp_path: Path) -> None:
    png = [file_of(pixels(i)) for i in range(4)]
    names = ["b.png", "a/ü.png", "../up.png", "/root.png", "c\\..\\..\\up.png", "C:\\x.png"]
    path = zip_of(tmp_path / "x.zip", {name: png[i % 4] for i, name in enumerate(names)})
    source = open_source(path)
    assert source.names == ["a/ü.png", "b.png"]
    assert read(source) == images(1, 0)
    assert {row.name: row.why for row in source.skipped} == dict.fromkeys(
        names[2:], "a path that leads out of the archive"
    )


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_two_files_of_one_name_the_first_is_taken(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", file_of(pixels(0)))
        archive.writestr("a.png", file_of(pixels(1)))
        archive.writestr(zipfile.ZipInfo("b.png"), file_of(pixels(2)), zipfile.ZIP_DEFLATED)
        archive.writestr("c.png", file_of(pixels(3)), zipfile.ZIP_LZMA)
    source = open_source(tmp_path / "x.zip")
    assert read(source) == images(0, 2)
    assert [(row.name, row.kind) for row in source.skipped] == [("a.png", "refused"), ("c.png", "refused")]


@pytest.mark.parametrize("tenth", range(10))
def test_zips_cut_at_every_tenth_are_refused(tenth: int, tmp_path: Path) -> None:
    data = zip_of(tmp_path / "x.zip", {f"{i}.png": file_of(pixels(i)) for i in range(5)}).read_bytes()
    (tmp_path / "x.zip").write_bytes(data[: len(data) * tenth // 10])
    assert "not a whole ZIP" in refusal(tmp_path / "x.zip")


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_zips_are_read_or_refused(tmp_path_factory: Any, changes: list[tuple[int, int]]) -> None:
    path = tmp_path_factory.mktemp("zip") / "x.zip"
    data = bytearray(zip_of(path, {f"{i}.png": file_of(pixels(i, 4, 4)) for i in range(3)}).read_bytes())
    for at, value in changes:
        data[at % len(data)] = value
    path.write_bytes(data)
    known = images_of_4()
    source = attempt(open_source, path)
    if isinstance(source, DataError):
        return
    for i in range(len(source.names)):
        got = attempt(source.pixels, i, 3, WHITE)
        if isinstance(got, ImageRefused):
            assert got.kind in ("broken", "refused", "giant")
        else:
            assert got.tolist() in known  # the CRC lets nothing else through


def images_of_4() -> list[Any]:
    return [pixels(i, 4, 4).tolist() for i in range(3)]


@pytest.mark.parametrize("packed", [True, False])
def test_mnist(packed: bool, tmp_path: Path) -> None:
    digits = np.stack([pixels(i, 28, 28, 1) for i in range(3)])
    end, pack = (".gz", gzip.compress) if packed else ("", bytes)
    path = tmp_path / f"train-images-idx3-ubyte{end}"
    path.write_bytes(pack(idx(digits)))
    (tmp_path / f"train-labels-idx1-ubyte{end}").write_bytes(pack(idx(np.array([5, 0, 9], np.uint8))))
    source = open_source(path)
    assert (source.channels, source.labels) == (1, [5, 0, 9])
    got = source.pixels(1, 1, WHITE)
    assert got.shape == (32, 32)
    assert np.array_equal(got[2:30, 2:30], digits[1])
    assert got[:2].sum() == got[:, 30:].sum() == 0
    path.write_bytes(pack(idx(digits)[:-1]))
    assert "not whole" in refusal(path)
    if packed:
        path.write_bytes(pack(idx(digits))[:-9])
        assert "not a whole gzip file" in refusal(path)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_cifar(protocol: int, tmp_path: Path) -> None:
    batches = {f"cifar-10-batches-py/data_batch_{i}": cifar_batch(2 * i, protocol) for i in (2, 1)}
    source = open_source(tar_gz(tmp_path / "c.tar.gz", {**batches, "cifar-10-batches-py/test_batch": b"x"}))
    assert source.labels == [2, 3, 4, 5]
    assert read(source) == [pixels(i, 32, 32).tolist() for i in (2, 3, 4, 5)]
    fine = tar_gz(tmp_path / "d.tar.gz", {"cifar-100-python/train": cifar_batch(8, protocol, "fine_labels")})
    assert open_source(fine).labels == [8, 9]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["EVIL"],)


def test_a_cifar_archive_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVIL", str(tmp_path / "made"))
    path = tar_gz(tmp_path / "c.tar.gz", {"data_batch_1": pickle.dumps({"data": Evil()})})
    assert "which is refused" in refusal(path)
    assert not (tmp_path / "made").exists()
    path.write_bytes(path.read_bytes()[:-30])
    assert "not a whole CIFAR archive" in refusal(path)


@pytest.mark.parametrize("classes", [[-1, 0], [1 << 70, 0], [True, 0]])
def test_a_cifar_batch_of_other_classes(classes: list[int], tmp_path: Path) -> None:
    batch = pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": classes}, 2)
    assert "expected a class for each image" in refusal(tar_gz(tmp_path / "c.tar.gz", {"data_batch_1": batch}))


def test_a_cifar_archive_with_another_checksum(tmp_path: Path) -> None:
    """It stands where the tar's end would be looked for."""
    whole = tar_gz(tmp_path / "c.tar", {"data_batch_1": cifar_batch(0, 2)}).read_bytes().rstrip(b"\0")
    data = gzip.compress(whole + bytes(-len(whole) % 512))
    (tmp_path / "c.tar.gz").write_bytes(data)
    assert len(open_source(tmp_path / "c.tar.gz").names) == 2
    (tmp_path / "c.tar.gz").write_bytes(data[:-8] + bytes(4) + data[-4:])
    assert "CRC check failed" in refusal(tmp_path / "c.tar.gz")


def test_lmdb(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb", reason="writes one with the package lmdb")
    with lmdb.open(str(tmp_path / "x_lmdb"), map_size=1 << 24) as environment, environment.begin(write=True) as t:
        for i in (1, 0):
            t.put(f"key{i}".encode(), file_of(pixels(i), "WEBP", lossless=True))
    source = pickle.loads(pickle.dumps(open_source(tmp_path / "x_lmdb")))
    assert (source.names, read(source)) == (["key0", "key1"], images(0, 1))
    data = (tmp_path / "x_lmdb/data.mdb").read_bytes()
    for tenth in range(10):
        (tmp_path / "x_lmdb/data.mdb").write_bytes(data[: len(data) * tenth // 10])
        assert "LMDB" in refusal(tmp_path / "x_lmdb")
    (tmp_path / "x_lmdb/data.mdb").write_bytes(b"nonsense" * 1000)
    assert "not a whole LMDB" in refusal(tmp_path / "x_lmdb")


@pytest.mark.parametrize(("count", "longest"), [(0, 1), (1, 9000), (700, 60), (3000, 20), (40, 20_000)])
def test_an_lmdb_is_what_its_library_reads(count: int, longest: int, tmp_path: Path) -> None:
    """Branches, pages of their own, and what was replaced and deleted since."""
    lmdb = pytest.importorskip("lmdb", reason="compares with the package lmdb")
    draw = np.random.default_rng(count)
    with lmdb.open(str(tmp_path / "x"), map_size=1 << 26) as environment:
        for turn in range(3):
            with environment.begin(write=True) as t:
                for i in draw.permutation(count):
                    key = f"{i:05}".encode() * int(draw.integers(1, 60))
                    t.put(key, draw.bytes(int(draw.integers(0, longest))))
                    if turn and i % 3 == 0:
                        t.delete(key)
        with environment.begin() as t:
            want = list(t.cursor())
    pages = Pages(tmp_path / "x" / "data.mdb")
    assert [(value.key, pages.read(value)) for value in pages.values] == want
    assert len(want) >= count // 2


def test_crc32c() -> None:
    assert tfrecords.crc32c(b"123456789") == 0xE3069283
    for n in (0, 1, 255, 256, 257, 511, 512, 700, 1024, 1280, 3000):
        data = np.random.default_rng(n).bytes(n)
        assert tfrecords.crc32c(data) == crc32c(data)


def test_official_tfrecords(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(10, dtype=np.float32)[[3, 1, 4, 9]])  # one more than there are images
    folder = records(tmp_path / "set")
    (tmp_path / "x.npy").rename(folder / "set-rxx.labels")
    source = pickle.loads(pickle.dumps(open_source(folder)))
    assert (read(source), source.labels, source.channels) == (images(0, 1, 2), [3, 1, 4], 3)
    assert read(open_source(folder / "set-r03.tfrecords")) == [pixels(i, 8, 8).tolist() for i in range(3)]
    grey = open_source(records(tmp_path / "grey", 1))
    assert grey.channels == 1
    assert np.array_equal(grey.pixels(2, 1, WHITE), pixels(2, 16, 16, 1))


def test_damaged_tfrecords(tmp_path: Path) -> None:
    path = records(tmp_path / "x") / "set-r04.tfrecords"
    whole = path.read_bytes()
    for cut in range(1, 10):
        path.write_bytes(whole[: len(whole) * cut // 10])
        if len(whole) * cut // 10 % (len(whole) // 3):
            assert "cut short" in refusal(path)
    path.write_bytes(b"\1" + whole[1:])
    assert "wrong checksum of its length" in refusal(path)
    path.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    source = open_source(path)
    with pytest.raises(ImageRefused, match="wrong checksum"):
        source.pixels(0, 3, WHITE)
    assert source.pixels(1, 3, WHITE).tolist() == images(1)[0]


@given(st.binary(max_size=60), st.integers(0, 200))
def test_examples_of_random_bytes_are_refused(data: bytes, at: int) -> None:
    whole = example(pixels(0, 4, 4))
    for message in (data, whole[:at], whole[:at] + data + whole[at + len(data) :]):
        got = attempt(tfrecords.example, message)
        assert isinstance(got, tfrecords.Example) or got.kind == "broken"


def test_tar_shards(tmp_path: Path) -> None:
    for shard in range(3):
        files = {}
        for i in (2 * shard, 2 * shard + 1):
            files |= {f"d/{i:04d}.png": file_of(pixels(i)), f"d/{i:04d}.cls": str(i).encode(), f"d/{i:04d}.json": b"{}"}
        tar_gz(tmp_path / f"x-{shard:03d}.tar", files)
    for name in ("x-{000..002}.tar", "x-*.tar"):
        source = pickle.loads(pickle.dumps(open_source(tmp_path / name)))
        assert read(source) == images(*range(6))
        assert source.labels == list(range(6))
    assert read(open_source(tmp_path / "x-001.tar")) == images(2, 3)
    with pytest.raises(DataError, match=r"x-003\.tar: no such file"):
        open_source(tmp_path / "x-{000..003}.tar")
    data = (tmp_path / "x-001.tar").read_bytes()
    for tenth in range(1, 10):  # behind its members a tar is padded to 10,240 bytes
        (tmp_path / "x-001.tar").write_bytes(data[: 5000 * tenth // 10])
        found = attempt(open_source, tmp_path / "x-001.tar")
        if isinstance(found, DataError):
            assert "x-001.tar" in str(found)
        else:  # a tar may end anywhere between its members
            assert read(found) == images(2, 3)[: len(found.names)]


def test_shards_that_lead_out_or_have_odd_classes(tmp_path: Path) -> None:
    assert "leads out" in refusal(tar_gz(tmp_path / "a.tar", {"../x.png": b""}))
    assert "expected a class" in refusal(tar_gz(tmp_path / "b.tar", {"x.png": b"", "x.cls": b"cat"}))


def test_webdataset_reads_and_writes_the_same_shards(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset", reason="compares with the package webdataset")
    with wds.TarWriter(str(tmp_path / "w.tar")) as writer:
        for i in range(3):
            writer.write({"__key__": f"{i:04d}", "png": file_of(pixels(i)), "cls": i})
    source = open_source(tmp_path / "w.tar")
    assert (read(source), source.labels) == (images(0, 1, 2), [0, 1, 2])


def test_what_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"hello")
    assert "x.bin: a text file that begins 'hello', expected a data set: a folder of images" in refusal(
        tmp_path / "x.bin"
    )
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
    assert "x.pt: a file of torch.save, expected a data set: a folder of images" in refusal(tmp_path / "x.pt")
    with pytest.raises(FileNotFoundError):
        open_source(tmp_path / "none")


def test_labels_with_class_names_round_trip(tmp_path: Path) -> None:
    described = json.dumps({"labels": [["a.png", 1], ["b.png", 0]], "label_names": ["cat", "dog"]}).encode()
    png = file_of(pixels(0))
    source = open_source(zip_of(tmp_path / "x.zip", {"b.png": png, "a.png": png, "dataset.json": described}))
    assert (source.labels, source.classes) == ([1, 0], ["cat", "dog"])
