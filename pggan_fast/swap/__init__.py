"""fuse(model): somebody else's PGGAN, as it is, on the fused ops."""

from __future__ import annotations

import copy as copies
from typing import Any

import torch
from torch import Tensor

from pggan_fast.swap.chain import Chain
from pggan_fast.swap.families import FAMILIES
from pggan_fast.swap.fused import Forward, Fused, installed
from pggan_fast.swap.probe import Mismatch
from pggan_fast.swap.probe import probe as compare
from pggan_fast.swap.read import NO_INPUT, Reading, Unreadable, attempt, hooked, left_alone
from pggan_fast.swap.report import FuseReport, Row, merged
from pggan_fast.swap.sequential import Runs, runs
from pggan_fast.swap.timing import seconds
from pggan_fast.swap.trial import quiet

__all__ = ["FuseReport", "Row", "fuse", "unfuse"]

_WRAPPERS = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)


def fuse(model: torch.nn.Module, *, copy: bool = False, probe: bool = True, time: bool = False) -> FuseReport:
    """Run what a model of whatever origin does on the fused ops, where it is what they do.

    Classes, children, Parameters, buffers, state_dict keys and the model's own hooks stay: only an attribute `forward`
    is set on instances, which `unfuse` deletes. Optimisers, averages of weights, checkpoints, pickling and deepcopy go
    on working. What a module does is found out by running it on small random inputs and following every operation, not
    by its name. Equalised learning rates, plain convolutions and dense layers, leaky ReLU, pixel norm, nearest
    upsampling, 2x2 means and minibatch statistics are known in all their spellings; anything else runs as before.

    Whole networks of pro_gan_pytorch, pytorch_GAN_zoo, progressive-gan-pytorch (rosinality), pggan-pytorch (nashory),
    gan-lab, genforce and the WSConv2d tutorial are one replacement, blended levels and all; after one has grown, fuse
    it again. The generator of pro-gan-pth 3.4, whose first layer is a TypeError on current torch, runs again.

    Args:
        model: any module, in any mode, dtype and on any device; also wrapped by DistributedDataParallel or
            DataParallel (whose replicas run the original code). Fuse before torch.compile.
            A compiled model sees later changes of numbers and flags alone; copy.copy, which shares parts, copies
            none of this: use copy.deepcopy. Globals that a forward reads are taken as they are now.
        copy: leave `model` as it is, and fuse a copy of it, the report's `model`.
        probe: compare each replacement with the original (outputs, gradients, gradients of a gradient penalty, in
            float64 and in the model's dtype, in training and eval mode), and undo it where they differ.
        time: measure each replacement and what it replaces, forward and backward.
    Returns:
        What was replaced, and what was not and why. Random numbers, buffers, gradients and flags are as before.
    Raises:
        TypeError: `model` is no torch.nn.Module. Whatever stops it, the model is as before.
    Source: the forms of equalised learning rate and pixel norm in common PGGAN code; Karras et al. 2017, section 4.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    model = _copy(model) if copy else model
    report = FuseReport(model)
    before = {m: installed(m) for m in model.modules()}
    try:
        with quiet():
            _Fusing(report, probe, time).visit("", model)
    except BaseException:  # KeyboardInterrupt and no memory too: all of it or nothing
        unfuse(model)
        for forward in filter(None, before.values()):
            forward.install()
        raise
    return report


def unfuse(model: torch.nn.Module) -> torch.nn.Module:
    """Undo `fuse` in a model and all of its parts; returns it. Outputs are bit by bit what they were before.

    Raises TypeError where it is no torch.nn.Module.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    for m in model.modules():
        if (forward := installed(m)) is not None:
            forward.remove()
    return model


def _copy(model: torch.nn.Module) -> torch.nn.Module:
    """A deep copy; weights that pre-hooks computed in the last forward, which deepcopy refuses, lose their graph."""
    memo: dict[int, Any] = {}
    for m in model.modules():
        for value in vars(m).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    return copies.deepcopy(model, memo)


