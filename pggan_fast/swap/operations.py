"""What the aten operations of PGGANs do to values: products, scales, biases, activations and norms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pggan_fast.swap.steps import Act, Bias, Conv, Norm, Product, Scale, Step, joined
from pggan_fast.swap.values import Const, Data, Expr, Stat, Unknown, Value, close

if TYPE_CHECKING:
    from pggan_fast.swap.record import Recorder

# A handler gets the recorder and aten's arguments; None: it knows nothing of this call.
Handler = Callable[["Recorder", Sequence[Any], dict[str, Any], Tensor], Value | None]
HANDLERS: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    def add(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return add


def _number(recorder: Recorder, a: Any) -> float | None:
    if isinstance(a, (int, float)):
        return float(a)
    value = recorder.value(a) if isinstance(a, Tensor) else None
    return value.value if isinstance(value, Const) else None


def _value(recorder: Recorder, a: Any) -> Value | None:
    return recorder.value(a) if isinstance(a, Tensor) else None


def _with(data: Data, step: Step) -> Data:
    return Data(joined(data.steps, step))


def _bias(recorder: Recorder, data: Data, t: Tensor, e: Expr, out: Tensor) -> Value:
    """`t`, which is the parameter times its scale in some shape, added to the chain's value `out`."""
    p = recorder.parameters[e.ref]
    if out.ndim in (2, 4) and p.numel() == out.shape[1]:
        per_channel = (p * e.scale).reshape(1, -1, *(1,) * (out.ndim - 2))
        if close(t.expand(out.shape), per_channel.expand(out.shape)):
            return _with(data, Bias(e.ref, e.scale))
    return Unknown(f"adds the parameter {e.ref.name} of {tuple(p.shape)}, which is no bias per channel")


