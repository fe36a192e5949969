"""A replacement against what it replaces, on random input: outputs, gradients and the gradient of a gradient penalty.

In float64 the algebra must agree to 1e-9, in the model's own dtype the fused result must be about as near to the
float64 one as the original's is: kernels and order of rounding may differ, formulas may not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from pggan_fast.errors import line
from pggan_fast.swap.fused import Forward
from pggan_fast.swap.steps import NotAsRecorded
from pggan_fast.swap.trial import lively, muted, undisturbed

ALGEBRA = 1e-9
SEEDS = (0, 1, 2)  # in its own dtype: a value near zero may lie on either side of an activation's kink
KINDS = ("output", "gradient", "second-order gradient")

Figures = list[list[Tensor]]  # tensors of each kind


class Mismatch(Exception):
    """The replacement computes something else. `error` is the figure."""

    def __init__(self, message: str, error: float) -> None:
        super().__init__(message)
        self.error = error


def probe(fused: Forward) -> float:
    """Compares `fused`, which must be installed, with its module's own forward; leaves no trace in the module.

    Returns the largest relative error in float64. Raises Mismatch.
    """
    module = fused.module
    errors: list[float] = []
    with undisturbed(module), muted(module), torch.enable_grad():
        comparison = _Comparison(fused)
        for case in range(len(comparison.examples(0))):
            with fused.setting(case):
                errors += comparison.errors(case)
        for m in module.modules():
            m.training = not m.training
        with fused.setting(0):
            errors += comparison.errors(0)
    if not errors:
        raise Mismatch("nothing that the module takes could be compared", float("nan"))
    return max(errors)


def own_dtype(module: torch.nn.Module) -> torch.dtype:
    """That of the first parameter."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


class _Comparison:
    """One replacement, the values of its module's parameters, and its examples by seed."""

    def __init__(self, fused: Forward) -> None:
        self.fused, self.module, self.own = fused, fused.module, own_dtype(fused.module)
        named = list(self.module.named_parameters())
        self.parameters = {n: lively(p, self.own) if p.is_floating_point() else p.detach() for n, p in named}
        self.quiet = False  # biases small: large ones may keep all values of a channel on one side of an activation
        self.learned = [n for n, p in named if p.requires_grad]
        self.device = named[0][1].device if named else torch.device("cpu")

    def examples(self, seed: int) -> list[tuple[Any, ...]]:
        """Arguments in the module's dtype, the same ones for the same seed."""
        torch.manual_seed(seed)
        return self.fused.examples(torch.empty(0, dtype=self.own, device=self.device))

    def errors(self, case: int) -> list[float]:
        """The largest error in float64, after a comparison in the module's dtype too for the first case; none where
        the replacement leaves this input to the original."""
        self.quiet = case > 0
        truth = self._figures(False, self.examples(0)[case], torch.float64)
        got = self._figures(True, self.examples(0)[case], torch.float64)
        if got is None or truth is None or not all(bool(t.isfinite().all()) for ts in truth for t in ts):
            return []
        errors = [max(_errors(a, b), default=0.0) for a, b in zip(got, truth, strict=True)]
        for kind, error in zip(KINDS, errors, strict=True):
            if not error <= ALGEBRA:
                raise Mismatch(
                    f"for {_told(self.examples(0)[case])} the fused form's {kind} is {error:.1e} off the original's "
                    f"(relative, in float64; allowed {ALGEBRA:.0e})",
                    error,
                )
        if case == 0 and self.own != torch.float64:
            self._kernels(case, truth)
        return [max(errors)]

    def _kernels(self, case: int, truth: Figures | None) -> None:
        """In the module's own dtype, with other inputs where one does not agree."""
        for seed in SEEDS:
            args = self.examples(seed)[case]
            truth = truth if seed == SEEDS[0] else self._figures(False, args, torch.float64)
            failure = None if truth is None else self._off(args, truth)
            if failure is None:
                return
        raise failure  # type: ignore[misc]

    def _off(self, args: tuple[Any, ...], truth: Figures) -> Mismatch | None:
        theirs, ours = (self._figures(which, args, self.own) for which in (False, True))
        if theirs is None or ours is None:  # the original does not run in this dtype itself
            return None
        allowed = min(64.0 * torch.finfo(self.own).eps, 0.06)
        for kind, *figures in zip(KINDS, ours, theirs, truth, strict=True):
            a, b = (max(_errors(each, figures[2]), default=0.0) for each in figures[:2])
            if b == b and not a <= 4.0 * b + allowed:
                dtype = str(self.own).removeprefix("torch.")
                return Mismatch(
                    f"for {_told(args)} in {dtype} the fused form's {kind} is {a:.1e} off the one in float64, the "
                    f"original's is {b:.1e} off (relative)",
                    a,
                )
        return None

    def _figures(self, ours: bool, args: tuple[Any, ...], dtype: torch.dtype) -> Figures | None:
        """All that is compared, of ours or the original; None where ours does not take the arguments, or the original
        fails."""
        parameters = {n: t / 32 if self.quiet and _vector(t) else t for n, t in self.parameters.items()}
        state = {n: _cast(t, dtype) for n, t in (*parameters.items(), *self.module.named_buffers())}
        args = tree_map(lambda a: _cast(a, dtype), args)
        inputs = [a.requires_grad_() for a in tree_leaves(args) if isinstance(a, Tensor) and a.is_floating_point()]
        learned = [state[n].requires_grad_() for n in self.learned]
        self.fused.remove()
        if ours:
            self.fused.install()
        self.fused.strict = True
        torch.manual_seed(0)  # for modules that draw, which are called in the same order
        try:
            out = torch.func.functional_call(self.module, state, args)
            outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
            return _derivatives(outputs, inputs, learned)
        except NotAsRecorded:
            return None
        except Exception as error:
            if not ours:
                return None
            reason = f"the fused form fails for {_told(args)}: {type(error).__name__}: {line(error)}"
            raise Mismatch(reason, float("nan")) from error
        finally:
            self.fused.strict = False


