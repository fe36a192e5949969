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

NAMESPACE = "pggan_fast"
_library = torch.library.Library(NAMESPACE, "DEF")
_overload: dict[str, Any] = {}
_kernel: dict[str, Callable[..., Any]] = {}
_function: dict[str, type[torch.autograd.Function]] = {}


def register(
    schema: str, fake: Callable[..., Any], setup: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """Define an op; `schema` ends in `str backend` ("" = automatic). Returns the function that calls it.

    `setup(ctx, inputs, output)` saves for `backward(ctx, *grads)`, which returns one gradient per schema argument and
    is itself made of registered ops, so that it can be differentiated again.
    """
    name = schema.split("(", 1)[0]
    _library.define(schema)
    overload = getattr(getattr(torch.ops, NAMESPACE), name).default
    kernel = _dispatching_kernel(name)
    for key in ("CPU", "CUDA", "MPS", "XPU"):
        _library.impl(name, kernel, key)
    torch.library.register_fake(f"{NAMESPACE}::{name}", lambda *args: fake(*args[:-1]), lib=_library)
    _library.impl(name, _autograd_kernel(name, overload, setup, backward), "Autograd", with_keyset=True)
    _overload[name], _kernel[name], _function[name] = overload, kernel, _eager_function(name, kernel, setup, backward)
    return lambda *args: call(name, *args)


def _dispatching_kernel(name: str) -> Callable[..., Any]:
    def kernel(*args: Any) -> Any:
        inputs, backend = args[:-1], args[-1]
        device = inputs[0].device.type
        run = registry.choose(name, backend or None, device, inputs)
        if torch.is_autocast_enabled(device):  # the public op has chosen the dtypes: products inside keep them
            with torch.autocast(device, enabled=False):
                return run(*inputs)
        return run(*inputs)

    return kernel


def _eager_function(
    name: str, kernel: Callable[..., Any], setup: Callable[..., None], backward: Callable[..., Any]
) -> type[torch.autograd.Function]:
    def forward(ctx: Any, *args: Any) -> Any:
        out = kernel(*args)
        _remember(ctx, args, out, setup)
        return out

    return type(
        name, (torch.autograd.Function,), {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    )


def _autograd_kernel(
    name: str, overload: Any, setup: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    below, after = torch._C._AutoDispatchBelowAutograd, torch._C._after_autograd_keyset

    def forward(ctx: Any, *args_and_keyset: Any) -> Any:
        *inputs, keyset = args_and_keyset
        args = tuple(inputs)
        with below():
            out = overload.redispatch(keyset & after, *args)
        _remember(ctx, args, out, setup)
        return out

    def backward_of_dispatched(ctx: Any, *grads: Any) -> Any:
        return *backward(ctx, *grads), None

    function: Any = type(
        f"{name}_dispatched",
        (torch.autograd.Function,),
        {"forward": staticmethod(forward), "backward": staticmethod(backward_of_dispatched)},
    )

    def kernel(keyset: Any, *args: Any) -> Any:
        if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            return function.apply(*args, keyset)
        with below():
            return overload.redispatch(keyset & after, *args)

    return kernel


def _remember(ctx: Any, args: tuple[Any, ...], out: Any, setup: Callable[..., None]) -> None:
    ctx.tensor_arguments = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
    setup(ctx, args, out)


def call(name: str, *args: Any) -> Any:
    """Run a registered op: the Function in plain eager mode, the dispatcher otherwise."""
    if needs_dispatcher(args[0]):
        return _overload[name](*args)
    if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
        return _function[name].apply(*args)
    return _kernel[name](*args)


def needs_dispatcher(x: Tensor) -> bool:
    """Whether calls with x are traced, transformed or intercepted, or x is a negation that is still to be done."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or type(x) not in (Tensor, torch.nn.Parameter)
        or x.device.type == "meta"
        or x.is_neg()
        or torch._C._functorch.is_legacy_batchedtensor(x)
    )
