"""`pggan-fast doctor`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pggan_fast.cli import UsageError
from pggan_fast.cli.devices import parse_device
from pggan_fast.cli.options import Flag, option

if TYPE_CHECKING:
    import torch

    from pggan_fast.diagnosis import Finding

Dtype = Literal["float32", "float16", "bfloat16"]


@dataclass
class Command:
    """Check every op of every backend on this machine against the reference, and say what is missing and what helps.

    Outputs, gradients and gradients of gradients, each backend by its name, against plain PyTorch in float64. An error
    is told as a part of what is allowed, which is twice plain PyTorch's own in the same dtype and a few roundings;
    beside it stands the time of all of it at this tiny size. The exit status is 1 where something is wrong; what is
    only missing costs speed.
    """

    device: Annotated[str | None, option("DEVICE")] = None
    """cpu, cuda or cuda:N; cuda where there is one, if not given."""
    dtype: tuple[Dtype, ...] = ("float32", "bfloat16", "float16")
    """Of the numbers that are checked."""
    json: Flag = False
    """Print JSON."""

    def run(self) -> int:
        if not self.dtype:
            raise UsageError("--dtype: got none, expected some of float32, float16, bfloat16")
        import torch

        device = parse_device(self.device)
        names: list[str] = list(dict.fromkeys(self.dtype))
        found = {name: _examined(device, getattr(torch, name)) for name in names}
        remedies = _remedies(device)
        if self.json:
            rows = [{"dtype": name, **f._asdict()} for name, findings in found.items() for f in findings]
            print(json.dumps({"device": str(device), "findings": rows, "remedies": remedies}, indent=2))
        else:
            _print(device, found, remedies)
        return 1 if any(f.wrong for findings in found.values() for f in findings) else 0


def _examined(device: torch.device, dtype: torch.dtype) -> list[Finding]:
    from pggan_fast import diagnosis
    from pggan_fast.benchmarks.table import console

    with console(stderr=True).status("checking") as status:
        return list(diagnosis.examine(device, dtype, lambda text: status.update(f"checking {text}")))


def _remedies(device: torch.device) -> list[str]:
    """What is missing or not as it could be, each with what would change that."""
    from pggan_fast import settings
    from pggan_fast.backends import cpu, registry, report, tables

    reasons = [(name, registry.unavailable(name)) for name in registry.BACKENDS]
    found = [f"backend {name}: {reason}" for name, reason in reasons if reason is not None]
    if device.type == "cpu" and cpu.native is not None and cpu.serial_reason:
        found.append(cpu.serial_reason)
    found += [f"{kind}: untested; ops there run torch's own kernels (backend 'aten')" for kind in report.untested()]
    if tables.fingerprint(device) == "none":
        found.append("nothing has been measured on this device: `pggan-fast tune` finds the fastest way of each op")
    if (reason := tables.unwritable()) is not None:
        found.append(f"{reason}: checks are made again by every process; PGGAN_FAST_CACHE names another folder")
    narrowed = [name for name in ("PGGAN_FAST_BACKEND", "PGGAN_FAST_CPU_ISA") if settings.value(name)]
    return found + [f"{name}={settings.value(name)} is set: the choice is not free" for name in narrowed]


def _print(device: torch.device, found: dict[str, list[Finding]], remedies: list[str]) -> None:
    from pggan_fast.backends import report
    from pggan_fast.benchmarks.table import console

    screen = console()
    screen.print(f"{report.device_name(device)} ({device})", highlight=False)
    screen.print("error as a part of what is allowed, and the time of all of it at a tiny size", highlight=False)
    screen.print(_table(device, found, screen.is_terminal))
    said: set[str] = set()
    for name, findings in found.items():
        for f in findings:
            text = (
                f"WRONG {f.case} by {f.backend}, {name}: {f.reason}"
                if f.wrong
                else f"{f.case} by {f.backend}: {f.reason}"
            )
            if f.reason is not None and (f.wrong or _counts(f, findings)) and text not in said:
                said.add(text)
                screen.print(text, markup=False, highlight=False, soft_wrap=True)
    for text in remedies:
        screen.print(f"* {text}", markup=False, highlight=False, soft_wrap=True)


def _counts(finding: Finding, findings: list[Finding]) -> bool:
    """Whether a case is worth a line: it is wrong, or missing where the backend as a whole is not."""
    if finding.wrong:
        return True
    ran = [f for f in findings if f.backend == finding.backend and f.share is not None]
    return finding.reason is not None and bool(ran)


def _table(device: torch.device, found: dict[str, list[Finding]], terminal: bool) -> Any:
    from rich import box
    from rich.table import Table

    ran = {f.backend for findings in found.values() for f in findings if f.share is not None or f.wrong}
    names = [f.backend for f in next(iter(found.values()))]
    backends = [name for name in dict.fromkeys(names) if name in ran]
    table = Table(box=box.SIMPLE_HEAVY if terminal else box.ASCII2, pad_edge=False)
    table.add_column("op", no_wrap=True)
    for name in backends:
        for dtype in found:
            table.add_column(f"{name}\n{dtype}", justify="right", no_wrap=True)
    cells = {(f.case, f.backend, dtype): _cell(f) for dtype, findings in found.items() for f in findings}
    for case in dict.fromkeys(case for case, _, _ in cells):
        table.add_row(case, *(cells[case, name, dtype] for name in backends for dtype in found))
    return table


def _cell(finding: Finding) -> str:
    from pggan_fast.benchmarks.table import seconds

    if finding.wrong:
        return "WRONG"
    if finding.share is None or finding.seconds is None:
        return "-"
    return f"{finding.share:.0%} {seconds(finding.seconds)}"
