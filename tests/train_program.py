"""One small training in a process of its own, which may be killed:

    python train_program.py OUTDIR [--kimg KIMG] [--kill CALL N] [--steps FOLDER]

Goes on with what is in OUTDIR, as `pggan-fast train` does, and prints a digest of all that it ends with. --kill: the
process, of several the last, is killed as it enters the N-th call of a function of os such as replace, or of a step of
the trainer. --steps: each process keeps its gradients and weights of every iteration in a file of its rank there.
Under torchrun it is one of several processes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from small_trainings import config, images, state_of

from pggan_fast.training import distributed, resume, run_dir
from pggan_fast.training.loop import Run, Settings
from pggan_fast.training.trainer import Trainer


def killing(call: Callable[..., Any], at: int) -> Callable[..., Any]:
    calls = 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)

    return counted


def digest(run: Run) -> str:
    """Of every tensor of the training."""
    found = hashlib.sha256()
    for name, t in sorted(state_of(run.trainer).items()):
        found.update(name.encode())
        found.update(t.numpy().tobytes())
    return found.hexdigest()


def train(options: argparse.Namespace) -> Run:
    dataset = images()
    asked = config(dataset, {} if options.kimg is None else {"total_kimg": options.kimg})
    with distributed.joined(torch.device("cpu")) as world:
        if options.kill is not None and world.rank == world.size - 1:
            call, at = options.kill
            owner = os if hasattr(os, call) else Trainer
            setattr(owner, call, killing(getattr(owner, call), int(at)))
        found = distributed.shared(world, lambda: resume.find(options.outdir, asked))
        folder = distributed.shared(
            world, lambda: run_dir.create(options.outdir, "small") if found is None else found.folder
        )
        run = Run(asked, dataset, folder, world, Settings(snap=2), Console(width=200))
        if found is not None:
            run.load_state_dict(found.state)
        steps: list[dict[str, torch.Tensor]] = []
        if options.steps is not None:
            run.trainer.iteration = kept(run.trainer, steps)  # type: ignore[method-assign]
        assert run.run() == 0
        if options.steps is not None:
            torch.save(steps, options.steps / f"{world.rank}.pt")
        return run


def kept(trainer: Trainer, steps: list[dict[str, torch.Tensor]]) -> Callable[..., Any]:
    real = trainer.iteration

    def iteration(*args: Any) -> Any:
        stage = real(*args)
        found = {
            f"{name}.{key}": t.clone() for name, net in trainer._nets().items() for key, t in net.state_dict().items()
        }
        for name, net in trainer._nets().items():
            found |= {f"d {name}.{key}": p.grad.clone() for key, p in net.named_parameters() if p.grad is not None}
        steps.append(found)
        return stage

    return iteration


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--kimg", type=float)
    parser.add_argument("--kill", nargs=2)
    parser.add_argument("--steps", type=Path)
    print("digest", digest(train(parser.parse_args())))


if __name__ == "__main__":
    main()
