"""Which kind of source a path is."""

from __future__ import annotations

from pathlib import Path

from pggan_fast import filetypes
from pggan_fast.data.errors import DataError
from pggan_fast.data.sources import Folder, Source, ZipFile

KINDS = "a folder of images, a ZIP, tar shards, an LMDB, MNIST's idx3-ubyte, CIFAR's .tar.gz or the official .tfrecords"


def open_source(path: Path) -> Source:
    """The source at `path`, by what it looks like. Raises DataError, OSError: one line that names it."""
    from pggan_fast.data import sources_arrays as arrays

    if path.suffix == ".tar":  # before the file is asked for: the name may be a pattern
        from pggan_fast.data.shards import Shards

        return Shards(path)
    if path.is_dir():
        if (path / "data.mdb").is_file():
            return arrays.Lmdb(path)
        return arrays.TfRecords(path) if any(path.glob("*.tfrecords")) else Folder(path)
    with open(path, "rb") as file:  # OSError where there is none
        head = file.read(filetypes.HEAD)
    kind = filetypes.kind(head)
    if path.suffix == ".tfrecords":
        return arrays.TfRecords(path)
    if path.suffix == ".mdb" or head[16:20] in (b"\xde\xc0\xef\xbe", b"\xbe\xef\xc0\xde"):
        return arrays.Lmdb(path)
    if "idx3-ubyte" in path.name or head[:4] == b"\0\0\x08\3":
        return arrays.Idx(path)
    zipped = head[:4] in (b"PK\3\4", b"PK\5\6") and kind != filetypes.TORCH  # whose ZIPs hold no images
    if zipped or path.suffix == ".zip":
        return ZipFile(path)
    if path.name.endswith((".tar.gz", ".tgz")):
        return arrays.Cifar(path)
    raise DataError(f"{path}: {kind}, expected a data set: {KINDS}")
