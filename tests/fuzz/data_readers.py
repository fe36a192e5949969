"""Readers of images and labels, by what `pggan_fast.data.open_dataset` takes."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz.hunt import Reader
from fuzz.mutations import Sample, text_of
from image_files import attempt, cifar_batch, crc32c, example, file_of, folder_of, idx, pixels, tfrecord
from PIL import Image

from pggan_fast.data import convert, open_dataset
from pggan_fast.data.errors import DataError, ImageRefused
from pggan_fast.data.guess import open_source

LABELS = {"labels": [["00.png", 1], ["01.png", 0], ["a/02.png", 1]], "label_names": ["cat", "dog"]}
PNG = [file_of(pixels(i, 4, 4)) for i in range(3)]


def opened(path: Path) -> None:
    """The set and every image of it; those that are refused are by messages without the file, which `usable` adds."""
    dataset = open_dataset(path)
    for number in range(len(dataset)):
        refusal = attempt(dataset.image, number)
        if isinstance(refusal, ImageRefused) and not str(refusal).isprintable():
            raise AssertionError(f"not printable: {refusal!r}")
    dataset.usable(0)


def reader(name: str, samples: Callable[[Path], list[Sample]], beside: Any = None, read: Any = opened) -> Reader:
    return Reader(name, samples, read, (DataError,), beside or (lambda folder: None))


def zipped(*members: bytes, names: tuple[str, ...], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in zip(names, members, strict=True):
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return stream.getvalue()


def zips(folder: Path) -> list[Sample]:
    """One that `data convert` wrote, and others that the fuzzer packs again."""
    made = folder / "made.zip"
    convert.convert(open_source(folder_of(folder / "x", 3, 4, 4)), made, convert.Options(), workers=1)
    names = ("00.png", "01.png", "a/02.png")

    def labelled(labels: Any, *members: bytes) -> bytes:
        return zipped(*members, text_of(labels), names=(*names, "dataset.json"))

    def deflated(*members: bytes) -> bytes:
        return zipped(*members, names=names, method=zipfile.ZIP_DEFLATED)

    return [Sample((made.read_bytes(),)), Sample((LABELS, *PNG), labelled), Sample(tuple(PNG), deflated)]


def image_files(folder: Path) -> list[Sample]:
    """Every format that is read, and PNGs whose chunks the fuzzer writes with their checksums."""
    kinds = ("PNG", "JPEG", "JPEG2000", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "PCX", "SGI", "ICO", "DDS", "QOI")
    Image.init()
    found = [Sample((file_of(pixels(3, 16, 16), kind),)) for kind in kinds if kind in Image.SAVE]
    grey = Image.fromarray(pixels(3, 16, 16)).convert("P")
    drawn = (Image.fromarray(pixels(3, 16, 16)), grey, grey.convert("1"), Image.new("I;16", (16, 16)))
    return [*found, *(Sample(tuple(_chunks(file_of(image))), _png) for image in drawn)]


def _chunks(data: bytes) -> list[bytes]:
    """A PNG's, each with its four letters."""
    at, found = 8, []
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        found.append(data[at + 4 : at + 8 + length])
        at += 12 + length
    return found


def _png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", max(0, len(c) - 4)) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks
    )


def one_image(path: Path) -> None:
    opened(path.parent)


def npzs(folder: Path) -> list[Sample]:
    """Arrays with their own headers in archives that are whole."""
    images, labels = np.stack([pixels(i, 4, 4) for i in range(3)]), np.arange(3)
    members = []
    for array in (images, images[..., 0], labels, np.eye(3, dtype=np.float32)):
        stream = io.BytesIO()
        np.save(stream, array)
        members.append(stream.getvalue())
    names = ("images.npy", "labels.npy")

    def packed(*parts: bytes) -> bytes:
        return zipped(*parts, names=names)

    return [Sample((members[i], members[j]), packed) for i, j in ((0, 2), (1, 3))]


def idxs(folder: Path) -> list[Sample]:
    images = idx(np.stack([pixels(i, 28, 28, 1) for i in range(3)]))
    return [Sample((images,)), Sample((images,), lambda data: gzip.compress(data, 1))]


def idx_labels(folder: Path) -> list[Sample]:
    return [Sample((idx(np.arange(3, dtype=np.uint8)),))]


