"""Ops in a process, then in children that were forked and spawned from it: `... FOLDER`.

The parent has used several threads. A forked child uses one: torch's own loops wait forever for threads of GNU's OpenMP
that were not forked with it, as PyTorch's data loaders know.
"""

from __future__ import annotations

import multiprocessing
import sys

import torch
from public_ops import OPS, By, draw, everything, same

SIZE = 4  # times the table's images: enough for several threads
Results = dict[str, dict[str, torch.Tensor]]


def results(threads: int) -> Results:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    found = {}
    for name, op in OPS.items():
        call = op.call
        found[name] = everything(lambda call=call, **tensors: call(By(None), **tensors), draw(op, SIZE))
    return found


def child(path: str) -> None:
    torch.save(results(1), path)


def agree(got: Results, want: Results) -> None:
    for name in OPS:
        same(got[name], want[name])


def main(folder: str) -> None:
    several, one = results(2), results(1)
    for way in ("fork", "spawn"):
        path = f"{folder}/{way}.pt"
        process = multiprocessing.get_context(way).Process(target=child, args=(path,))
        process.start()
        process.join(240)
        if process.is_alive():
            process.kill()
            raise SystemExit(f"a child by {way} hangs")
        assert process.exitcode == 0, (way, process.exitcode)
        agree(torch.load(path, weights_only=True), one)
    agree(results(2), several)
    print("the same")


if __name__ == "__main__":
    main(sys.argv[1])
