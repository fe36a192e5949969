"""One table row per internal op -> a torch.library op, its fake, its autograd, and a fast path for plain eager calls.

`torch.library.register_autograd` costs over 100 us a call, most of it in refilling default arguments; an Autograd-key
kernel of our own costs half of that, and an autograd.Function straight over the kernel a quarter. So eager calls take
the Function, and everything that traces, transforms or intercepts (torch.compile, dispatch modes, functorch, tensor
subclasses) goes through the dispatcher, where the same setup and backward run under the Autograd key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pggan_fast.backends import registry
from pggan_fast.backends.layout import is_wrapped

NAMESPACE = "pggan_fast"
PLAIN = (Tensor, torch.nn.Parameter)
_dispatch_modes, _transforms_active = torch._C._len_torch_dispatch_stack, torch._C._are_functorch_transforms_active
_is_batched = torch._C._functorch.is_legacy_batchedtensor
_library = torch.library.Library(NAMESPACE, "DEF")
_overload: dict[str, Any] = {}
_eager: dict[str, Callable[..., Any]] = {}  # straight over the kernel, recording the node


def register(
    schema: str, fake: Callable[..., Any], setup: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """Define an op; `schema` begins with its tensors and ends in `str backend` ("" = automatic).

    `setup(ctx, inputs, output)` saves for `backward(ctx, *grads)`, which returns one gradient per schema argument and
    is itself made of registered ops, so that it can be differentiated again.
    Returns the function that calls it: the Function in plain eager mode, the dispatcher otherwise.
    """
    name = schema.split("(", 1)[0]
    _library.define(schema)
    overload = getattr(getattr(torch.ops, NAMESPACE), name).default
    kernel = _dispatching_kernel(name)
    for key in ("CPU", "CUDA", "MPS", "XPU"):
        _library.impl(name, kernel, key)
    torch.library.register_fake(f"{NAMESPACE}::{name}", lambda *args: fake(*args[:-1]), lib=_library)
    setup = _remembering(overload, setup)
    _library.impl(name, _autograd_kernel(name, overload, setup, backward), "Autograd", with_keyset=True)
    _overload[name], _eager[name] = overload, _eager_function(name, overload, setup, backward)
    return _caller(name, overload, kernel, _eager[name])


def eager(name: str) -> Callable[..., Any]:
    """The op `name` in plain eager mode, with its node: takes its arguments, no tensor wrapped by torch.func, then what
    runs it."""
    return _eager[name]


def _caller(name: str, overload: Any, kernel: Callable[..., Any], eager: Callable[..., Any]) -> Callable[..., Any]:
    grad_enabled, any_requires_grad = torch.is_grad_enabled, torch._C._any_requires_grad
    tensors = len(_tensors(overload))

    def call(*args: Any) -> Any:
        if needs_dispatcher(args[0]):
            return overload(*args)
        if not grad_enabled() or not any_requires_grad(*args):
            return kernel(*args)
        if any(tensor is not None and is_wrapped(tensor) for tensor in args[:tensors]):
            return overload(*args)  # leaked from torch.func, which is over
        return eager(*args, _chosen(name, args))

    return call


def _chosen(name: str, args: tuple[Any, ...]) -> Callable[..., Any]:
    """What runs the op on these arguments, less `backend`."""
    x = args[0]
    device = "cpu" if x.is_cpu else x.device.type
    run = registry.choose(name, args[-1] or None, device, args[:-1]).run
    if not torch.is_autocast_enabled(device):
        return run

    def outside_autocast(*inputs: Any) -> Any:  # the public op has chosen the dtypes: products inside keep them
        with torch.autocast(device, enabled=False):
            return run(*inputs)

    return outside_autocast


def _dispatching_kernel(name: str) -> Callable[..., Any]:
    return lambda *args: _chosen(name, args)(*args[:-1])


def _tensors(overload: Any) -> list[bool]:
    """Of each tensor argument, which come first, whether it may be None."""
    types = [str(argument.type) for argument in overload._schema.arguments]
    return [kind.startswith("Optional") for kind in types if "Tensor" in kind]


def _remembering(overload: Any, setup: Callable[..., None]) -> Callable[..., None]:
    """`setup`, and which tensors before others are absent: they have no edge in the graph (see `wanted`)."""
    optional = [i for i, may_be_none in enumerate(_tensors(overload)[:-1]) if may_be_none]
    if not optional:
        return setup

    def remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        if absent := [i for i in optional if inputs[i] is None]:
            ctx.absent = absent
        setup(ctx, inputs, output)

    return remember


def _eager_function(
    name: str, overload: Any, setup: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """The op with its node, on its arguments and then what runs it (see `_chosen`)."""
    tensors = len(_tensors(overload))

    def forward(ctx: Any, *inputs: Any) -> Any:
        *leading, (*others, run) = inputs
        args = *leading, *others
        out = run(*args[:-1])
        setup(ctx, args, out)
        return out

    # One argument for all that are no tensors: the engine looks at each, in both directions
    function = _node(name, forward, backward, tensors)
    # What Function.apply calls once it has looked at every argument, also at those that are no tensors: 3 us
    apply = super(torch.autograd.Function, function).apply
    return lambda *args_and_run: apply(*args_and_run[:tensors], args_and_run[tensors:])


def _node(name: str, forward: Callable[..., Any], backward: Callable[..., Any], gradients: int) -> Any:
    """An autograd.Function whose `forward` has one argument more than the first `gradients` of `backward`."""

    def backward_of_all(ctx: Any, *grads: Any) -> Any:
        return *backward(ctx, *grads)[:gradients], None

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward_of_all)}
    return type(name, (torch.autograd.Function,), methods)


def _autograd_kernel(
    name: str, overload: Any, setup: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    below, after = torch._C._AutoDispatchBelowAutograd, torch._C._after_autograd_keyset

    def forward(ctx: Any, *args_and_keyset: Any) -> Any:
        *inputs, keyset = args_and_keyset
        args = tuple(inputs)
        with below():
            out = overload.redispatch(keyset & after, *args)
        setup(ctx, args, out)
        return out

    function = _node(f"{name}_dispatched", forward, backward, len(overload._schema.arguments))

    def kernel(keyset: Any, *args: Any) -> Any:
        if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            return function.apply(*args, keyset)
        with below():
            return overload.redispatch(keyset & after, *args)

    return kernel


def needs_dispatcher(x: Tensor) -> bool:
    """Whether calls with x are traced, transformed or intercepted, or x is a negation that is still to be done."""
    return (
        torch.compiler.is_compiling()
        or _dispatch_modes() > 0
        or _transforms_active()
        or type(x) not in PLAIN
        or x.is_meta
        or x.is_neg()
        or is_wrapped(x)
        or _is_batched(x)
    )
