"""Network pickles of the official code: TensorFlow's `tfutil.Network` and, before it, Theano's `network.Network`.

TensorFlow: a tuple (G, D, Gs), each with the state {version: 2, name, static_kwargs, build_module_src,
build_func_name, variables: [(name, array)]}. `build_module_src` is Python source that the official code executes; here
it is text that is not looked at. Convolutions are [k, k, in, out], dense layers [in, out]; `Conv0_up` is
[k, k, out, in], of a transposed convolution, which is a convolution of the enlarged map with the flipped kernel.

Theano: the parameters are a list without names, in the order in which the layers were built: weight, its scale (if
use_wscale) and bias of each. Its convolutions are true ones, of the flipped kernel, [out, in, k, k].
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pggan_fast.convert import numpy_forward
from pggan_fast.convert.errors import ConversionError
from pggan_fast.convert.layout import TRANSPOSE, Layer, Layout, Step, flip, in_float64, name, permute, view
from pggan_fast.convert.unpickle import NUMPY, Array, Interpreter, Name, Object
from pggan_fast.errors import line

TENSORFLOW, THEANO = Name("tfutil", "Network"), Name("network", "Network")
_ROLES = ("G", "D", "G_ema")  # the tuple's order: Gs is last
_KERNEL = permute(3, 2, 0, 1)
# What the official code takes of static_kwargs: (default, of G, of D); it ignores the rest
_COMMON = {"num_channels": 1, "resolution": 32, "label_size": 0, "fmap_base": 8192, "fmap_decay": 1.0, "fmap_max": 512,
           "use_wscale": True, "fused_scale": True, "dtype": "float32"}  # fmt: skip
_DEFAULTS = {
    "G_paper": {**_COMMON, "latent_size": None, "normalize_latents": True, "use_pixelnorm": True,
                "pixelnorm_epsilon": 1e-8, "use_leakyrelu": True},
    "D_paper": {**_COMMON, "mbstd_group_size": 4},
}  # fmt: skip
_WITHOUT_MEANING = {"structure", "is_template_graph", "mbstd_num_features"}
_THEANO_FUNCTIONS = {
    "G_paper": "G_paper",
    "G_progressive_8": "G_paper",
    "D_paper": "D_paper",
    "D_progressive_8": "D_paper",
}
# What the Theano code could do and our networks (as the official TensorFlow code) do only this way
_THEANO_ONLY = {"label_size": 0, "use_batchnorm": False, "tanh_at_end": None, "mbstat_func": "Tstdeps",
                "mbstat_avg": "all", "mbdisc_kernels": None, "use_layernorm": False}  # fmt: skip


def recognises(value: Any) -> bool:
    return any(isinstance(v, Object) and v.cls in (TENSORFLOW, THEANO) for v in _members(value))


def load(data: bytes) -> Any:
    """The pickle's value, networks being `Object`s. Raises ConversionError."""
    reader = Interpreter(io.BytesIO(data), NUMPY, lambda cls: cls in (TENSORFLOW, THEANO))
    return reader.load()


def layouts(value: Any) -> dict[str, Layout]:
    """Our names of the networks -> how they map."""
    members = _members(value)
    if not members or not all(isinstance(v, Object) for v in members):
        raise ConversionError("expected a pickle of the networks (G, D, Gs), or of one of them")
    made = [_layout(v) for v in members]
    roles = _ROLES if len(made) == 3 else ("D" if _is_d(made[0]) else "G_ema",)
    if len(made) not in (1, 3) or [_is_d(layout) for layout in made] != [role == "D" for role in roles]:
        raise ConversionError("expected a pickle of the networks (G, D, Gs), got others, or in another order")
    for role, layout in zip(roles, made, strict=True):
        layout.tell_changes(role)
    return dict(zip(roles, made, strict=True))


