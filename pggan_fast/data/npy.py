"""numpy's arrays in files that somebody else made: no object is unpickled, and no more is allocated than they hold."""

from __future__ import annotations

import math
import zipfile
from typing import IO, Any

import numpy as np
import numpy.typing as npt


def read(stream: IO[bytes], size: int) -> npt.NDArray[Any]:
    """The array of a .npy of so many bytes. Raises ValueError where it is none, or not whole; OSError."""
    try:
        version = np.lib.format.read_magic(stream)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, by_columns, dtype = header(stream)
    except OSError:
        raise
    except Exception as error:  # numpy parses the header as Python, and raises nearly anything
        raise ValueError(f"not a numpy array: {error}") from None
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"an array of {dtype} of the shape {shape}, expected numbers")
    length = math.prod(shape) * dtype.itemsize
    if length > size:
        raise ValueError(f"an array of {length} bytes by its header, in a file of {size}")
    found = np.empty(math.prod(shape), dtype)
    if length and stream.readinto(found.view(np.uint8).data) != length:  # type: ignore[attr-defined]
        raise ValueError("an array that is cut short")
    return found.reshape(shape, order="F" if by_columns else "C")


def member(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any] | None:
    """The array of that name in an .npz; None where it has none. Raises as `read`, and what zipfile does."""
    info = archive.NameToInfo.get(f"{name}.npy")
    if info is None:
        return None
    with archive.open(info) as stream:
        return read(stream, info.file_size)
