"""torch.autocast: the dtypes that the docstring of `pggan_fast.ops` promises, and values as near as plain PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grid
import pytest
import torch
import torch._dynamo
from public_ops import OPS, By, Op, draw, everything, leaves_of, same
from torch import Tensor

from pggan_fast import ops, reference

HALF = [torch.float16, torch.bfloat16]
# What autocast does is done before any kernel: those in slow motion are run where their values are looked at.
BACKENDS = ["aten"] if grid.SLOW_MOTION else [None, "reference", *grid.BACKENDS_UNDER_TEST]
backends = pytest.mark.parametrize("backend", BACKENDS)
halves = pytest.mark.parametrize("dtype", HALF)
BLENDS = [name for name, op in OPS.items() if len(op.images) == 2]
names = pytest.mark.parametrize("name", OPS)


def under(dtype: torch.dtype, f: Callable[..., Tensor], **options: Any) -> Callable[..., Tensor]:
    def run(*args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast("cpu", dtype, **options):
            return f(*args, **kwargs)

    return run


def promised(op: Op, dtype: torch.dtype, images: list[torch.dtype]) -> torch.dtype:
    if op.result == "autocast":
        return dtype
    wider = torch.float32 if torch.float32 in images or len(set(images)) > 1 else images[0]
    return images[0] if op.result == "input" else wider


def test_every_public_op_is_here() -> None:
    assert {name.split()[0] for name in OPS} | {"no_weight_grads", "Scaled"} == set(ops.__all__)


@names
@backends
@halves
@pytest.mark.parametrize("given", [torch.float32, *HALF])
def test_dtypes(name: str, backend: str | None, dtype: torch.dtype, given: torch.dtype) -> None:
    """Results as the table says, whatever dtype comes in; each gradient in the dtype of what it belongs to."""
    op = OPS[name]
    tensors = {k: t.to(given) if k in op.images else t for k, t in draw(op).items()}
    results = everything(lambda **t: under(dtype, op.call)(By(backend), **t), tensors)
    assert results["y"].dtype == promised(op, dtype, [given])
    for k, g in results.items():
        if k != "y":
            assert g.dtype == tensors[k.split("/d")[1]].dtype, k
        assert g.isfinite().all()


@names
@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST if grid.SLOW_MOTION else BACKENDS)
@halves
def test_values(name: str, backend: str | None, dtype: torch.dtype, poison: None) -> None:
    """Output, gradients and theirs are as near to the float64 reference as plain PyTorch under autocast is."""
    op = OPS[name]
    tensors = draw(op)
    out = promised(op, dtype, [torch.float32])

    def results(f: Callable[..., Tensor], as_is: bool = True) -> grid.Results:
        return grid.derivatives(f, tensors, list(op.images), 0, "same", out, as_is)

    ours = results(lambda **t: under(dtype, op.call)(By(backend), **t))
    rival = results(lambda **t: under(dtype, op.call)(By("reference"), **t))  # which is given what ours are
    want = results(lambda **t: op.call(reference, **t), as_is=False)
    wrong = grid.judge(ours, rival, want, out)
    assert not wrong, "\n".join(wrong)


@names
@halves
def test_switched_off_inside_it_changes_nothing(name: str, dtype: torch.dtype) -> None:
    op = OPS[name]
    want = everything(lambda **t: op.call(ops, **t), draw(op))
    nested = under(dtype, under(dtype, op.call, enabled=False))
    same(everything(lambda **t: nested(ops, **t), draw(op)), want)


@names
@backends
@halves
def test_its_cache_and_backward_within_change_nothing(name: str, backend: str | None, dtype: torch.dtype) -> None:
    op = OPS[name]

    def results(around: Any = None, **options: Any) -> dict[str, Tensor]:
        return everything(lambda **t: under(dtype, op.call, **options)(By(backend), **t), draw(op), around)

    want = results()
    same(results(cache_enabled=False), want)
    if backend != "reference":  # in plain PyTorch products of the second order fall to autocast
        same(results(torch.autocast("cpu", dtype)), want)


@pytest.fixture
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@names
@halves
@pytest.mark.parametrize("where", ["inside", "around"])
def test_in_one_compiled_graph(name: str, dtype: torch.dtype, where: str, fresh: None) -> None:
    """Whether the function enters autocast or is called in it."""
    op = OPS[name]

    def f(*values: Tensor) -> Tensor:
        tensors = dict(zip({**op.images, **op.parameters}, values, strict=True))
        return under(dtype, op.call)(ops, **tensors) if where == "inside" else op.call(ops, **tensors)

    results = []
    for run in (torch.compile(f, backend="aot_eager", fullgraph=True), f):
        leaves = leaves_of(draw(op))
        with torch.autocast("cpu", dtype, enabled=where == "around"):
            y = run(*leaves.values())
        grads = torch.autograd.grad(y.float().square().sum(), list(leaves.values()))
        results.append({"result": y.detach(), **dict(zip(leaves, grads, strict=True))})
    assert results[0]["result"].dtype == promised(op, dtype, [torch.float32])
    for k, t in results[1].items():
        torch.testing.assert_close(results[0][k], t, rtol=2 * torch.finfo(dtype).eps, atol=1e-4)


@pytest.mark.parametrize("name", BLENDS)
@backends
@pytest.mark.parametrize("dtypes", [(torch.float16, torch.float32), (torch.float32, torch.bfloat16), tuple(HALF)])
def test_two_dtypes(name: str, backend: str | None, dtypes: tuple[torch.dtype, ...]) -> None:
    """Half features and a float32 image meet: under autocast as promised, outside an error that says both dtypes."""
    op = OPS[name]
    tensors = draw(op)
    tensors.update({k: tensors[k].to(dtype) for k, dtype in zip(op.images, dtypes, strict=True)})
    got = everything(lambda **t: under(torch.bfloat16, op.call)(By(backend), **t), tensors)
    assert got["y"].dtype == promised(op, torch.bfloat16, list(dtypes))
    assert [got[f"d/d{k}"].dtype for k in op.images] == list(dtypes)
    with torch.no_grad():
        want = op.call(reference, **{k: t.double() for k, t in tensors.items()})
    eps = torch.finfo(got["y"].dtype).eps
    torch.testing.assert_close(got["y"].double(), want, rtol=4 * eps, atol=4 * eps)
    words = "(?s)" + "".join(f"(?=.*{str(d).removeprefix('torch.')})" for d in dtypes)
    with pytest.raises(TypeError, match=words):
        op.call(By(backend), **tensors)


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.parameters])
@backends
@pytest.mark.parametrize("dtype", HALF)
def test_parameters_of_the_other_half_type(name: str, backend: str | None, dtype: torch.dtype) -> None:
    """A float16 network under bfloat16 autocast, and the other way round, as torch's own layers take it."""
    op = OPS[name]
    other = HALF[1 - HALF.index(dtype)]
    tensors = {k: t if k in op.images else t.to(other) for k, t in draw(op).items()}
    results = everything(lambda **t: under(dtype, op.call)(By(backend), **t), tensors)
    same({"y": results["y"]}, {"y": under(dtype, op.call)(By(backend), **leaves_of(draw(op)))})
    assert all(results[f"d/d{k}"].dtype == other for k in op.parameters)


