"""The embedded demonstration set: procedural cartoon faces, small enough to travel inside the package."""

from __future__ import annotations

import hashlib
from importlib import resources

import numpy as np
import torch

from pggan_fast.data.pyramid import shrink

__all__ = ["RESOLUTIONS", "digest", "faces", "faces_attribution"]

faces_attribution: str = (
    'Procedural avatars, not photographs: DiceBear remix of "Adventurer" by Lisa Wischofsky, licensed under CC BY 4.0'
)

EMBEDDED = "faces32.npz"
EMBEDDED_SHA256 = "818ad244e39eed1cc92c1a97cbdc328e45ac3e9cfe4dd597265b7158ef08971f"  # of the pixels
RESOLUTIONS = (32, 16, 8, 4)


def digest(images: np.ndarray) -> str:
    """sha256 of the pixels of uint8 [N, H, W, 3] images, in that order."""
    return hashlib.sha256(np.ascontiguousarray(images, np.uint8).tobytes()).hexdigest()


def faces(resolution: int = 32) -> torch.Tensor:
    """The embedded faces, uint8 [1024, 3, R, R] (RGB, contiguous), R = `resolution`, one of 32, 16, 8, 4.

    They are procedural avatars, not photographs: drawn once, from seeds 0..1023, by the DiceBear style "adventurer", a
    remix of "Adventurer" by Lisa Wischofsky (https://www.figma.com/community/file/1184595184137881796), licensed under
    CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). Show `faces_attribution` beside any picture of them.
    The lower resolutions are 2x2 means of 2x2 means, rounded to uint8 once (official dataset tool).
    `python -m pggan_fast.data.make_faces` draws more of them, or larger ones.

    Raises ValueError for any other resolution.
    """
    if resolution not in RESOLUTIONS:
        raise ValueError(
            f"resolution: got {resolution!r}, expected one of {', '.join(map(str, RESOLUTIONS))}; "
            "python -m pggan_fast.data.make_faces draws larger faces"
        )
    with (
        (resources.files("pggan_fast.data") / EMBEDDED).open("rb") as file,
        np.load(file, allow_pickle=False) as archive,
    ):
        pixels = archive["images"]  # [N, 32, 32, 3]
    return shrink(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), 32 // resolution)
