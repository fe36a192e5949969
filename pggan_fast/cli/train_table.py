"""What `pggan-fast train --dry-run` prints: the options and the schedule."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from pggan_fast.training.config import Config
from pggan_fast.training.schedule import Schedule, Stage

_NO_TITLE = {"box": box.SIMPLE_HEAD, "title_justify": "left"}


class Phase(NamedTuple):
    """A part of the schedule: from this many kimg on, and what holds at its beginning."""

    kimg: float
    fades: bool
    stage: Stage


def phases(schedule: Schedule, world: int = 1) -> Iterator[Phase]:
    """Those that the schedule's end leaves of it."""
    kimg = 0.0
    for number in range(len(schedule.levels)):
        for fades, length in ((True, schedule.transition_kimg), (False, schedule.training_kimg)):
            if (fades and not number) or not length or kimg >= schedule.total_kimg:
                continue
            yield Phase(kimg, fades, schedule.at(round(1000 * kimg) + (1 if fades else 0), world))
            kimg += length


def of_other_base(config: Config) -> str | None:
    """What levels' names stand for, where the first one is not 4x4: sizes that are odd early leave few levels."""
    height, width = config.G.get("base_shape", (4, 4))
    if (height, width) == (4, 4):
        return None
    times = config.schedule.levels[-1] // 4
    last = f", {4 * times}x{4 * times} for {times * width}x{times * height}" if times > 1 else ", the only level"
    return f"4x4 stands for images of {width}x{height}{last}; `pggan-fast data convert --resolution` makes other sizes"


def notes(config: Config, native: int, resolution_given: bool) -> Iterator[str]:
    """What may surprise about a run's resolution. native: the last level of the images."""
    if note := of_other_base(config):
        yield note
    last = config.schedule.levels[-1]
    if last < native and not resolution_given:
        yield (
            f"it ends at level {last}x{last}, and the images go up to {native}x{native}: --resolution {native} takes "
            "them so, and other schedules of --cfg may"
        )


def show(console: Console, config: Config, world: int, said: Iterable[str]) -> None:
    console.print_json(json.dumps(config.as_json()))
    table = Table("from kimg", "resolution", "", "minibatch", "learning rate", "tick kimg", **_NO_TITLE)  # type: ignore[arg-type]
    for phase in phases(config.schedule, world):
        stage = phase.stage
        table.add_row(
            f"{phase.kimg:g}",
            f"{stage.resolution}x{stage.resolution}",
            "fades in" if phase.fades else "",
            str(stage.minibatch),
            f"{stage.lr:g}",
            f"{stage.tick_kimg:g}",
        )
    console.print(table)
    for note in said:
        console.print(note, markup=False, soft_wrap=True)
    console.print(f"to {config.schedule.total_kimg:g} kimg, by {world} process{'es' if world > 1 else ''}")