def beside_idx_labels(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte").write_bytes(idx(np.stack([pixels(i, 28, 28, 1) for i in range(3)])))


def idx_by_its_images(path: Path) -> None:
    opened(path.with_name("train-images-idx3-ubyte"))


def tarred(*members: bytes, names: tuple[str, ...], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in zip(names, members, strict=True):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def _tar_again(*blocks: bytes) -> bytes:
    """Headers and bodies of a tar; whatever became of a header has its right checksum."""
    out = []
    for block in blocks:
        if len(block) == 512 and block[257:262] == b"ustar":
            blank = block[:148] + b" " * 8 + block[156:]
            block = blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]
        out.append(block)
    return b"".join(out)


def tars(folder: Path) -> list[Sample]:
    names = ("0.png", "0.cls", "1.png", "1.cls")
    whole = tarred(PNG[0], b"1", PNG[1], b"0", names=names)
    return [Sample((whole,)), Sample(tuple(whole[i : i + 512] for i in range(0, len(whole), 512)), _tar_again)]


def cifars(folder: Path) -> list[Sample]:
    def packed(*batches: bytes) -> bytes:
        return tarred(*batches, names=("data_batch_1", "data_batch_2"), mode="w:gz")

    return [Sample((cifar_batch(2, protocol), cifar_batch(4, protocol)), packed) for protocol in (0, 2, 4)]


def tfrecord_files(folder: Path) -> list[Sample]:
    examples = tuple(example(pixels(i, 4, 4)) for i in range(3))
    grey = tuple(example(pixels(i, 4, 4, 1)) for i in range(2))
    pack = lambda *parts: b"".join(map(tfrecord, parts))  # noqa: E731
    assert crc32c(b"123456789") == 0xE3069283
    return [Sample(examples, pack), Sample(grey, pack)]


def tfrecord_labels(folder: Path) -> list[Sample]:
    stream = io.BytesIO()
    np.save(stream, np.eye(10, dtype=np.float32)[[3, 1, 4]])
    return [Sample((stream.getvalue(),))]


def beside_tfrecord_labels(folder: Path) -> None:
    (folder / "set-r02.tfrecords").write_bytes(b"".join(tfrecord(example(pixels(i, 4, 4))) for i in range(3)))


def tfrecords_by_their_images(path: Path) -> None:
    opened(path.with_name("set-r02.tfrecords"))


def lmdbs(folder: Path) -> list[Sample]:
    """Small values and one that needs pages of its own, and enough keys for branches."""
    lmdb = pytest.importorskip("lmdb", reason="writes one with the package lmdb")
    found = []
    for count, size in ((3, 4), (120, 4), (3, 64)):
        place = folder / f"{count}-{size}"
        with lmdb.open(str(place), map_size=1 << 22) as environment, environment.begin(write=True) as t:
            for i in range(count):
                t.put(f"key{i:04}".encode(), file_of(pixels(i, size, size)))
        found.append(Sample(((place / "data.mdb").read_bytes(),)))
    return found


def beside_dataset_json(folder: Path) -> None:
    folder_of(folder, 2, 4, 4)
    (folder / "a").mkdir()
    (folder / "a/02.png").write_bytes(PNG[2])


def dataset_jsons(folder: Path) -> list[Sample]:
    vectors = {"labels": [[name, [0.5, float(i)]] for i, (name, _) in enumerate(LABELS["labels"])]}
    return [Sample((value,), text_of) for value in (LABELS, vectors, {"labels": None})] + [
        Sample((json.dumps(LABELS).encode(),))
    ]


DATA = {
    "zip": reader("x.zip", zips),
    "image": reader("x.png", image_files, read=one_image),
    "dataset.json": reader("dataset.json", dataset_jsons, beside_dataset_json, one_image),
    "npz": reader("x.npz", npzs),
    "idx": reader("train-images-idx3-ubyte", idxs),
    "idx labels": reader("train-labels-idx1-ubyte", idx_labels, beside_idx_labels, idx_by_its_images),
    "tar": reader("x.tar", tars),
    "cifar": reader("x.tar.gz", cifars),
    "tfrecords": reader("x-r02.tfrecords", tfrecord_files),
    "tfrecord labels": reader("set-rxx.labels", tfrecord_labels, beside_tfrecord_labels, tfrecords_by_their_images),
    "lmdb": reader("data.mdb", lmdbs),
}
