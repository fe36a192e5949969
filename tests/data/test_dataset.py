"""Sets of images: what opens, what is refused, and images that cannot be read."""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_files import attempt, file_of, folder_of, pixels

from pggan_fast.data import DataError, Loader, faces, open_dataset
from pggan_fast.data.archives import Zip
from pggan_fast.data.dataset import SourceDataset
from pggan_fast.data.errors import ImageRefused
from pggan_fast.data.examine import describe, verify
from pggan_fast.data.sources import ZipFile


def chw(number: int, *size: int) -> np.ndarray:
    return pixels(number, *size).transpose(2, 0, 1)


def test_a_folder(tmp_path: Path) -> None:
    (folder_of(tmp_path, 5) / "notes.txt").write_text("left out by its name")
    opened = open_dataset(tmp_path)
    assert (len(opened), opened.shape, opened.resolutions, opened.label_dim) == (5, (3, 16, 16), [4, 8, 16], 0)
    assert all(np.array_equal(opened.image(i), chw(i)) for i in range(5))
    image, label = opened[-1]
    assert torch.equal(image, torch.from_numpy(chw(4).copy()))
    assert label.numel() == 0
    with pytest.raises(IndexError, match="number: expected -5 to 4, got 5"):
        opened[5]


def test_the_embedded_faces_and_npz(tmp_path: Path) -> None:
    opened = open_dataset("faces", resolution=16)
    assert (len(opened), opened.native, opened.resolution) == (1024, 32, 16)
    assert torch.equal(torch.stack([opened[i][0] for i in range(8)]), faces(16)[:8])
    grey = np.stack([pixels(i, 8, 8, 1) for i in range(4)])
    np.savez(tmp_path / "x.npz", images=grey, labels=np.array([0, 2, 1, 2]))
    labelled = open_dataset(tmp_path / "x.npz")
    assert (labelled.shape, labelled.label_dim) == ((1, 8, 8), 3)
    assert labelled[1][1] == 2
    assert open_dataset(tmp_path / "x.npz", labels="none").label_dim == 0


@pytest.mark.parametrize(
    "arrays",
    [{}, {"images": np.zeros((2, 4, 4, 3))}, {"images": np.zeros((2, 4, 4, 2), np.uint8)},
     {"images": np.zeros((0, 4, 4, 3), np.uint8)}, {"images": np.array([None])},
     {"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": np.zeros(3, np.int64)}],
)  # fmt: skip
def test_npz_files_that_are_none(arrays: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=r"x\.npz: "):
        open_dataset(tmp_path / "x.npz")
    (tmp_path / "x.npz").write_bytes(b"PK\3\4nonsense")
    with pytest.raises(DataError, match=r"x\.npz: not an \.npz"):
        open_dataset(tmp_path / "x.npz")


def test_shapes_that_are_not_square(tmp_path: Path) -> None:
    folder_of(tmp_path, 2, 12, 20)
    opened = open_dataset(tmp_path, base_shape=(3, 5))
    assert (opened.base_shape, opened.resolutions) == ((3, 5), [4, 8, 16])
    images = torch.from_numpy(opened.image(0))[None]
    assert [tuple(opened.level(images, r).shape[2:]) for r in (4, 8, 16)] == [(3, 5), (6, 10), (12, 20)]
    with pytest.raises(ValueError, match="base_shape: expected the size 12x20"):
        open_dataset(tmp_path, base_shape=(4, 4))
    with pytest.raises(ValueError, match="resolution: expected a power of two from 4 to 8"):
        open_dataset(tmp_path, resolution=16)


def test_labels(tmp_path: Path) -> None:
    folder_of(tmp_path / "cat", 2)
    folder_of(tmp_path / "dog", 1)
    assert open_dataset(tmp_path).labels is None
    opened = open_dataset(tmp_path, labels="folders")
    assert opened.labels is not None
    assert (opened.labels.tolist(), opened.label_dim) == ([0, 0, 1], 2)
    (tmp_path / "00.png").write_bytes(file_of(pixels(0)))
    with pytest.raises(DataError, match=r"00\.png: it has no label, and others have"):
        open_dataset(tmp_path, labels="folders")


