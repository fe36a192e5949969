"""Who runs an op: the argument, the environment, the automatic choice and its fallback."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from pggan_fast import BackendUnavailable, nn, ops, use_backend
from pggan_fast.backends import BACKENDS, ops_of, registry, selfcheck
from pggan_fast.ops import _again, _register

NO_CPU = "the native module pggan_fast._cpu is missing (no compiler); install one"


def layer(x: Tensor | None = None, backend: str | None = None) -> Tensor:
    x = torch.randn(2, 3, 4, 4) if x is None else x
    return ops.scaled_conv2d(x, torch.randn(4, 3, 3, 3), weight_scale=0.2, backend=backend)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backends that ran something, in order."""
    names: list[str] = []
    real = registry.choose

    def choose(op: str, backend: str | None, device: str, args: tuple[Any, ...]) -> registry.Chosen:
        found = real(op, backend, device, args)
        names.append(found.way)
        return found

    monkeypatch.setattr(registry, "choose", choose)
    monkeypatch.setattr(_again, "_intercepted", lambda: True)  # every call chooses
    return names


@pytest.fixture
def without_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the native module was not built."""
    monkeypatch.setitem(registry._UNAVAILABLE, "cpu", lambda: NO_CPU)
    monkeypatch.setattr(registry, "_WARNED", set())


def test_aten_runs_every_internal_op() -> None:
    assert ops_of("aten") == sorted(_register._overload)


@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_a_backend_that_cannot_run_says_why(name: str) -> None:
    if registry.unavailable(name) is None:
        pytest.skip(f"{name} runs here")
    with pytest.raises(BackendUnavailable, match=f"backend='{name}' cannot run scaled_conv2d_forward: ."):
        layer(backend=name)


def test_an_explicit_backend_never_falls_back(without_cpu: None) -> None:
    with pytest.raises(BackendUnavailable, match=r"no compiler.*install"):
        layer(backend="cpu")


@pytest.mark.parametrize("name", ["aten", "cpu"])
def test_an_explicit_backend_runs_forward_and_backward(ran: list[str], name: str) -> None:
    if registry.unavailable(name):
        pytest.skip(str(registry.unavailable(name)))
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    (g,) = torch.autograd.grad(layer(x, name).sin().sum(), x, create_graph=True)
    g.square().sum().backward()
    assert set(ran) <= set(registry.ways_for(name, "cpu"))


def test_the_reference_runs_no_internal_op(ran: list[str]) -> None:
    layer(backend="reference")
    assert ran == []


def test_the_environment_names_a_backend(ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGGAN_FAST_BACKEND", "aten")
    layer()
    assert ran == ["aten"]
    monkeypatch.setenv("PGGAN_FAST_BACKEND", "reference")
    layer()
    assert ran == ["aten"]
    layer(backend="aten")  # the argument wins
    assert ran == ["aten", "aten"]
    monkeypatch.setenv("PGGAN_FAST_BACKEND", "auto")
    layer()
    assert len(ran) == 3


def test_a_wrong_name_in_the_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGGAN_FAST_BACKEND", "cudnn")
    with pytest.raises(ValueError, match=r"PGGAN_FAST_BACKEND: expected auto or .* got 'cudnn'"):
        layer()


def test_an_unavailable_backend_in_the_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGGAN_FAST_BACKEND", "triton")
    if ops_of("triton"):
        pytest.skip("triton has ops here")
    with pytest.raises(BackendUnavailable, match="triton"):
        layer()


def test_the_automatic_choice_falls_back_with_one_warning(ran: list[str], without_cpu: None) -> None:
    with pytest.warns(RuntimeWarning, match="slower backend because 'cpu' is unavailable.*no compiler") as caught:
        layer()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer()
        ops.pixel_norm(torch.randn(2, 3))
    assert set(ran) == {"aten"}


def test_strict_makes_the_fallback_an_error(without_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGGAN_FAST_STRICT", "1")
    with pytest.raises(BackendUnavailable, match="no compiler"):
        layer()
    monkeypatch.setenv("PGGAN_FAST_STRICT", "0")
    with pytest.warns(RuntimeWarning):
        layer()


def test_the_automatic_choice_prefers_the_native_kernels(ran: list[str]) -> None:
    if registry.unavailable("cpu"):
        pytest.skip(str(registry.unavailable("cpu")))
    x = torch.randn(2, 8, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ops.scaled_conv2d(x, torch.randn(8, 8, 3, 3), weight_scale=0.2, resample="up")
        layer()  # of few channels and pixels torch's convolution is faster, not its epilogue
    assert ran == ["cpu", "aten+cpu"]


def test_arguments_that_a_backend_lacks_go_to_the_next(ran: list[str]) -> None:
    """An image of five channels: the native RGB kernels stop at four."""
    x = torch.randn(2, 4, 4, 4)
    w = torch.randn(5, 4, 1, 1)
    options = {"weight_scale_low": 0.5, "weight_scale_high": 0.5}
    y = ops.to_rgb_fade_in(x[:, :, ::2, ::2], x, w, None, w, None, 0.5, **options)
    assert y.shape == (2, 5, 4, 4)
    assert ran == ["aten"]


def test_a_backend_implements_an_op_once() -> None:
    with pytest.raises(ValueError, match="op: expected one that aten does not implement yet, got 'conv'"):
        registry.implement("aten", "conv")(lambda *args: None)
    assert BACKENDS[0] == "reference"


def test_a_shape_beyond_the_kernels_falls_back_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    limited = registry._TABLE["cpu", "bias_act_forward"]._replace(
        supports=lambda u, *others: registry.Limit(f"it handles at most 4 channels, got {u.shape[1]}")
    )
    monkeypatch.setitem(registry._TABLE, ("cpu", "bias_act_forward"), limited)
    monkeypatch.setattr(registry, "_WARNED", set())
    x = torch.randn(1, 5, 2, 2)
    with pytest.warns(RuntimeWarning, match="slower backend than 'cpu'.*at most 4 channels, got 5") as caught:
        ops.bias_act(x)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ops.bias_act(x)
    with pytest.raises(BackendUnavailable, match="at most 4 channels"):
        ops.bias_act(x, backend="cpu")
    monkeypatch.setenv("PGGAN_FAST_STRICT", "1")
    with pytest.raises(BackendUnavailable, match="at most 4 channels"):
        ops.bias_act(x)


def test_a_context_names_the_backend(ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGGAN_FAST_BACKEND", "reference")
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    with use_backend("aten"):
        y = layer(x)
        layer(backend="reference")  # the argument wins
        with use_backend("reference"):
            layer()
        layer()
    assert ran == ["aten", "aten"]
    layer()
    y.square().sum().backward()  # by the forward's, after the context
    assert set(ran) == {"aten"}
    before = len(ran)
    with use_backend(None):  # automatic, whatever the environment names
        layer()
    assert len(ran) == before + 1


def test_a_context_ends_with_an_error_in_it(ran: list[str]) -> None:
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    layer()
    assert len(ran) == 1
    with pytest.raises(ValueError, match=r"name: expected None, auto or one of .* got 'cudnn'"), use_backend("cudnn"):
        pass


def test_a_compiled_function_follows_the_context(ran: list[str]) -> None:
    torch._dynamo.reset()
    w = torch.randn(4, 3, 3, 3)
    run = torch.compile(lambda x: ops.scaled_conv2d(x, w, weight_scale=0.2), backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 3, 4, 4)
    for name in ("aten", "reference", "aten"):
        with use_backend(name):
            run(x)
    assert ran == ["aten", "aten"]


def test_auto_is_the_automatic_choice_by_name(ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGGAN_FAST_BACKEND", "reference")
    layer(backend="auto")
    with use_backend("auto"):
        layer()
    assert len(ran) == 2
    layer()
    assert len(ran) == 2


def test_a_layer_checks_its_backend_when_it_is_made() -> None:
    for make in (lambda b: nn.ScaledConv2d(3, 4, backend=b), lambda b: nn.ScaledLinear(3, 4, backend=b)):
        make("auto")
        with pytest.raises(ValueError, match=r"backend: expected None, auto or one of .* got 'gpu'"):
            make("gpu")


def test_a_fused_op_that_fails_its_check_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    if registry.unavailable("cpu"):
        pytest.skip(str(registry.unavailable("cpu")))
    row = registry._TABLE["cpu", "generator_stage"]
    wrong = row._replace(run=lambda *args: row.run(*args) * 1.01, plan=None)
    monkeypatch.setitem(registry._TABLE, ("cpu", "generator_stage"), wrong)
    monkeypatch.setattr(selfcheck, "build", lambda way: "another")
    monkeypatch.setattr(registry, "_WARNED", set())
    conv = nn.ScaledConv2d(16, 16).requires_grad_(False)
    x = torch.randn(1, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    with pytest.warns(RuntimeWarning, match="generator_stage runs on a slower backend than 'cpu': its self-check"):
        ops.generator_stage(x, conv.scaled, conv.scaled)
    selfcheck.forget()


def test_contexts_that_end_in_another_order_leave_nothing(ran: list[str]) -> None:
    """As those of two threads may."""
    first, second = use_backend("aten"), use_backend("reference")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    layer()
    assert ran == []
    second.__exit__(None, None, None)
    layer()
    assert ran[0] != "aten"
