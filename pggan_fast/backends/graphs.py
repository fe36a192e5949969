"""CUDA graphs of a function of fixed shapes: captured when a shape comes again, checked, and the latest ones kept.

What depends on CUDA is in `Cuda`; what is captured, checked, kept and used is decided in `Graphs`, on any device.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from pggan_fast import settings
from pggan_fast.backends.registry import BackendUnavailable

KEPT = 4  # graphs; each holds the memory of one run
SEEN = 16  # keys that are remembered: one that comes again within so many is worth a capture
WARM_UPS = 3  # runs before a capture: kernels compiled and loaded, workspaces allocated
# A replay may differ from the uncaptured run by this much of the largest magnitude: cuBLAS and cuDNN may take other
# algorithms in a capture, in TF32 too. What goes wrong with graphs, old inputs and old weights, is off by all of it.
ROUNDINGS = {torch.float64: 1e-6, torch.float32: 1e-2, torch.float16: 1e-2, torch.bfloat16: 5e-2}

Function = Callable[..., Tensor]
Inputs = tuple[Tensor | None, ...]
Finish = Callable[[Tensor], Tensor]
Value = TypeVar("Value")


class Device(Protocol):
    def capture(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """What replays `run`, and the tensor that each replay writes."""

    def turn(self) -> AbstractContextManager[None]:
        """A block that follows the last one of its kind, on the host and on the device."""

    def capturing(self) -> bool:
        """Whether the caller captures a graph of its own, in which nothing else can be captured or replayed."""


class Cuda:
    """One CUDA device. pool: of memory, that graphs share; only for those none of which reads what another has made."""

    _captures = threading.Lock()  # torch allows one at a time in a process
    # cuBLAS keeps a workspace for each stream that it has run on: captures share one.
    _sides: ClassVar[dict[torch.device, torch.cuda.Stream]] = {}

    def __init__(self, device: torch.device, pool: Any = None) -> None:
        self._device, self._pool, self._lock = device, pool, threading.Lock()
        self._last: torch.cuda.Event | None = None

    def capture(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        # torch.cuda.graph leaves its stream the current one where a capture fails: the outer context brings ours back.
        with self._captures, torch.cuda.stream(torch.cuda.current_stream(self._device)):
            side = self._sides.setdefault(self._device, torch.cuda.Stream(self._device))
            side.wait_stream(torch.cuda.current_stream())
            try:
                with torch.cuda.stream(side):
                    for _ in range(WARM_UPS):
                        run()
            finally:  # where a run fails, too, what follows finds what was written, and may write it
                torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Other threads may allocate meanwhile.
            try:
                with torch.cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode="thread_local"):
                    result = run()
            except BaseException:
                del self._sides[self._device]
                self._free_generator()
                raise
        return graph.replay, result

    def _free_generator(self) -> None:
        """torch's own stays in a capture that failed, and would draw nothing more; a copy of its state has left it."""
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        generator = torch.cuda.default_generators[index]
        generator.graphsafe_set_state(generator.clone_state())

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        with self._lock:
            stream = torch.cuda.current_stream(self._device)
            if self._last is not None:
                stream.wait_event(self._last)  # another thread's stream may still use the same buffers
            try:
                yield
            finally:
                self._last = stream.record_event()

    def capturing(self) -> bool:
        return bool(torch.cuda.is_current_stream_capturing())


class Graph:
    """A captured function with the tensors that it reads and writes."""

    def __init__(self, device: Device, function: Function, inputs: Inputs) -> None:
        with torch.inference_mode(False), torch.no_grad():  # inference tensors could not be written outside of it
            # Captured on other values than those it is first replayed on: a graph that does not read its inputs shows.
            self._inputs = tuple(None if x is None else -x for x in inputs)
            self._replay, self._output = device.capture(lambda: function(*self._inputs))
        self.checked = False

    def __call__(self, inputs: Inputs) -> Tensor:
        """The output of a replay, which the next one writes over."""
        for mine, given in zip(self._inputs, inputs, strict=True):
            if mine is not None and given is not None:
                mine.copy_(given)
        self._replay()
        return self._output