def test_grey_files_are_grey_and_mixed_ones_coloured(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(file_of(pixels(i, channels=1)))
    grey = open_dataset(tmp_path)
    assert grey.shape == (1, 16, 16)
    assert grey.image(0).flags.writeable  # torch warns of those that are not
    assert open_dataset(tmp_path, channels=3).shape == (3, 16, 16)
    (tmp_path / "3.png").write_bytes(file_of(pixels(3)))
    assert open_dataset(tmp_path).shape == (3, 16, 16)


def test_several_sizes_are_refused_with_a_remedy(tmp_path: Path) -> None:
    folder_of(tmp_path, 3)
    (tmp_path / "x.png").write_bytes(file_of(pixels(3, 8, 8)))
    with pytest.raises(DataError, match=r"x\.png: 8x8 pixels, where .*00\.png has 16x16; `pggan-fast data convert"):
        open_dataset(tmp_path)


def test_the_sheet_of_generate_is_to_be_taken_out(tmp_path: Path) -> None:
    folder_of(tmp_path, 3)
    (tmp_path / "grid.png").write_bytes(file_of(pixels(3, 8, 8)))
    with pytest.raises(DataError, match=r"grid\.png: 8x8 pixels, where") as raised:
        open_dataset(tmp_path)
    assert str(raised.value).endswith(
        "; grid.png looks like a sheet of `pggan-fast generate`, to be taken out of the folder"
    )


def test_broken_images_are_stood_in_for_and_warned_of_once(tmp_path: Path) -> None:
    folder_of(tmp_path, 6)
    for name in ("01.png", "02.png", "05.png"):
        (tmp_path / name).write_bytes(b"broken")
    opened = open_dataset(tmp_path)
    opened.skipped.clear()  # of those that were seen when it was opened
    with pytest.warns(UserWarning, match=r"01\.png is skipped, and so are others like it: not an image") as warned:
        got = [opened.usable(i)[0] for i in range(6)]
    assert got == [0, 3, 3, 3, 4, 0]
    assert len(warned) == 1
    assert sorted(opened.skipped) == [1, 2, 5]
    (tmp_path / "01.png").write_bytes(file_of(pixels(1)))
    assert opened.usable(1)[0] == 3  # as it was before in this run
    for path in tmp_path.iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match="none of its 6 images"), pytest.warns(UserWarning, match="is skipped"):
        open_dataset(tmp_path)


def test_archives_that_lead_out_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("../x.png", file_of(pixels(0)))
        archive.writestr("y.png", file_of(pixels(0)))
    with pytest.raises(DataError, match=r"x\.zip: \.\./x\.png: a path that leads out"):
        open_dataset(tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "y.zip", "w"):
        pass
    with pytest.raises(DataError, match=r"y\.zip: no images in it"):
        open_dataset(tmp_path / "y.zip")


def test_a_link_to_nothing_is_left_out_and_told(tmp_path: Path) -> None:
    folder_of(tmp_path, 3)
    (tmp_path / ".DS_Store").write_bytes(b"a note of macOS")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(open_dataset(tmp_path)) == 3
    assert verify(str(tmp_path)) == (3, [])
    os.symlink("nowhere", tmp_path / "gone.png")
    with pytest.warns(UserWarning, match=r"gone\.png: left out: No such file"):
        assert len(open_dataset(tmp_path)) == 3
    assert verify(str(tmp_path)) == (3, [f"{tmp_path}: gone.png: unreadable: No such file or directory"])
    with pytest.warns(UserWarning, match="left out"):
        assert describe(str(tmp_path))[-1].startswith("broken  1 of those")


def test_a_folder_that_cannot_be_entered_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path / "a", 3)
    folder_of(tmp_path / "b", 3)
    real = os.scandir

    def scandir(path: Path) -> Any:
        if path.name == "b":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="b: Permission denied"):
        open_dataset(tmp_path)


def zipped(path: Path, count: int, labels: bool = False) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        if labels:
            archive.writestr("dataset.json", json.dumps({"labels": [[f"{i:03d}.png", i % 2] for i in range(count)]}))
        for i in range(count):
            archive.writestr(f"{i:03d}.png", file_of(pixels(i)))
    return path


