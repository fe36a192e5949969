"""Draw the procedural faces that `pggan_fast.data.faces` ships, at any resolution and in any number.

    pip install 'pggan-fast[demo]'
    python -m pggan_fast.data.make_faces --count 10000 --resolution 64 --output faces64.npz
    python -m pggan_fast.data.make_faces --check          # draw the embedded set again and compare it

Each face is drawn from its seed alone, so image i is the same in a set of any size, and seeds that were not used for
training make an honest held-out set. The art is the DiceBear remix of "Adventurer" by Lisa Wischofsky, CC BY 4.0.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import random
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pggan_fast.data.embedded import EMBEDDED, EMBEDDED_SHA256, digest

# The versions that drew the embedded set. Others may draw other faces: the digest tells.
PINNED = {"dicebear-core": "10.7.0", "dicebear-styles": "10.6.0", "resvg-py": "0.5.0"}
STYLE = "adventurer"
RENDER_SIZE = 256
EMBEDDED_COUNT = 1024
EMBEDDED_RESOLUTION = 32

SKIN = ("#f9dfc7", "#f2d3b1", "#ecad80", "#d99a6c", "#b9784a", "#9e5622", "#763900", "#5a2d0c")
HAIR = (  # colour, weight
    ("#0e0e0e", 5),
    ("#3a2414", 5),
    ("#562306", 5),
    ("#6a4e35", 5),
    ("#796a45", 3),
    ("#ac6511", 3),
    ("#cb6820", 3),
    ("#ab2a18", 2),
    ("#b9a05f", 3),
    ("#e5d7a3", 4),
    ("#afafaf", 2),
    ("#85c2c6", 1),
    ("#dba3be", 1),
    ("#592454", 1),
)
BACKGROUND = (
    "#b6e3f4",
    "#c0aede",
    "#d1d4f9",
    "#ffd5dc",
    "#ffdfbf",
    "#cfe8cf",
    "#f6ecc4",
    "#d8c9b8",
    "#a9c5d9",
    "#e3b7a0",
    "#9fbfa8",
    "#8fa3bf",
)


def face_options(seed: int) -> dict[str, Any]:
    """What is chosen for the face of `seed`: mostly natural colours, and a soft background between two others."""
    choose = random.Random(seed)
    hair, weights = zip(*HAIR, strict=True)
    return {
        "seed": str(seed),
        "size": RENDER_SIZE,
        "scale": 1.15,
        "skinColor": [choose.choice(SKIN)],
        "hairColor": [choose.choices(hair, weights)[0]],
        "backgroundColor": choose.sample(BACKGROUND, 2),
        "backgroundColorFill": "linear",
        "backgroundColorAngle": choose.choice((0, 90, 180, 270)),
        "backgroundColorOrder": "fixed",
    }


def draw_faces(count: int, resolution: int, first_seed: int = 0) -> np.ndarray:
    """uint8 [count, resolution, resolution, 3]: the faces of seeds first_seed .. first_seed + count - 1.

    Drawn at 256 x 256 and averaged down, so that no edge aliases. `resolution` must divide 256. Needs the `demo` extra.
    """
    if resolution < 1 or RENDER_SIZE % resolution:
        raise ValueError(f"resolution: got {resolution}, expected a divisor of {RENDER_SIZE}")
    try:
        import resvg_py
        from dicebear import Avatar
    except ImportError as error:
        raise ImportError(f"drawing faces needs the demo extra: pip install 'pggan-fast[demo]' ({error})") from error

    style = _style()
    factor = RENDER_SIZE // resolution
    faces = np.empty((count, resolution, resolution, 3), np.uint8)
    for i in range(count):
        svg = Avatar(style, face_options(first_seed + i)).to_string()
        png = bytes(
            resvg_py.svg_to_bytes(svg_string=svg, width=RENDER_SIZE, height=RENDER_SIZE, skip_system_fonts=True)
        )
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.float32)  # [256, 256, 3]
        boxes = pixels.reshape(resolution, factor, resolution, factor, 3)
        faces[i] = np.rint(boxes.mean(axis=(1, 3))).astype(np.uint8)
    return faces


@functools.cache
def _style() -> Any:
    from dicebear import Style

    return Style(json.loads((resources.files("dicebear_styles") / f"{STYLE}.json").read_text("utf-8")))


def version_drift() -> list[str]:
    """One line for each drawing package whose version is not the one that drew the embedded set."""
    found = {name: metadata.version(name) for name in PINNED}
    return [f"{name} {found[name]} instead of {PINNED[name]}" for name in PINNED if found[name] != PINNED[name]]


def check_embedded() -> str | None:
    """Draw the embedded set again; None if every pixel is the same, else what is different."""
    drawn = draw_faces(EMBEDDED_COUNT, EMBEDDED_RESOLUTION)
    if digest(drawn) == EMBEDDED_SHA256:
        return None
    return f"the faces drawn now have sha256 {digest(drawn)}, the embedded ones {EMBEDDED_SHA256}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=EMBEDDED_COUNT)
    parser.add_argument("--resolution", type=int, default=EMBEDDED_RESOLUTION, help=f"a divisor of {RENDER_SIZE}")
    parser.add_argument("--first-seed", type=int, default=0, help="1024 and up are not in the embedded set")
    parser.add_argument("--output", type=Path, help="an .npz file; written with one array, images [N, H, W, 3] uint8")
    parser.add_argument("--check", action="store_true", help=f"draw {EMBEDDED} again and compare")
    args = parser.parse_args()
    if args.check == (args.output is not None):
        parser.error("give either --output FILE or --check")
    if args.check:
        difference = check_embedded()
        if difference:
            raise SystemExit("; ".join([difference, *version_drift()]))
        print(f"the same {EMBEDDED_COUNT} faces: sha256 {EMBEDDED_SHA256}")
        return
    images = draw_faces(args.count, args.resolution, args.first_seed)
    np.savez_compressed(args.output, images=images)
    print(f"{args.output}: {len(images)} faces of {args.resolution} x {args.resolution}, sha256 {digest(images)}")


if __name__ == "__main__":
    main()