class Fallback:
    """What follows where a graph cannot be used: launches one by one from then on (`failed`), after a RuntimeWarning.

    Where graphs are `demanded`, it raises RuntimeError instead, and under PGGAN_FAST_STRICT=1 BackendUnavailable.
    """

    def __init__(self, demanded: bool) -> None:
        self.demanded, self.failed = demanded, False

    def __call__(self, reason: str, stacklevel: int) -> None:
        """stacklevel: of the warning, counted from the caller's frame, which is 1."""
        message = f"pggan_fast: a CUDA graph cannot be used: {reason}"
        if self.demanded:
            raise RuntimeError(message)
        if settings.strict():
            raise BackendUnavailable(message)
        self.failed = True
        text = f"{message}; launches run one by one, which is slower"
        warnings.warn(text, RuntimeWarning, stacklevel=stacklevel + 1)


class Graphs:
    """Runs functions of tensors, by a CUDA graph from the second call with a key on (`demanded`: from the first).

    A first replay is compared with the uncaptured run. Where they differ, or nothing can be captured, all runs are
    uncaptured from then on, after a RuntimeWarning; with `demanded` RuntimeError is raised, and under
    PGGAN_FAST_STRICT=1 BackendUnavailable.
    """

    def __init__(self, device: Device, demanded: bool = False) -> None:
        self._device, self._fallback = device, Fallback(demanded)
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._graphs: OrderedDict[Hashable, Graph] = OrderedDict()

    def run(self, key: Hashable, function: Function, inputs: Inputs, finish: Finish | None = None) -> Tensor:
        """`finish(function(*inputs))`, without `finish` the output itself; it is the caller's own.

        key: all that the launches depend on but for the values of `inputs` and of the tensors that `function` holds.
        finish: makes a new tensor.
        """
        if not self._fallback.failed and not self._device.capturing():
            with self._device.turn():
                if self._comes_again(key):
                    output = self._replayed(key, function, inputs)
                    return output.clone() if finish is None else finish(output)
        output = function(*inputs)
        return output if finish is None else finish(output)

    def check_again(self) -> None:
        """Tensors that functions hold have been written: the next replay of each graph is compared again."""
        with self._device.turn():
            for graph in self._graphs.values():
                graph.checked = False

    def _comes_again(self, key: Hashable) -> bool:
        again = self._fallback.demanded or key in self._seen or key in self._graphs
        _newest(self._seen, key, None, SEEN)
        return again

    def _replayed(self, key: Hashable, function: Function, inputs: Inputs) -> Tensor:
        graph = self._graphs.get(key)
        if graph is not None and graph.checked:
            self._graphs.move_to_end(key)
            return graph(inputs)
        want = function(*inputs)  # an error of the function's own is raised here, and is no failed capture
        try:
            if graph is None:
                graph = Graph(self._device, function, inputs)
            got = graph(inputs)
            reason = difference(got, want, ROUNDINGS[want.dtype])
        except RuntimeError as error:
            reason = f"it failed: {error}"
        if graph is None or reason is not None:
            self._graphs.clear()
            self._fallback(str(reason), stacklevel=5)
            return want
        graph.checked = True
        _newest(self._graphs, key, graph, KEPT)
        return got


def _newest(kept: OrderedDict[Hashable, Value], key: Hashable, value: Value, most: int) -> None:
    """Keep the `most` latest ones."""
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)


def difference(got: Tensor, want: Tensor, rounding: float) -> str | None:
    """Why a replay is not the uncaptured run; None where it is, but for `rounding` of the largest magnitude."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"it gave {got.dtype} {tuple(got.shape)}, not {want.dtype} {tuple(want.shape)}"
    largest = float(want.abs().nan_to_num(0.0, 0.0).max())
    allowed = rounding * largest
    if torch.allclose(got, want, rtol=0.0, atol=allowed, equal_nan=True):
        return None
    return f"its output differs by {float((got - want).abs().max()):.3g} from the uncaptured one, {allowed:.3g} allowed"