@names
@halves
def test_float64_is_left_alone(name: str, dtype: torch.dtype) -> None:
    op = OPS[name]
    tensors = {k: t.double() for k, t in draw(op).items()}
    want = everything(lambda **t: op.call(ops, **t), tensors)
    same(everything(lambda **t: under(dtype, op.call)(ops, **t), tensors), want)


def test_another_devices_autocast_is_not_ours() -> None:
    x = torch.randn(2, 4)
    with torch.autocast("cuda", torch.bfloat16):
        assert ops.scaled_linear(x, torch.randn(3, 4), weight_scale=1.0).dtype == torch.float32


@pytest.mark.parametrize("op", ["bias_act", "pixel_norm", "minibatch_stddev", "fade_reals", "fade_in"])
@backends
def test_statistics_are_float32(op: str, backend: str | None) -> None:
    """Squares of 300 leave float16's range, and means of many its precision: sums in half precision would show."""
    x = torch.full((4, 64, 8, 8), 300.0, dtype=torch.float16)
    x[::2] = -300.0
    more = {"fade_in": (x, 0.5), "fade_reals": (0.5,), "bias_act": (None,)}.get(op, ())
    options = {"pixel_norm": "after_act"} if op == "bias_act" else {}
    with torch.autocast("cpu", torch.float16):
        y = getattr(ops, op)(x, *more, **options, backend=backend)
    want = getattr(reference, op)(x.double(), *(t.double() if isinstance(t, Tensor) else t for t in more), **options)
    torch.testing.assert_close(y.double(), want, rtol=1e-3, atol=0.0)
