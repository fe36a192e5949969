"""Official pickles, written from states of our networks: genuine pickles of stand-ins for the official classes."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from oracle import models as oracle

Variables = list[tuple[str, Any]]


def g_state(draw: np.random.Generator, resolution: int, dtype: str = "float64", **sizes: Any) -> dict[str, Any]:
    shapes = oracle.generator_shapes(resolution, **sizes)
    return {key: draw.standard_normal(shape).astype(dtype) for key, shape in shapes.items()}


def d_state(draw: np.random.Generator, resolution: int, dtype: str = "float64", **sizes: Any) -> dict[str, Any]:
    shapes = oracle.discriminator_shapes(resolution, **sizes)
    return {key: draw.standard_normal(shape).astype(dtype) for key, shape in shapes.items()}


def _put(
    out: Variables,
    state: Mapping[str, Any],
    wscale: bool,
    name: str,
    key: str,
    change: Callable[[Any], Any],
    gain: float = math.sqrt(2.0),
) -> None:
    """Add a layer's weight, without wscale the one that it runs with, and its bias."""
    weight, fan_in = state[f"{key}.weight"], math.prod(state[f"{key}.weight"].shape[1:])
    weight = weight if wscale else weight * (gain / math.sqrt(fan_in))
    out.append((f"{name}/weight", np.ascontiguousarray(change(weight))))
    out.append((f"{name}/bias", state[f"{key}.bias"]))


def hwio(w: Any) -> Any:
    return w.transpose(2, 3, 1, 0)


def g_variables(state: Mapping[str, Any], resolution: int, fused: bool = True, wscale: bool = True) -> Variables:
    """The TensorFlow variables of a generator that computes what ours does with `state`."""
    out: Variables = [("lod", np.float32(0.0))]
    put = functools.partial(_put, out, state, wscale)
    turned = lambda w: w[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)  # noqa: E731
    put("4x4/Dense", "blocks.4x4.dense", lambda w: w.T, math.sqrt(2.0) / 4.0)
    put("4x4/Conv", "blocks.4x4.conv", hwio)
    levels = oracle.levels(resolution)
    for r in levels[1:]:
        put(f"{r}x{r}/Conv0_up" if fused else f"{r}x{r}/Conv0", f"blocks.{r}x{r}.conv_up", turned if fused else hwio)
        put(f"{r}x{r}/Conv1", f"blocks.{r}x{r}.conv", hwio)
    for lod, r in enumerate(reversed(levels)):
        put(f"ToRGB_lod{lod}", f"to_rgb.{r}x{r}", hwio, 1.0)
    return out


def d_variables(state: Mapping[str, Any], resolution: int, fused: bool = True, wscale: bool = True) -> Variables:
    out: Variables = [("lod", np.float32(0.0))]
    put = functools.partial(_put, out, state, wscale)
    for lod, r in enumerate(reversed(oracle.levels(resolution))):
        put(f"FromRGB_lod{lod}", f"from_rgb.{r}x{r}", hwio)
        if r > 4:
            put(f"{r}x{r}/Conv0", f"blocks.{r}x{r}.conv", hwio)
            put(f"{r}x{r}/Conv1_down" if fused else f"{r}x{r}/Conv1", f"blocks.{r}x{r}.conv_down", hwio)
    put("4x4/Conv", "blocks.4x4.conv", hwio)
    put("4x4/Dense0", "blocks.4x4.dense", lambda w: w.T)
    put("4x4/Dense1", "blocks.4x4.head", lambda w: w.T, 1.0)
    return out


def theano_g(state: Mapping[str, Any], resolution: int, draw: np.random.Generator, wscale: bool = True) -> list[Any]:
    """Theano's parameters: kernels [out, in, k, k] of true convolutions, each with a scale of its own."""
    out: list[Any] = []
    c = len(state["blocks.4x4.dense.bias"])

    def put(key: str, change: Any, gain: float = math.sqrt(2.0)) -> None:
        _theano_layer(out, state, key, change, gain, draw if wscale else None)

    put("blocks.4x4.dense", lambda w: w.reshape(c, 4, 4, -1).transpose(0, 3, 1, 2), math.sqrt(2.0) / 4.0)
    put("blocks.4x4.conv", _turned)
    for r in oracle.levels(resolution)[1:]:
        put(f"blocks.{r}x{r}.conv_up", _turned)
        put(f"blocks.{r}x{r}.conv", _turned)
    for r in reversed(oracle.levels(resolution)):
        put(f"to_rgb.{r}x{r}", lambda w: w[:, :, 0, 0].T, 1.0)
    return out


