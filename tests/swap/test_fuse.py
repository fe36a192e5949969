"""fuse(): whole modules of others, before and after."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from foreign_layers import CONVS, NORMS, POOLS, UPS, Block, Does, Hooked, OnInput, OnWeight, Pair, critic
from swap_checks import fused_wholly, same_derivatives
from torch import nn

import pggan_fast
from pggan_fast import fuse, unfuse
from pggan_fast.swap.fused import installed

pytestmark = pytest.mark.early


@pytest.mark.parametrize(("form", "down"), zip(CONVS, itertools.cycle([True, False])))
def test_blocks_in_every_form_have_equal_double_backwards(form: str, down: bool) -> None:
    module = Block(form=form, down=down).double()
    original = fuse(module, copy=True, probe=False).model
    unfuse(original)
    fused_wholly(module)
    same_derivatives(module, original, torch.randn(3, 5, 8, 6, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_a_critic_is_one_region() -> None:
    module = critic().double()
    original = copy.deepcopy(module)
    report = fused_wholly(module)
    assert report.rows[0].pattern.startswith("conv1x1 lrelu conv3x3 lrelu conv3x3 lrelu pool stddev conv3x3 lrelu conv")
    same_derivatives(module, original, torch.randn(4, 3, 8, 8, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "order"), [("sqrt", "act"), *itertools.product(NORMS, ["act norm", "norm act", "norm"])]
)
def test_norms_and_orders(name: str, order: str) -> None:
    parts = {"act": nn.LeakyReLU(0.1), "norm": Does(NORMS[name][0])}
    module = nn.Sequential(OnInput(3, 4), *(parts[p] for p in order.split()))
    x = torch.randn(2, 3, 4, 6)
    want = module(x)
    fused_wholly(module)
    torch.testing.assert_close(module(x), want)


@pytest.mark.parametrize("resample", [*UPS.items(), *POOLS.items()], ids=lambda pair: pair[0])
@pytest.mark.parametrize("before", [True, False])
def test_resampling_before_and_after_the_activation(resample: tuple[str, Any], before: bool) -> None:
    parts = [nn.LeakyReLU(0.2), Does(resample[1])]
    module = nn.Sequential(OnWeight(3, 4), *(reversed(parts) if before else parts), OnWeight(4, 4, 1))
    x = torch.randn(2, 3, 4, 6)
    want = module(x)
    fused_wholly(module)
    torch.testing.assert_close(module(x), want)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("weights", [False, True])
def test_strides_are_those_of_the_original(channels_last: bool, weights: bool) -> None:
    module = Block()
    if weights:
        module.to(memory_format=torch.channels_last)
    x = torch.randn(2, 5, 4, 6)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    want = module(x).stride()
    fused_wholly(module)
    assert module(x).stride() == want


def test_nothing_but_forward_is_set() -> None:
    module = critic()
    optimiser = torch.optim.Adam(module.parameters())
    state, parameters = module.state_dict(), list(module.parameters())
    kinds = [type(m) for m in module.modules()]
    fuse(module)
    assert [type(m) for m in module.modules()] == kinds
    assert list(module.state_dict()) == list(state)
    assert all(a is b for a, b in zip(module.parameters(), parameters, strict=True))
    module(torch.randn(4, 3, 8, 8)).mean().backward()
    before = [p.detach().clone() for p in parameters]
    optimiser.step()
    assert not any(torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(module(x), unfuse(module)(x))
    module.load_state_dict(state)


def test_unfuse_restores_every_bit() -> None:
    module = critic()
    x = torch.randn(4, 3, 8, 8)
    want, attributes = module(x), [set(vars(m)) for m in module.modules()]
    fuse(module)
    assert "forward" in vars(module)
    assert unfuse(module) is module
    assert [set(vars(m)) for m in module.modules()] == attributes
    assert torch.equal(module(x), want)


def test_a_fused_module_prints_what_runs() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.LeakyReLU(0.2))
    before = repr(module)
    fuse(module)
    assert repr(module) == before.replace("Sequential(", "Sequential(\n  fused: conv3x3 lrelu")
    assert repr(copy.deepcopy(module)) == repr(module)
    assert "conv3x3 lrelu\n" in repr(through_pickle(module))
    module[1].negative_slope = 0.1
    assert "fused: conv3x3 lrelu, but changed since: its own forward runs" in repr(module)
    module[1].negative_slope = 0.2
    assert repr(unfuse(module)) == before


def test_what_a_module_says_of_itself_stays() -> None:
    class Convolution(nn.Conv2d):
        pass

    module = nn.Sequential(nn.LeakyReLU(0.2), Convolution(3, 4, 3))
    module.extra_repr = lambda: "mine"  # type: ignore[method-assign]
    fuse(module)
    assert repr(module).startswith("Sequential(\n  mine\n")
    assert repr(unfuse(module)).startswith("Sequential(\n  mine\n")


def test_twice_changes_nothing() -> None:
    module = critic()
    fuse(module)
    forward = vars(module)["forward"]
    report = fuse(module)
    assert vars(module)["forward"] is forward
    assert [(row.replaced, row.reason) for row in report.rows] == [(True, "fused before")]


def through_pickle(module: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(module))  # type: ignore[no-any-return]


def through_save(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)  # type: ignore[no-any-return]


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle, through_save])
@pytest.mark.parametrize("form", ["E2", "E2t", "E3", "E5"])
def test_copies_are_fused_over_their_own_parameters(copied: Callable[[nn.Module], nn.Module], form: str) -> None:
    module = Block(form=form)
    fuse(module)
    twin = copied(module)
    forward = installed(twin)
    assert forward is not None
    assert forward.module is twin
    x = torch.randn(2, 5, 4, 4)
    assert torch.equal(twin(x), module(x))
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(torch.randn_like(p))
    assert not torch.allclose(twin(x), module(x))
    torch.testing.assert_close(twin(x), copied(unfuse(twin))(x))


@pytest.mark.parametrize("forwarded", [False, True])
def test_a_copy_is_fused_and_the_model_left(forwarded: bool) -> None:
    module = nn.Sequential(Hooked(3, 4), nn.LeakyReLU(0.2))
    x = torch.randn(2, 3, 4, 4)
    if forwarded:
        module(x)
        with pytest.raises(RuntimeError, match="deepcopy"):
            copy.deepcopy(module)
    report = fuse(module, copy=True)
    assert report.model is not module
    assert installed(module) is None
    assert installed(report.model) is not None
    torch.testing.assert_close(report.model(x), module(x))
    assert not {*map(id, module.parameters())} & {*map(id, report.model.parameters())}


def test_parameters_may_be_replaced_and_moved() -> None:
    module = Block()
    fuse(module)
    x = torch.randn(2, 5, 4, 4)
    module.conv1.bias = nn.Parameter(torch.randn(6))
    y = module(x)
    module.double()
    torch.testing.assert_close(module(x.double()).float(), y)
    state = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    got = torch.func.functional_call(module, state, (x.double(),))
    torch.testing.assert_close(got, torch.func.functional_call(unfuse(module), state, (x.double(),)))


def test_frozen_parameters_stay_frozen() -> None:
    module = Block()
    module.conv1.requires_grad_(False)
    fused_wholly(module)
    module(torch.randn(2, 5, 4, 4)).sum().backward()
    assert [p.grad is None for p in module.parameters()] == [not p.requires_grad for p in module.parameters()]


def test_shared_layers_may_be_fused() -> None:
    shared = OnInput(4, 4)
    module = nn.Sequential(shared, nn.LeakyReLU(0.2), shared, Does(NORMS["sqrt"][0]))
    tied = OnInput(4, 4)
    tied.conv.weight = shared.conv.weight
    module.append(tied)
    x = torch.randn(2, 4, 4, 4)
    want = module(x)
    want.sum().backward()
    grads = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    fused_wholly(module)
    module.zero_grad()
    module(x).sum().backward()
    torch.testing.assert_close([p.grad for p in module.parameters()], grads)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    module = Block().to(dtype)
    x = torch.randn(2, 5, 4, 4, dtype=dtype)
    truth = copy.deepcopy(module).double()(x.double())
    fused_wholly(module)
    y = module(x)
    assert y.dtype == dtype
    assert (y.double() - truth).abs().max() < 16 * torch.finfo(dtype).eps


def test_autocast() -> None:
    module = Block()
    x = torch.randn(2, 5, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        want = module(x)
        fused_wholly(module)
        torch.testing.assert_close(module(x).float(), want.float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("channels_last", [False, True])
def test_what_comes_out_of_a_product_may_be_overwritten(channels_last: bool) -> None:
    module = OnInput(5, 6)
    x = torch.randn(2, 5, 4, 4)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    want = torch.autograd.grad(nn.functional.leaky_relu_(module(x), 0.2).sum(), list(module.parameters()))
    fused_wholly(module)
    got = torch.autograd.grad(nn.functional.leaky_relu_(module(x), 0.2).sum(), list(module.parameters()))
    torch.testing.assert_close(got, want)


def test_what_transforms_and_traces(recwarn: pytest.WarningsRecorder) -> None:
    module = Block()
    x = torch.randn(2, 5, 4, 4)
    want = module(x)
    fuse(module)
    torch.testing.assert_close(torch.func.vmap(module)(x[None])[0], want)
    torch.testing.assert_close(torch.jit.trace(module, x)(x), want)
    with torch.no_grad():
        torch.testing.assert_close(module(x), want)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), want)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_fuse_works_where_gradients_are_off(context: Callable[[], Any]) -> None:
    module = Block()
    with context():
        fused_wholly(module)
    module(torch.randn(2, 5, 4, 4)).sum().backward()


def test_a_first_block_is_compared_on_one_pixel_too() -> None:
    module = nn.Sequential(nn.ConvTranspose2d(5, 6, 4), nn.LeakyReLU(0.2), OnInput(6, 6), Does(NORMS["sqrt"][0]))
    z = torch.randn(3, 5, 1, 1)
    want = module(z)
    fused_wholly(module)
    forward = installed(module)
    assert forward is not None
    assert (5, 1, 1) in [tuple(args[0].shape[1:]) for args in forward.examples(z)]
    torch.testing.assert_close(module(z), want)


def test_the_report() -> None:
    report = fuse(Pair(), time=True)
    text = str(report)
    assert "Pair: 2 parts fused" in text
    assert report.replaced[0].pattern == "up conv3x3 lrelu norm conv3x3 lrelu norm"
    assert "up conv3x3 lrelu" in text
    assert all(row.before and row.after and row.error is not None for row in report.replaced)
    assert "before" in text
    assert "before" not in str(fuse(Pair()))
    assert set(map(id, report.rows)) == set(map(id, report.replaced + report.left))


@pytest.mark.parametrize("function", [fuse, unfuse])
def test_what_is_no_module_is_an_error(function: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got list"):
        function([Block()])


def test_names_of_the_package() -> None:
    assert pggan_fast.fuse is pggan_fast.swap.fuse
    assert {"fuse", "unfuse", "FuseReport", "swap"} <= set(pggan_fast.__all__)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_an_image_has_the_strides_of_the_original(memory_format: torch.memory_format) -> None:
    """Penalties go on with `gradient.view(n, -1)`."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(8, 8, 3, padding=1), nn.LeakyReLU(0.2)
    )
    x = torch.randn(2, 3, 6, 4).contiguous(memory_format=memory_format).requires_grad_()
    strides = []
    for fused in (False, True):
        if fused:
            assert fuse(model).replaced
        y = model(x)
        (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
        strides.append((y.stride(), gradient.stride()))
        gradient.square().sum().backward()
    assert strides[0] == strides[1]


def test_a_critics_last_layers_are_measured_at_the_size_that_they_take() -> None:
    last = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(6 * 16, 1))
    (row,) = fuse(last, time=True).rows
    assert row.replaced
    assert row.before is not None
    assert row.after is not None