def test_forked_processes_read_one_file_at_once(tmp_path: Path) -> None:
    """A file's position is shared over a fork: whoever reads from there gets another's bytes."""
    opened = open_dataset(zipped(tmp_path / "x.zip", 50))
    assert isinstance(opened, SourceDataset)
    assert isinstance(opened._source, ZipFile)
    opened.image(0)
    children = []
    for child in range(3):
        if (pid := os.fork()) == 0:
            wrong = 1
            try:
                order = np.random.default_rng(child).integers(0, 50, 400)
                wrong = sum(not np.array_equal(opened.image(int(i)), chw(int(i))) for i in order)
            finally:
                os._exit(min(wrong, 1))
        children.append(pid)
    assert all(np.array_equal(opened.image(i % 50), chw(i % 50)) for i in range(400))
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    assert os.lseek(opened._source._zip._file, 0, os.SEEK_CUR) == 0  # the race itself is rare


def test_torchs_loader_with_processes(tmp_path: Path) -> None:
    opened = open_dataset(zipped(tmp_path / "x.zip", 20), resolution=8)
    batches = list(torch.utils.data.DataLoader(opened, 6, num_workers=2))
    assert [len(images) for images, _ in batches] == [6, 6, 6, 2]
    assert torch.equal(torch.cat([images for images, _ in batches]), torch.stack([opened[i][0] for i in range(20)]))
    copied = pickle.loads(pickle.dumps(opened))
    assert torch.equal(copied[7][0], opened[7][0])


def test_what_info_and_verify_tell(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", 4)
    assert verify(str(path)) == (4, [])
    assert describe(str(path))[:3] == [f"{path}: 4 images of 16x16, RGB", "levels  4x4, 8x8, 16x16", "labels  none"]
    data = bytearray(path.read_bytes())
    at = data.index(b"002.png") + 60
    data[at] ^= 1
    path.write_bytes(data)
    count, problems = verify(str(path))
    assert count == 4
    assert problems == [f"{path}: 002.png: broken: its bytes are not those that were put into the ZIP (CRC)"]


@pytest.mark.filterwarnings("ignore:.* is skipped, and so are others like it")
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    st.integers(0, 10**6) | st.none(),
    st.sampled_from([{"cache": "always"}, {"cache": "never", "workers": 0}, {"cache": "never", "workers": 2}]),
)
def test_damaged_zips_load_what_is_whole_or_are_refused(
    tmp_path_factory: Any, changes: list[tuple[int, int]], cut: int | None, way: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("zip") / "x.zip"
    data = bytearray(zipped(path, 3, labels=True).read_bytes())
    for at, value in changes:
        data[at % len(data)] = value
    path.write_bytes(data[: None if cut is None else cut % len(data)])
    opened = attempt(open_dataset, path)
    if isinstance(opened, DataError):
        assert str(path) in str(opened)
        assert "\n" not in str(opened)
        return
    loader = Loader(opened, batch=3, **way)
    images = attempt(next, loader)
    loader.close()
    if not isinstance(images, DataError):
        known = [torch.from_numpy(chw(i).copy()) for i in range(3)]
        given = (images[0] * 127.5 + 127.5).round().to(torch.uint8)
        assert all(any(torch.equal(image, other) for other in known) for image in given)


def test_places_that_no_file_has(tmp_path: Path) -> None:
    """A directory's offsets may be anything: below zero where zipfile thinks that something stands before the ZIP."""
    store = Zip(zipped(tmp_path / "x.zip", 1))
    for offset in (-1, 1 << 40, 1 << 63, 1 << 70):
        with pytest.raises(ImageRefused):
            store.read(store.entries[0]._replace(offset=offset))


def npy(data: bytes, shape: tuple[int, ...]) -> bytes:
    """An array of bytes whose header may claim anything."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


@pytest.mark.parametrize("shape", [(1 << 40, 4, 4, 3), (3, 4, 4, 3, 1 << 20), (-3, 4, 4, 3), (4, 4, 4, 3)])
def test_arrays_that_claim_much_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        for claimed in ((3, 4, 4, 3), shape):
            with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
                archive.writestr("images.npy", npy(bytes(144), claimed))
            if claimed != shape:
                assert len(open_dataset(tmp_path / "x.npz")) == 3
                continue
            with pytest.raises(DataError, match=r"x\.npz: not an \.npz with an array `images`: an array"):
                open_dataset(tmp_path / "x.npz")


@pytest.mark.parametrize("labels", [np.array([0, 1, -1]), np.array([0, 1, 1 << 40]), np.full((3, 2), np.nan)])
def test_labels_that_are_no_classes(labels: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 4, 4, 3), np.uint8), labels=labels)
    with pytest.raises(DataError, match=r"x\.npz: labels: expected finite vectors, or classes from 0"):
        open_dataset(tmp_path / "x.npz")