def _members(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def _is_d(layout: Layout) -> bool:
    return "downsample" in layout.arguments


def _layout(network: Object) -> Layout:
    return _tensorflow(network.state) if network.cls == TENSORFLOW else _theano(network.state)


def _tensorflow(state: Mapping[str, Any]) -> Layout:
    if state.get("version") != 2 or isinstance(state.get("version"), Array):
        raise ConversionError(f"tfutil.Network: expected version 2, got {line(state.get('version'))}")
    function = state.get("build_func_name")
    if function not in ("G_paper", "D_paper"):
        raise ConversionError(f"build_func_name: expected G_paper or D_paper, got {line(function)}")
    kwargs, assumed = _kwargs(state.get("static_kwargs"), function)
    tensors = _variables(state.get("variables"))
    lod = tensors.get("lod")
    if lod is not None and lod.numel() == 1 and (value := lod.item()):
        assumed.append(f"the file's lod is {value:g}: it shows {_shown(value, kwargs['resolution'])}")
    is_g = function == "G_paper"
    layers = (_g_layers if is_g else _d_layers)(kwargs)
    arguments = (_g_arguments if is_g else _d_arguments)(kwargs)
    raw = in_float64(tensors)
    forward = numpy_forward.official_g if is_g else numpy_forward.official_d
    return Layout(
        arguments, layers, tensors, unused={"lod"}, assumed=assumed,
        forward=lambda *inputs, **level: forward(raw(), kwargs, *inputs, **level),
    )  # fmt: skip


def _shown(lod: float, resolution: int) -> str:
    shown = resolution >> int(lod)
    return f"{name(shown)}, alpha {1.0 - (lod - int(lod)):g}"


def _kwargs(given: Any, function: str) -> tuple[dict[str, Any], list[str]]:
    """The build function's arguments with its defaults, and what was left out."""
    if not isinstance(given, dict):
        raise ConversionError("static_kwargs: expected a dictionary")
    kwargs: dict[str, Any] = dict(_DEFAULTS[function])
    left = []
    for key, value in given.items():
        plain = _plain(value)
        if key not in kwargs:
            left += [] if key in _WITHOUT_MEANING else [line(key, 40)]
            continue
        default = kwargs[key]
        if isinstance(plain, float) and plain.is_integer() and isinstance(default, int):
            plain = int(plain)
        kinds = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(plain, kinds if default is not None else (int, type(None))):
            raise ConversionError(f"static_kwargs: {key}: expected a {type(default).__name__}, got {line(plain, 40)}")
        most = 32 if key == "fmap_decay" else 1 << 31  # 2^(levels * 32) is a float still
        if isinstance(plain, (int, float)) and not 0 <= plain <= most:
            raise ConversionError(f"static_kwargs: {key}: expected a number in [0, {most}], got {line(plain, 40)}")
        kwargs[key] = plain
    resolution = kwargs["resolution"]
    if not 4 <= resolution <= 1 << 20 or resolution & (resolution - 1):
        raise ConversionError(f"static_kwargs: resolution: expected a power of two >= 4, got {line(resolution, 40)}")
    assumed = [f"static_kwargs {', '.join(left)}: ignored, as the official code does"] if left else []
    if kwargs["dtype"] != "float32":
        assumed.append(f"its activations were {line(kwargs['dtype'], 40)}; ours have the dtype of the weights")
    return kwargs, assumed


def _plain(value: Any) -> Any:
    """A numpy number as Python's."""
    number = isinstance(value, Array) and value.value is not None and value.value.size == 1
    return value.value.item() if number else value


def _variables(given: Any) -> dict[str, Tensor]:
    if not isinstance(given, list):
        raise ConversionError("variables: expected a list of names and arrays")
    tensors = {}
    for pair in given:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ConversionError("variables: expected pairs of a name and an array")
        tensors[pair[0]] = tensor(pair[0], pair[1])
    return tensors


def tensor(what: str, value: Any) -> Tensor:
    if not isinstance(value, Array) or value.value is None:
        raise ConversionError(f"{line(what)}: expected an array, got {type(value).__name__}")
    native = value.value.astype(value.value.dtype.newbyteorder("="), copy=True)
    return torch.from_numpy(np.ascontiguousarray(native).reshape(native.shape))


def _levels(kwargs: Mapping[str, Any]) -> list[int]:
    return [4 << k for k in range(kwargs["resolution"].bit_length() - 2)]


def _lod(kwargs: Mapping[str, Any], resolution: int) -> int:
    return int(kwargs["resolution"].bit_length() - resolution.bit_length())


def _layer(kwargs: Mapping[str, Any], ours: str, theirs: str, *steps: Step) -> Layer:
    scale = None if kwargs["use_wscale"] else 1.0
    return Layer(ours, f"{theirs}/weight", f"{theirs}/bias", steps, scale)


def _g_layers(kwargs: Mapping[str, Any]) -> list[Layer]:
    layers = [_layer(kwargs, "blocks.4x4.dense", "4x4/Dense", TRANSPOSE)]
    layers.append(_layer(kwargs, "blocks.4x4.conv", "4x4/Conv", _KERNEL))
    for r in _levels(kwargs)[1:]:
        up = ("Conv0_up", permute(2, 3, 0, 1), flip()) if kwargs["fused_scale"] else ("Conv0", _KERNEL)
        layers.append(_layer(kwargs, f"blocks.{name(r)}.conv_up", f"{name(r)}/{up[0]}", *up[1:]))
        layers.append(_layer(kwargs, f"blocks.{name(r)}.conv", f"{name(r)}/Conv1", _KERNEL))
    rgb = ((f"to_rgb.{name(r)}", f"ToRGB_lod{_lod(kwargs, r)}") for r in _levels(kwargs))
    return [*layers, *(_layer(kwargs, ours, theirs, _KERNEL) for ours, theirs in rgb)]


def _d_layers(kwargs: Mapping[str, Any]) -> list[Layer]:
    layers = []
    for r in reversed(_levels(kwargs)):
        layers.append(_layer(kwargs, f"from_rgb.{name(r)}", f"FromRGB_lod{_lod(kwargs, r)}", _KERNEL))
        if r > 4:
            down = "Conv1_down" if kwargs["fused_scale"] else "Conv1"
            layers.append(_layer(kwargs, f"blocks.{name(r)}.conv", f"{name(r)}/Conv0", _KERNEL))
            layers.append(_layer(kwargs, f"blocks.{name(r)}.conv_down", f"{name(r)}/{down}", _KERNEL))
    layers.append(_layer(kwargs, "blocks.4x4.conv", "4x4/Conv", _KERNEL))
    layers.append(_layer(kwargs, "blocks.4x4.dense", "4x4/Dense0", TRANSPOSE))
    return [*layers, _layer(kwargs, "blocks.4x4.head", "4x4/Dense1", TRANSPOSE)]


def _sizes(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    same = {key: kwargs[key] for key in ("resolution", "fmap_base", "fmap_decay", "fmap_max")}
    return {**same, "label_dim": kwargs["label_size"], "channels": kwargs["num_channels"]}


def _g_arguments(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    first = min(kwargs["fmap_base"], kwargs["fmap_max"])
    return {
        **_sizes(kwargs),
        "latent_dim": first if kwargs["latent_size"] is None else kwargs["latent_size"],
        "eps": kwargs["pixelnorm_epsilon"],
        "latent_norm": "joined" if kwargs["normalize_latents"] else "none",
        "negative_slope": 0.2 if kwargs["use_leakyrelu"] else 0.0,
        "pixel_norm": "after_act" if kwargs["use_pixelnorm"] else "none",
    }


def _d_arguments(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    group = kwargs["mbstd_group_size"]
    down = "down" if kwargs["fused_scale"] else "pool"
    return {**_sizes(kwargs), "downsample": down, "stddev_group": group if group > 1 else 0}


def _theano(state: Mapping[str, Any]) -> Layout:
    """As the official code imports it: never fused, groups of 16, and without what only Theano had."""
    spec = state.get("build_func_spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("func"), str) or spec["func"] not in _THEANO_FUNCTIONS:
        got = spec.get("func") if isinstance(spec, dict) else spec
        raise ConversionError(f"build_func_spec: expected one of {', '.join(_THEANO_FUNCTIONS)}, got {line(got)}")
    function, given = _THEANO_FUNCTIONS[spec["func"]], {k: v for k, v in spec.items() if k not in ("func", "use_gdrop")}
    for key, only in _THEANO_ONLY.items():
        if (got := given.pop(key, only)) != only:
            raise ConversionError(f"build_func_spec: {key}: expected {only!r}, got {line(got)}: our networks cannot")
    kwargs, assumed = _kwargs({**given, "fused_scale": False}, function)
    if function == "D_paper":
        kwargs["mbstd_group_size"] = 16
        assumed.append("Theano's file says no group of the minibatch stddev: 16, as the official import has it")
    values = state.get("param_values")
    if not isinstance(values, list):
        raise ConversionError("param_values: expected a list of arrays")
    tensors = {f"param_values[{i}]": tensor(f"param_values[{i}]", value) for i, value in enumerate(values)}
    is_g = function == "G_paper"
    scaled = kwargs["use_wscale"]
    order, used = (_theano_g if is_g else _theano_d)(kwargs), iter(range(len(values)))
    layers, scales = [], set()
    for ours, steps in order:
        try:
            weight, scale, bias = (f"param_values[{next(used)}]" if n != 1 or scaled else None for n in range(3))
        except (StopIteration, RuntimeError):
            raise ConversionError(f"param_values: {len(values)} arrays end before {ours} has its own") from None
        factor = 1.0
        if scale is not None:
            scales.add(scale)
            factor = _number(scale, tensors[scale])
        layers.append(Layer(ours, str(weight), str(bias), steps, factor))
    arguments = (_g_arguments if is_g else _d_arguments)(kwargs)
    raw = in_float64(tensors)
    forward = numpy_forward.theano_g if is_g else numpy_forward.theano_d
    return Layout(
        arguments, layers, tensors, unused=scales, assumed=assumed,
        forward=lambda *inputs, **level: forward(list(raw().values()), kwargs, *inputs, **level),
    )  # fmt: skip


def _number(what: str, t: Tensor) -> float:
    if t.numel() != 1:
        raise ConversionError(f"{what}: expected a scale, one number, got shape {tuple(t.shape)}")
    return float(t.item())


def _theano_g(kwargs: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Step, ...]]]:
    """Our layers in the order of Theano's parameters, with what their weights go through."""
    c, z = (
        min(int(kwargs["fmap_base"] / 2.0 ** kwargs["fmap_decay"]), kwargs["fmap_max"]),
        _g_arguments(kwargs)["latent_dim"],
    )
    yield "blocks.4x4.dense", (permute(0, 2, 3, 1), view((c, 4, 4, z), (16 * c, z)))
    yield "blocks.4x4.conv", (flip(),)
    for r in _levels(kwargs)[1:]:
        yield f"blocks.{name(r)}.conv_up", (flip(),)
        yield f"blocks.{name(r)}.conv", (flip(),)
    for r in reversed(_levels(kwargs)):
        yield f"to_rgb.{name(r)}", _theano_rgb(_width(kwargs, r), kwargs["num_channels"])


def _theano_d(kwargs: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Step, ...]]]:
    levels = list(reversed(_levels(kwargs)))
    yield f"from_rgb.{name(levels[0])}", _theano_rgb(kwargs["num_channels"], _width(kwargs, levels[0]))
    for r in levels[:-1]:
        yield f"blocks.{name(r)}.conv", (flip(),)
        yield f"blocks.{name(r)}.conv_down", (flip(),)
        yield f"from_rgb.{name(r // 2)}", _theano_rgb(kwargs["num_channels"], _width(kwargs, r // 2))
    yield "blocks.4x4.conv", (flip(),)
    c, units = _width(kwargs, 4), _width(kwargs, 2)
    yield "blocks.4x4.dense", (flip(), view((units, c, 4, 4), (units, 16 * c)))
    yield "blocks.4x4.head", (TRANSPOSE,)


def _width(kwargs: Mapping[str, Any], resolution: int) -> int:
    stage = resolution.bit_length() - 2
    fmaps: int = min(int(kwargs["fmap_base"] / 2.0 ** (stage * kwargs["fmap_decay"])), kwargs["fmap_max"])
    return fmaps


def _theano_rgb(inputs: int, outputs: int) -> tuple[Step, ...]:
    """A layer over pixels, [in, out]."""
    return TRANSPOSE, view((outputs, inputs), (outputs, inputs, 1, 1))
