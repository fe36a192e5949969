"""Threads whose first calls of every op come at once, in a process that has computed nothing: `... THREADS`.

What they compute must be what one thread computes afterwards, bit by bit, and each kind of call is checked once.
"""

from __future__ import annotations

import sys
import threading

import torch
from public_ops import OPS, By, draw, everything, same
from torch import Tensor

from pggan_fast.backends import selfcheck, tables

ROUNDS = 2


def main(count: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    given = {name: draw(op) for name, op in OPS.items()}
    asked: list[str] = []
    check = selfcheck.check

    def counted(op: str, *arguments: object) -> selfcheck.Verdict:
        asked.append(op)
        return check(op, *arguments)  # type: ignore[arg-type]

    selfcheck.check = counted
    results: list[dict[str, dict[str, Tensor]]] = [{} for _ in range(count)]
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def work(at: int) -> None:
        try:
            start.wait()
            names = list(OPS)
            for name in (names[at % len(names) :] + names[: at % len(names)]) * ROUNDS:
                results[at][name] = compute(name)
        except BaseException as error:
            errors.append(error)

    def compute(name: str) -> dict[str, Tensor]:
        op = OPS[name]
        return everything(lambda **tensors: op.call(By(None), **tensors), given[name])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    for name in OPS:
        want = compute(name)
        for result in results:
            same(result[name], want)
    known = tables.table(torch.device("cpu"))["checks"]
    assert len(asked) == len(known), (len(asked), len(known))  # none twice, none forgotten
    print(len(asked))


if __name__ == "__main__":
    main(int(sys.argv[1]))