@handles("convolution")
def _convolution(recorder: Recorder, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Value | None:
    x, w, b, stride, padding, dilation, transposed, output_padding, groups = args
    data, e = recorder.value(x), recorder.value(w)
    if not isinstance(data, Data):
        return None
    if not isinstance(e, Expr) or x.ndim != 4:
        return Unknown("a convolution whose weight is no parameter times a number")
    if not close(w, recorder.parameters[e.ref] * e.scale):
        return Unknown(f"a convolution whose weight is {e.ref.name} turned or moved")
    stride, padding, dilation = (tuple(a * 2 if len(a) == 1 else a) for a in (stride, padding, dilation))
    k = w.shape[2]
    same = not transposed and groups == 1 and stride == dilation == (1, 1) and w.shape[2] == w.shape[3]
    step: Conv | Product
    if same and k in (1, 3) and padding == (k // 2, k // 2):
        step = Conv(e.ref, e.scale, kernel=k)
    else:
        kind = "conv_transpose" if transposed else "conv"
        step = Product(e.ref, e.scale, None, 1.0, kind, stride, padding, dilation, tuple(output_padding), groups)
    result: Value = _with(data, step)
    if b is not None:
        bias = recorder.value(b)
        if not isinstance(bias, Expr) or not isinstance(result, Data):
            return Unknown("a convolution whose bias is no parameter times a number")
        return _bias(recorder, result, b.reshape(1, -1, 1, 1), bias, out)
    return result


@handles("mm", "addmm")
def _dense(recorder: Recorder, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Value | None:
    b, x, w = (None, *args) if len(args) == 2 else args
    data, e = recorder.value(x), recorder.value(w)
    if not isinstance(data, Data) or not isinstance(e, Expr) or kwargs:
        return None
    p = recorder.parameters[e.ref]
    if p.ndim != 2 or not close(w, (p * e.scale).t()):
        return Unknown(f"a product with {e.ref.name} in another shape than a dense layer's")
    result = _with(data, Product(e.ref, e.scale))
    if b is None:
        return result
    bias = recorder.value(b)
    return _bias(recorder, result, b, bias, out) if isinstance(bias, Expr) else None


@handles("mul")
def _multiply(recorder: Recorder, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Value | None:
    a, b = args[:2]
    for t, other in ((a, b), (b, a)):
        left, right, factor = _value(recorder, t), _value(recorder, other), _number(recorder, other)
        if factor is not None:
            return _scaled(left, factor)
        if isinstance(left, Data) and isinstance(right, Data) and left == right:
            return Stat(left, t)
        if isinstance(left, Data) and isinstance(right, Stat) and right.inverse:
            return _normalised(left, right)
        if isinstance(left, Data) and isinstance(right, Expr):
            return Unknown(f"multiplies by the parameter {right.ref.name}: a scale that is learned")
    return None


@handles("div")
def _divide(recorder: Recorder, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Value | None:
    left, right, divisor = _value(recorder, args[0]), _value(recorder, args[1]), _number(recorder, args[1])
    if kwargs:  # a rounding mode
        return None
    if divisor:
        return _scaled(left, 1.0 / divisor)
    if isinstance(left, Data) and isinstance(right, Stat) and not right.inverse:
        return _normalised(left, right)
    return None


def _scaled(value: Value | None, factor: float) -> Value | None:
    if isinstance(value, Data):
        return _with(value, Scale(factor))
    if isinstance(value, Expr):
        return replace(value, scale=value.scale * factor)
    if isinstance(value, Stat) and not (value.eps_out and value.inverse) and factor > 0.0:
        return replace(value, factor=value.factor * factor, eps_out=value.eps_out * (1.0 if value.inverse else factor))
    return None


def _normalised(data: Data, stat: Stat) -> Value | None:
    """x divided by the root of its mean square."""
    if stat.base != data or stat.stage != "root" or (stat.eps_in and stat.eps_out):
        return None
    scale = stat.factor if stat.inverse else 1.0 / stat.factor
    eps = stat.eps_out if stat.inverse else stat.eps_out / stat.factor
    normalised = _with(data, Norm(eps, "outside") if eps else Norm(stat.eps_in))
    return normalised if abs(scale - 1.0) < 1e-12 else _with(normalised, Scale(scale))


@handles("add")
def _add(recorder: Recorder, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Value | None:
    if kwargs.get("alpha", 1) != 1:
        return None
    for t, other in ((args[0], args[1]), (args[1], args[0])):
        left, right, number = _value(recorder, t), _value(recorder, other), _number(recorder, other)
        if isinstance(left, Data) and isinstance(right, Expr):
            return _bias(recorder, left, other, right, out)
        if isinstance(left, Stat) and number is not None and not left.inverse:
            if left.stage == "root":
                return replace(left, eps_out=left.eps_out + number)
            return replace(left, eps_in=left.eps_in + number / left.factor)
    return None


@handles("pow")
def _power(recorder: Recorder, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Value | None:
    value, exponent = _value(recorder, args[0]), _number(recorder, args[1])
    if isinstance(value, Data) and exponent == 2.0:
        return Stat(value, args[0])
    if exponent in (0.5, -0.5):
        return _root(value, inverse=exponent < 0)
    return _inverse(value) if exponent == -1.0 else None


@handles("mean", "sum")
def _mean(recorder: Recorder, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Value | None:
    """Over the channels, of the square."""
    value = _value(recorder, args[0])
    if not isinstance(value, Stat) or value.stage != "square" or len(args) < 2 or args[1] is None:
        return None
    t = args[0]
    if [d % t.ndim for d in args[1]] != [1]:
        return None
    factor = value.factor * (t.shape[1] if recorder.operation == "sum" else 1)
    return replace(value, stage="mean", factor=factor)


@handles("linalg_vector_norm")
def _vector_norm(recorder: Recorder, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Value | None:
    x, order, dims = (*args, None, None)[:3]
    value = _value(recorder, x)
    if isinstance(value, Data) and order == 2 and dims is not None and [d % x.ndim for d in dims] == [1]:
        return Stat(value, x, "root", x.shape[1] ** 0.5)
    return None


@handles("sqrt")
def _sqrt(recorder: Recorder, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Value | None:
    return _root(_value(recorder, args[0]), inverse=False)


@handles("rsqrt")
def _rsqrt(recorder: Recorder, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Value | None:
    return _root(_value(recorder, args[0]), inverse=True)


@handles("reciprocal")
def _reciprocal(recorder: Recorder, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Value | None:
    return _inverse(_value(recorder, args[0]))


def _root(value: Value | None, inverse: bool) -> Value | None:
    if not isinstance(value, Stat) or value.stage != "mean":
        return None
    root = replace(value, stage="root", factor=value.factor**0.5)
    return _inverse(root) if inverse else root


def _inverse(value: Value | None) -> Value | None:
    if not isinstance(value, Stat) or value.stage != "root" or value.inverse:
        return None
    return replace(value, inverse=True, factor=1.0 / value.factor, eps_out=value.eps_out / value.factor)


@handles("view", "_unsafe_view", "unsqueeze", "expand", "clone", "alias", "detach")
def _same(recorder: Recorder, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Value | None:
    """A statistic in another shape: the division that follows would not fit any other meaning of it."""
    value = _value(recorder, args[0])
    return value if isinstance(value, Stat) and value.stage != "square" else None


@handles("leaky_relu", "relu")
def _leaky_relu(recorder: Recorder, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Value | None:
    value = _value(recorder, args[0])
    if not isinstance(value, Data):
        return None
    slope = float(args[1]) if len(args) > 1 else 0.01
    if recorder.operation == "relu":
        slope = 0.0
    if not 0.0 <= slope <= 1.0:
        return Unknown(f"a leaky ReLU of slope {slope:g}, which the fused ops do not have")
    return _with(value, Act(slope))


@handles("maximum")
def _maximum(recorder: Recorder, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Value | None:
    """max(x, slope * x)."""
    for a, b in ((args[0], args[1]), (args[1], args[0])):
        x, other = _value(recorder, a), _value(recorder, b)
        if isinstance(x, Data) and isinstance(other, Data):
            slope = _slope(x, other)
            if slope is not None:
                return _with(x, Act(slope))
    return None


def _slope(x: Data, scaled: Data) -> float | None:
    """The factor in [0, 1] that makes one value of the chain the other."""
    last, before = (data.steps[-1] if data.steps else None for data in (scaled, x))
    if isinstance(last, Scale):
        slope = last.factor / (before.factor if isinstance(before, Scale) else 1.0)
    elif isinstance(last, (Conv, Product)) and isinstance(before, (Conv, Product)) and before.weight_scale:
        slope = last.weight_scale / before.weight_scale
    else:
        return None
    return slope if 0.0 <= slope <= 1.0 and _with(x, Scale(slope)) == scaled else None
