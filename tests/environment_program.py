"""Commands in a folder whose name is odd, among files whose names are no text: `... FOLDER [LIMIT]`.

LIMIT: bytes that a file may have at most, as on a full disk. Prints a line for each command: its words, its exit status
and what it said on standard error. A traceback ends it.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from image_files import file_of, folder_of, pixels
from small_networks import make

from pggan_fast import cli, networks
from pggan_fast.models import Generator

ODD = os.fsdecode("a b \u00e9\u0131\u0130 \u732b".encode())  # in any locale these bytes
NO_TEXT = os.fsdecode(b"\xff\xfe.png")


def said(words: Sequence[str]) -> tuple[int, str]:
    """A command's exit status and what it said about errors; standard output is the process's own."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            cli.main(words)
    except SystemExit as stop:
        sys.stdout.flush()
        return int(stop.code or 0), errors.getvalue()
    raise AssertionError("a command that does not exit")


def commands(folder: Path) -> list[list[str]]:
    images, dest, run = folder / "images", folder / f"{ODD}.zip", folder / "runs"
    few = ["--cfg", "demo", "--kimg", "0.02", "--batch", "4", "--cbase", "16", "--cmax", "4", "--resolution", "8"]
    return [
        ["info"],
        ["data", "convert", "--source", str(images), "--dest", str(dest), "--resolution", "8", "--workers", "1"],
        ["data", "info", str(images)],
        ["data", "verify", str(images)],
        ["train", "--data", str(images), "--outdir", str(run), "--device", "cpu", *few],
        ["report", str(run / "00000-demo-images-gpus1")],
        ["generate", "--network", str(folder / "x.safetensors"), "--outdir", str(folder / "out"), "--seeds", "0"],
    ]


def main(folder: Path, limit: int | None) -> None:
    torch.set_num_threads(1)
    folder = folder / ODD
    folder_of(folder / "images" / ODD, 5, 8, 8)
    (folder / "images" / NO_TEXT).write_bytes(file_of(pixels(9, 8, 8)))
    G = make(Generator, 8)
    assert isinstance(G, Generator)
    networks.save(folder / "x.safetensors", networks.Networks(G=G))
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    for words in commands(folder):
        status, errors = said(words)
        told = [text for text in errors.splitlines() if "error" in text]
        print(f"COMMAND {' '.join(words[: 2 if words[0] == 'data' else 1])}: {status} {told}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else None)
