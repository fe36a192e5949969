"""A stage's steps as CUDA graphs: each captured once, compared with the uncaptured step, and replayed from then on.

What is captured is the step of `step.py` whole, with zeroed gradients and Adam. It reads images, latents, labels, alpha
and the learning rate from tensors that are written before each replay, and decides on the device whether Adam is
skipped, so that the host waits for nothing.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from pggan_fast.backends import forced, registry, signature
from pggan_fast.backends.graphs import ROUNDINGS, WARM_UPS, Cuda, Device, Fallback, Graph, Inputs, difference
from pggan_fast.training.config import PRECISIONS
from pggan_fast.training.distributed import World
from pggan_fast.training.step import StepResult

# What a replay writes may be this much off what the uncaptured step wrote, of the 2-norm of the change. Adam divides
# each gradient by its own size, so that rounding alone turns the signs of some steps; a graph with an old input or an
# old rate, or with a step too many or too few, is off by all of it.
OFF = 0.25

Step = Callable[..., StepResult]
Written = Mapping[str, Sequence[Tensor]]  # the tensors that a step writes, by kind


def wanted(graphs: bool | None, world: World, precision: str) -> bool:
    """Whether a training captures its steps: None is where it can. Raises ValueError for True where it cannot."""
    can = registry.kind_of(world.device.type) == "cuda" and world.size == 1 and precision != "fp16"
    if graphs and not can:
        raise ValueError(
            "graphs: True needs a CUDA device, one process and a precision without a loss scale, fp32 or bf16; got "
            f"{world.device}, {world.size} of them and {precision}"
        )
    return can if graphs is None else graphs


def of_device(device: torch.device, precision: str, demanded: bool) -> Steps:
    """Steps on a CUDA device, whose graphs share the memory that a step takes."""
    return Steps(lambda: Cuda(device, torch.cuda.graph_pool_handle()), precision, demanded)


class Steps:
    """Runs the steps of a training by name: uncaptured WARM_UPS times, captured once, then by replays.

    It has graphs of one key at a time: another one, and `forget`, drop them all with their memory. A first replay is
    compared with the uncaptured step from the same state. Where they differ, or nothing can be captured, see
    `graphs.Fallback`. Where a step itself runs out of memory, and a capture that was demanded, the state is the one
    before the step, and the error goes on.

    Args:
        make: the device, for graphs that share memory; called anew once they are dropped.
    """

    def __init__(self, make: Callable[[], Device], precision: str, demanded: bool = False) -> None:
        self._make, self._fallback = make, Fallback(demanded)
        self._rounding = ROUNDINGS[PRECISIONS[precision] or torch.float32]
        self._key: Hashable = None
        self._device: Device | None = None
        self._graphs: dict[str, Graph] = {}
        self._names: dict[str, tuple[str, ...]] = {}  # of each step's terms
        self._runs: collections.Counter[str] = collections.Counter()

    def run(
        self,
        name: str,
        key: Hashable,
        step: Step,
        optimizer: torch.optim.Optimizer,
        inputs: Inputs,
        written: Callable[[], Written],
    ) -> StepResult:
        """`step(*inputs)`, whose `applied` is a tensor: 1.0, or 0.0 of a step that was skipped.

        key: all that the launches depend on but for torch's settings, and the values of `inputs` and of the tensors
        that `step` holds; the same for each name. optimizer: that which `step` steps. written: what it writes, asked
        for once the optimiser has its state.
        """
        device = next(x.device for x in inputs if x is not None)
        key = key, forced.named(None), signature.switches(device.type), *_algorithms()
        if key != self._key:
            self.forget()
            self._key = key
        lr = torch.full((), optimizer.param_groups[0]["lr"], device=device)
        told = self._told(name, self._function(name, step, optimizer), (lr, *inputs), optimizer, written)
        *terms, applied = told.unbind()
        by_name = dict(zip(self._names[name], terms, strict=True))
        return StepResult(by_name["loss"], applied, by_name)

    def forget(self) -> None:
        """Drop all graphs: tensors that they write were replaced, or their memory is needed."""
        if self._graphs:
            self._graphs.clear()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # their pool's memory stays reserved without
        self._device = None
        self._runs.clear()

    def _function(self, name: str, step: Step, optimizer: torch.optim.Optimizer) -> Callable[..., Tensor]:
        """The step as one of tensors: its terms, and whether it was applied."""

        def function(lr: Tensor, *inputs: Tensor | None) -> Tensor:
            with torch.enable_grad(), _on_device(optimizer, lr):
                result = step(*inputs)
            self._names[name] = tuple(result.terms)
            return torch.stack([*result.terms.values(), torch.as_tensor(result.applied, dtype=result.loss.dtype)])

        return function

    def _told(
        self,
        name: str,
        function: Callable[..., Tensor],
        inputs: Inputs,
        optimizer: torch.optim.Optimizer,
        written: Callable[[], Written],
    ) -> Tensor:
        if (graph := self._graphs.get(name)) is not None:
            return graph(inputs).clone()  # the next replay of any graph may write over it
        if self._fallback.failed:
            return function(*inputs)
        if self._runs[name] < WARM_UPS:
            told = function(*inputs)
            self._runs[name] += 1
            return told
        try:
            state = _State(written())
        except RuntimeError as error:  # the copies of what it writes do not fit
            if self._fallback.demanded or not is_out_of_memory(error):
                raise
            self._give_up(name, f"it failed: {error}")
            return function(*inputs)
        try:
            return self._first(name, function, inputs, optimizer, state)
        except BaseException as error:
            if not isinstance(error, RuntimeError) or is_out_of_memory(error):
                state.restore()
            raise

    def _give_up(self, name: str, reason: str) -> None:
        self.forget()
        self._fallback(f"{name}'s step: {reason}", stacklevel=9)

    def _first(
        self,
        name: str,
        function: Callable[..., Tensor],
        inputs: Inputs,
        optimizer: torch.optim.Optimizer,
        state: _State,
    ) -> Tensor:
        """The step uncaptured, and again by a new graph from the same state."""
        want = function(*inputs)
        if not want[-1]:  # skipped: nothing was written that a replay could be compared with
            return want
        after: Written | None = None
        try:
            after = state.now()
            self._device = self._device or self._make()
            graph = Graph(self._device, function, inputs)
            state.restore()  # from what the capture's own runs wrote
            got = graph(inputs).clone()
            reason = difference(got, want, self._rounding) or state.difference(after)
        except RuntimeError as error:
            if is_out_of_memory(error) and self._fallback.demanded:
                raise
            reason = f"it failed: {error}"
        optimizer.zero_grad(set_to_none=True)  # the gradients' memory is for the next graph to use, too
        if reason is None:
            self._graphs[name] = graph
            return got
        if after is not None:
            state.write(after)
        self._give_up(name, reason)
        return want


class _State:
    """The tensors that a step writes, and what was in them."""

    def __init__(self, written: Written) -> None:
        self._written = {kind: [t.detach() for t in tensors] for kind, tensors in written.items() if tensors}
        self._before = self.now()

    def now(self) -> Written:
        return {kind: [t.clone() for t in tensors] for kind, tensors in self._written.items()}

    def write(self, values: Written) -> None:
        with torch.no_grad():
            for kind, tensors in self._written.items():
                torch._foreach_copy_(tensors, list(values[kind]))

    def restore(self) -> None:
        self.write(self._before)

    def difference(self, want: Written) -> str | None:
        """Why what is there now is not `want`; None where it is, but for roundings."""
        for kind, now in self._written.items():
            changed, size = _norm(want[kind], self._before[kind]), _norm(want[kind])
            off, allowed = _norm(now, want[kind]), OFF * changed + torch.finfo(torch.float32).eps * size
            if not off <= allowed:
                return f"the {kind} that it wrote are {off:.3g} off the uncaptured ones, {allowed:.3g} allowed"
        return None


def _algorithms() -> tuple[bool, ...]:
    """torch's settings that choose between kernels of one precision."""
    cudnn = torch.backends.cudnn
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark, cudnn.enabled


def _norm(tensors: Sequence[Tensor], less: Sequence[Tensor] | None = None) -> float:
    """The 2-norm over all of them, less others."""
    each = tensors if less is None else [a - b for a, b in zip(tensors, less, strict=True)]
    return float(torch.nn.utils.get_total_norm(each))


@contextmanager
def _on_device(optimizer: torch.optim.Optimizer, lr: Tensor) -> Iterator[None]:
    """The optimiser with what a graph needs: a rate that is read, and a skip that is decided, on the device.

    Afterwards it is as it was, so that a checkpoint does not tell whether there were graphs. torch warns of
    `capturable` outside of a capture, where the fused one does not look at it.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"], group["capturable"] = lr, lr.is_cuda and torch.cuda.is_current_stream_capturing()
    optimizer.found_inf = torch.zeros_like(lr)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"], group["capturable"] = rate, False


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)
