"""One of some processes that make folders of runs at once: `run_dir_program.py RANK FOLDER`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pggan_fast.training import run_dir

WORLD = 2
RUNS = 40  # of each


def main(rank: int, folder: Path) -> None:
    (folder / f"ready {rank}").touch()
    while len(list(folder.glob("ready *"))) < WORLD:
        time.sleep(0.001)
    # The same description in one half of the runs, one's own in the other
    made = [run_dir.create(folder / "runs", f"of-{rank}" if i % 2 else "of-all").name for i in range(RUNS)]
    (folder / f"made by {rank}").write_text("\n".join(made))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