def theano_d(state: Mapping[str, Any], resolution: int, draw: np.random.Generator, wscale: bool = True) -> list[Any]:
    out: list[Any] = []

    def put(key: str, change: Any, gain: float = math.sqrt(2.0)) -> None:
        _theano_layer(out, state, key, change, gain, draw if wscale else None)

    levels = oracle.levels(resolution)[::-1]
    put(f"from_rgb.{levels[0]}x{levels[0]}", lambda w: w[:, :, 0, 0].T)
    for r in levels[:-1]:
        put(f"blocks.{r}x{r}.conv", _turned)
        put(f"blocks.{r}x{r}.conv_down", _turned)
        put(f"from_rgb.{r // 2}x{r // 2}", lambda w: w[:, :, 0, 0].T)
    put("blocks.4x4.conv", _turned)
    put("blocks.4x4.dense", lambda w: _turned(w.reshape(len(w), -1, 4, 4)))
    put("blocks.4x4.head", lambda w: w.T, 1.0)
    return out


def _turned(w: Any) -> Any:
    return np.ascontiguousarray(w[:, :, ::-1, ::-1])


def _theano_layer(out: list[Any], state: Mapping[str, Any], key: str, change: Any, gain: float, draw: Any) -> None:
    weight, own = state[f"{key}.weight"], 1.0
    weight = weight * (gain / math.sqrt(math.prod(weight.shape[1:])))
    if draw is not None:
        own = float(draw.uniform(0.02, 0.5))
    out.append(np.ascontiguousarray(change(weight / own)))
    if draw is not None:
        out.append(np.array(own, weight.dtype))
    out.append(state[f"{key}.bias"])


@contextlib.contextmanager
def stand_in(module: str, name: str = "Network") -> Iterator[Any]:
    """A class of this name that pickles as the official one does."""
    made, before = types.ModuleType(module), sys.modules.get(module)

    class Network:
        def __init__(self, state: Any) -> None:
            self.state = state

        def __getstate__(self) -> Any:
            return self.state

    Network.__module__, Network.__qualname__, Network.__name__ = module, name, name
    setattr(made, name, Network)
    sys.modules[module] = made
    try:
        yield Network
    finally:
        del sys.modules[module]
        if before is not None:
            sys.modules[module] = before


class Writer(pickle._Pickler):  # type: ignore[name-defined,misc]
    """As the versions of Python and numpy of those days wrote: numpy.core, and Python 2's strings if asked for."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]
    python2 = False

    def save_bytes(self, data: bytes) -> None:
        if not self.python2:
            pickle._Pickler.save_bytes(self, data)  # type: ignore[attr-defined]
        else:
            self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
            self.memoize(data)

    def save_str(self, text: str) -> None:
        if not self.python2:
            pickle._Pickler.save_str(self, text)  # type: ignore[attr-defined]
        else:
            self.write(pickle.SHORT_BINSTRING + bytes([len(text)]) + text.encode())
            self.memoize(text)

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = getattr(obj, "__module__", "") or ""
        if module.startswith("numpy._core"):
            self.write(b"c" + module.replace("_core", "core").encode() + b"\n" + obj.__name__.encode() + b"\n")
            self.memoize(obj)
        else:
            pickle._Pickler.save_global(self, obj, name)  # type: ignore[attr-defined]

    dispatch[bytes] = save_bytes
    dispatch[str] = save_str
    dispatch[types.FunctionType] = save_global


def written(value: Any, protocol: int = 4, python2: bool = False) -> bytes:
    file = io.BytesIO()
    writer = Writer(file, protocol)
    writer.python2 = python2
    writer.dump(value)
    return file.getvalue()


def tensorflow_network(cls: Any, function: str, kwargs: Mapping[str, Any], variables: Any) -> Any:
    return cls(
        {
            "version": 2,
            "name": function[0],
            "static_kwargs": dict(kwargs),
            "build_module_src": "raise SystemExit('executed')",
            "build_func_name": function,
            "variables": variables,
        }
    )


def theano_network(cls: Any, function: str, spec: Mapping[str, Any], values: Any) -> Any:
    return cls(
        {
            "build_func_spec": {"func": function, **spec},
            "param_values": values,
            "toplevel_params": {"cur_lod": np.float32(0.0)},
        }
    )