class _Fusing:
    """One call of `fuse`: goes down the module tree, from the largest part that can be replaced to the smallest."""

    def __init__(self, report: FuseReport, probe: bool, time: bool) -> None:
        self.report, self.probe, self.time = report, probe, time
        self._seen: set[torch.nn.Module] = set()

    def visit(self, name: str, m: torch.nn.Module) -> None:
        if m in self._seen:
            return None
        self._seen.add(m)
        before = installed(m)
        if before is not None and before.stale:
            before.remove()
        elif before is not None:
            self._row(name, m, before.pattern, "fused before", replaced=True)
            return self._inside(name, m, before)
        reason = left_alone(m) or _unfit(m)
        if reason is not None:
            self._row(name, m, type(m).__name__, reason)
            return None
        start = len(self.report.rows)
        forward = None if isinstance(m, _WRAPPERS) else self._family(name, m) or self._chain(name, m)
        own = [row for row in self.report.rows[start:] if row.name == name]
        if len(own) > 1:
            others = [row for row in self.report.rows[start:] if row.name != name]
            self.report.rows[start:] = [merged(own), *others]
        return self._inside(name, m, forward)

    def _row(self, name: str, m: torch.nn.Module, pattern: str, reason: str = "", *, replaced: bool = False) -> Row:
        row = Row(name, pattern, replaced, reason, kind=type(m).__name__)
        self.report.rows.append(row)
        return row

    def _inside(self, name: str, m: torch.nn.Module, forward: Forward | None) -> None:
        """What still runs: modules called as they are, or all children."""
        calls = {call.module for call in forward.calls} if forward is not None else None
        for path, child in m.named_modules(remove_duplicate=False):
            if (calls is None and path and "." not in path) or (calls is not None and child in calls):
                self.visit(f"{name}.{path}".lstrip("."), child)

    def _family(self, name: str, m: torch.nn.Module) -> Forward | None:
        for family in FAMILIES:
            try:
                forward = family.match(m)
            except Unreadable as unreadable:
                self._row(name, m, type(m).__name__, str(unreadable))
                continue
            if forward is not None and self._put(name, forward):
                return forward
        return None

    def _chain(self, name: str, m: torch.nn.Module) -> Forward | None:
        if type(m).forward is torch.nn.Module.forward:  # a list of modules
            return None
        readings, reasons = _readings(m)
        if not readings:
            if any(True for _ in m.parameters()):
                reason = hooked(m) or _not_finite(m) or next((r for r in reasons if r != NO_INPUT), NO_INPUT)
                self._row(name, m, type(m).__name__, reason)
            return self._runs(name, m)
        worth = _worth(readings)
        if worth:
            forward = Fused(m, worth)
            return forward if self._put(name, forward) else None
        if any(True for _ in m.parameters(recurse=False)):
            self._row(name, m, Fused(m, readings).pattern, "nothing to fuse it with")
        return None

    def _runs(self, name: str, m: torch.nn.Module) -> Forward | None:
        """Parts of an nn.Sequential, each a row of its own."""
        parts: list[Fused | torch.nn.Module] = list(m.children())
        for at, run in reversed(runs(m)):
            worth = _worth(_readings(run)[0])
            forward = Fused(run, worth) if worth else None
            if forward is not None and self._put(f"{name}[{at}:{at + len(run)}]", forward):
                forward.remove()  # which is called as it is
                parts[at : at + len(run)] = [forward]
        if not isinstance(m, torch.nn.Sequential) or not any(isinstance(part, Fused) for part in parts):
            return None
        whole = Runs(m, parts)
        whole.install()
        return whole

    def _put(self, name: str, forward: Forward) -> bool:
        """Installs a replacement, unless the probe objects."""
        row = self._row(name, forward.module, forward.pattern, replaced=True)
        forward.install()
        if self.probe:
            try:
                row.error = compare(forward)
            except Mismatch as mismatch:
                forward.remove()
                row.replaced, row.reason, row.error = False, f"undone: {mismatch}", mismatch.error
                return False
        if self.time:
            row.before, row.after = seconds(forward)
        return True


def _worth(readings: dict[int, Reading]) -> dict[int, Reading]:
    return {rank: reading for rank, reading in readings.items() if Chain(reading.steps).worth}


def _readings(m: torch.nn.Module) -> tuple[dict[int, Reading], list[str]]:
    """The module's chains by the rank of its input, and why there is none for a rank."""
    found = {rank: attempt(m, rank) for rank in (4, 2)}
    readings = {rank: reading for rank, reading in found.items() if isinstance(reading, Reading)}
    return readings, [str(unreadable) for unreadable in found.values() if isinstance(unreadable, Unreadable)]


def _unfit(m: torch.nn.Module) -> str | None:
    """What no part of the module can be replaced for."""
    if any(t.is_meta for t in m.parameters()):
        return "parameters on the meta device"
    kinds = {type(p).__name__ for p in m.parameters()} - {"Parameter"}
    return f"parameters of type {', '.join(sorted(kinds))}" if kinds else None


def _not_finite(m: torch.nn.Module) -> str | None:
    """Which parameter no comparison of values can be made with: the reasons of a reading are wrong then."""
    for name, p in m.named_parameters():
        if p.layout is torch.strided and p.dtype in _COMPARED and not bool(p.isfinite().all()):
            return f"{name} holds NaN or infinity, with which nothing can be compared"
    return None


_COMPARED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
