"""`pggan-fast convert`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import tyro

from pggan_fast.cli import UsageError
from pggan_fast.cli.files import check_writable
from pggan_fast.cli.options import Flag, option

if TYPE_CHECKING:
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table

    from pggan_fast.convert import Conversion, Layout
    from pggan_fast.convert.check import Agreement
    from pggan_fast.networks import Networks

Family = Literal["akanimax", "gan_lab", "gan_zoo", "genforce", "nashory", "rosinality", "wsconv"]
Source = Literal["auto", "official", Family]
FAMILIES: tuple[str, ...] = get_args(Family)


@dataclass
class Command:
    """Turn another program's checkpoint into a network file of ours that computes the same function, or say why not.

    Reads network pickles of the official code (TensorFlow and Theano) and checkpoints of seven PyTorch ports. Nothing
    of the file is executed. What is written is one safetensors with the weights of G, D and G_ema;
    `pggan_fast.networks.load` builds the networks from it. With --to it goes the other way.
    """

    input: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="IN")]]
    """The checkpoint."""
    output: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]]
    """The file to write; it is replaced in one go, or left as it was."""
    check: Flag = False
    """Compare with numpy on IN's own variables, float64, every level; if they differ, write nothing and exit with 1."""
    from_: Annotated[Source, tyro.conf.arg(name="from")] = "auto"
    """The program that wrote IN; auto looks at its keys."""
    to: Annotated[str | None, option(f"{{{','.join(FAMILIES)}}}")] = None
    """IN is a network file of ours: write it in another program's keys, where its networks compute the same."""
    nominal_scale: Flag = False
    """nashory: take the expectation of scales that its files do not hold; the function is nearly the same only."""

    def run(self) -> int:
        from pggan_fast import convert, networks
        from pggan_fast.benchmarks.table import console
        from pggan_fast.convert.errors import ConversionError

        if self.to is not None and self.to not in FAMILIES:
            raise UsageError(f"--to: got {self.to!r}, expected one of {', '.join(FAMILIES)}")
        check_writable("OUT", self.output)
        if self.to is not None and (self.check or self.from_ != "auto"):
            raise UsageError("--to: goes with neither --check nor --from: IN is a network file of ours")
        try:
            if self.to is not None:
                made = networks.load(self.input)
                for text in convert.write(self.output, made, self.to, nominal_scale=self.nominal_scale):
                    print(f"{self.output}: {text}")
                return 0
            conversion = convert.read(self.input, self.from_, nominal_scale=self.nominal_scale)
            made = conversion.networks()
        except (ConversionError, networks.NetworkFileError) as error:
            raise UsageError(str(error)) from None
        except OSError as error:
            raise UsageError(f"{error.filename or self.input}: {error.strerror or error}") from None
        screen = console()
        _tell(screen, conversion)
        if self.check and (failed := [a for a in _checked(screen, conversion, made) if not a.passed]):
            why = "are not the same function"
            if all(math.isnan(a.error) for a in failed):
                why = "give NaN or infinity, so that nothing can be compared"
            screen.print(f"{self.output} is not written: the converted networks {why}", markup=False, soft_wrap=True)
            return 1
        try:
            networks.save(self.output, made)
        except OSError as error:
            raise UsageError(f"OUT: cannot write {self.output}: {error.strerror or error}") from None
        kinds = ", ".join(made.present())
        screen.print(f"{self.output}: {kinds}", markup=False, highlight=False, soft_wrap=True)
        return 0


def _tell(screen: Console, conversion: Conversion) -> None:
    """Where every layer comes from, and what the file does not say."""
    from pggan_fast.convert import words

    told: dict[str, object] = {}
    for kind, layout in conversion.layouts.items():
        given = ", ".join(words.short(key, value) for key, value in layout.arguments.items())
        screen.print(f"{kind} ({conversion.family}): {given}", markup=False, highlight=False, soft_wrap=True)
        rows = [(given, row.ours, row.theirs, row.text) for row in layout.plan(kind)[1]]
        same = next((other for other, theirs in told.items() if theirs == rows), None)
        if same is None:
            screen.print(_table(screen, kind, layout), markup=False)
        else:
            screen.print(f"layer by layer as {same}", highlight=False)
        for text in layout.assumed:
            screen.print(f"{kind}: {text}", markup=False, highlight=False, soft_wrap=True)
        told[kind] = rows
    for kind, reason in conversion.refused.items():
        screen.print(f"{kind} is left out: {reason}", markup=False, highlight=False, soft_wrap=True)


def _table(screen: Console, kind: str, layout: Layout) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=_box(screen), pad_edge=False)
    for column in ("layer", "source", "shape", "transform"):
        table.add_column(column, no_wrap=True)
    _, rows = layout.plan(kind)
    for weight, bias in zip(rows[::2], rows[1::2], strict=True):
        text = f"{weight.text}; bias {bias.text}" if bias.steps else weight.text
        stem = weight.theirs.removesuffix("weight")
        source = stem.rstrip("./") if bias.theirs == f"{stem}bias" else f"{weight.theirs}, {bias.theirs}"
        cells = (weight.ours.removesuffix(".weight"), source, "x".join(map(str, weight.shape)), text)
        table.add_row(*map(Text, cells))  # names have brackets
    for layer in layout.absent:
        table.add_row(layer, "-", "", "zeros: the file has none")
    return table


def _checked(screen: Console, conversion: Conversion, made: Networks) -> list[Agreement]:
    from rich.table import Table

    from pggan_fast.convert.check import ALLOWED, compare

    nets = made.present()
    with screen.status("comparing with numpy"):
        found = [a for kind, layout in conversion.layouts.items() for a in compare(kind, layout, nets[kind])]
    table = Table(box=_box(screen), pad_edge=False)
    for column in ("network", "level", "alpha"):
        table.add_column(column, no_wrap=True)
    table.add_column("against numpy", justify="right", no_wrap=True)
    for a in found:
        verdict = f"{a.error:.1e}" if a.passed or math.isnan(a.error) else f"{a.error:.1e} > {ALLOWED:g}"
        table.add_row(a.kind, f"{a.resolution}x{a.resolution}", f"{a.alpha:g}", verdict)
    screen.print(table)
    return found


def _box(screen: Console) -> Box:
    from rich import box

    return box.SIMPLE_HEAVY if screen.is_terminal else box.ASCII2