def _told(args: tuple[Any, ...]) -> str:
    """Arguments in a message."""
    each = ["x".join(map(str, a.shape)) if isinstance(a, Tensor) else line(a, 40) for a in args]
    return f"{'input' if len(each) == 1 else 'arguments'} {', '.join(each)}"


def _vector(t: Tensor) -> bool:
    return t.is_floating_point() and t.numel() == max(t.shape, default=1)


def _cast(t: Any, dtype: torch.dtype) -> Any:
    """A copy of a tensor, in `dtype` if it is a floating-point one."""
    if not isinstance(t, Tensor):
        return t
    return t.detach().to(dtype, copy=True) if t.is_floating_point() else t.detach().clone()


def _derivatives(outputs: list[Tensor], inputs: list[Tensor], parameters: list[Tensor]) -> Figures:
    """Outputs, their gradients, and those of a gradient penalty."""
    wanted = [*inputs, *parameters]
    loss = sum(((t.float() if t.dtype.itemsize < 4 else t) * _weights(t)).sum() for t in outputs)
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        return [[t.detach() for t in outputs], [], []]
    first = _gradients(loss, wanted, create_graph=True)
    penalty = sum((g.float() if g.dtype.itemsize < 4 else g).square().sum() for g in first[: len(inputs)])
    second = _gradients(penalty, wanted) if isinstance(penalty, Tensor) and penalty.requires_grad else []
    return [[t.detach() for t in ts] for ts in (outputs, first, second)]


def _weights(t: Tensor) -> Tensor:
    """Every element counts differently."""
    return torch.linspace(1.0, 2.0, t.numel(), dtype=torch.float64, device=t.device).view(t.shape).to(t.dtype)


def _gradients(loss: Tensor, wanted: list[Tensor], create_graph: bool = False) -> list[Tensor]:
    found = torch.autograd.grad(loss, wanted, create_graph=create_graph, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, wanted, strict=True)]


def _errors(got: list[Tensor], want: list[Tensor]) -> list[float]:
    """Relative, in the Euclidean norm; a tensor far smaller than its neighbours counts by theirs."""
    if not want and not got:
        return []
    if [t.shape for t in got] != [t.shape for t in want]:
        shapes = [[tuple(t.shape) for t in ts] for ts in (got, want)]
        if not got or not want:  # all zero on one side
            return [float(t.double().norm()) for t in (*got, *want)]
        raise Mismatch(f"the fused form gives shapes {shapes[0]}, the original {shapes[1]}", float("nan"))
    norms = [float(t.double().norm()) for t in want]
    floor = max(1e-3 * max(norms), 1e-30)
    return [
        float((a.double() - b.double()).norm()) / max(norm, floor) for a, b, norm in zip(got, want, norms, strict=True)
    ]
