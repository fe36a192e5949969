"""Whole networks under torch.autocast, in other dtypes, and given the wrong one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from device_networks import Data, Results, d_gradients, g_gradients, networks
from pggan_fast.benchmarks import gate

from pggan_fast.training.losses import gradient_penalty

HALF = [torch.float16, torch.bfloat16]
BACKENDS = [None, "reference", "aten", "cpu"]
backends = pytest.mark.parametrize("backend", BACKENDS)
halves = pytest.mark.parametrize("dtype", HALF)


def outputs(backend: str | None, data: Data, dtype: torch.dtype | None, grad: bool = False) -> dict[str, torch.Tensor]:
    """Image and scores, in autocast's dtype where there is one; without gradients the fused ops run."""
    G, D = networks(backend, "cpu")
    enabled = dtype in HALF
    if dtype == torch.float64:
        G, D, data = G.double(), D.double(), data.to(torch.float64)
    with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype if enabled else torch.bfloat16, enabled=enabled):
        found = {"image": G(data.z, alpha=data.alpha), "whole": G(data.z), "score": D(data.reals, alpha=data.alpha)[0]}
    assert {t.dtype for t in found.values()} == {dtype or torch.float32}
    return {k: t.detach() for k, t in found.items()}


@backends
@halves
@pytest.mark.parametrize("grad", [False, True])
def test_outputs_against_the_reference_networks(backend: str | None, dtype: torch.dtype, grad: bool) -> None:
    data = Data.draw(0, "cpu")
    want, rival = outputs("reference", data, torch.float64), outputs("reference", data, dtype)
    ours = outputs(backend, data, dtype, grad)
    verdict = gate.judge(gate.errors(ours, want), gate.errors(rival, want), dtype)
    assert not verdict.red, str(verdict)
    ours["image"] = ours["image"] * 1.1  # the fault
    assert gate.judge(gate.errors(ours, want), gate.errors(rival, want), dtype).red


@backends
@halves
@pytest.mark.parametrize("within", [False, True])
def test_the_gradient_penalty(backend: str | None, dtype: torch.dtype, within: bool) -> None:
    """Finite, float32, and near float64's; its backward pass too, in the context or after it."""
    data, D = Data.draw(0, "cpu"), networks(backend, "cpu")[1]
    with torch.autocast("cpu", dtype):
        value = gradient_penalty(D, data.reals, data.reals.flip(0), u=data.u, alpha=data.alpha)
        if within:
            value.mean().backward()
    if not within:
        value.mean().backward()
    assert value.dtype == torch.float32
    gradients = [p.grad for p in D.parameters() if p.grad is not None]
    assert len(gradients) > 10
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)
    exact = networks("reference", "cpu")[1].double()
    data = data.to(torch.float64)
    want = gradient_penalty(exact, data.reals, data.reals.flip(0), u=data.u, alpha=data.alpha)
    torch.testing.assert_close(value.double(), want, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("backend", BACKENDS)
def test_float64_everything(backend: str | None) -> None:
    """A step of each network in float64 by every backend that has it: results to float64's precision."""
    data = Data.draw(0, "cpu").to(torch.float64)
    for f in (d_gradients, g_gradients):
        got, want = (f(*(n.double() for n in networks(b, "cpu")), data) for b in (backend, "reference"))
        assert all(t is None or t.dtype == torch.float64 for t in got.values())
        compare(got, want)


def compare(got: Results, want: Results) -> None:
    for name, t in want.items():
        if t is not None:
            torch.testing.assert_close(got[name], t, rtol=1e-9, atol=1e-9)


def test_half_latents_and_images_beside_float32_parameters() -> None:
    data, (G, D) = Data.draw(0, "cpu"), networks(None, "cpu")
    image = G(data.z.half(), alpha=data.alpha)
    score = D(image, alpha=data.alpha)[0]
    assert (image.dtype, score.dtype) == (torch.float16, torch.float16)
    score.sum().backward()
    assert {p.grad.dtype for p in (*G.parameters(), *D.parameters()) if p.grad is not None} == {torch.float32}


MIXED: list[tuple[Any, Any, tuple[str, ...]]] = [
    # the network's dtype, its input's, words of the error
    (torch.float32, torch.float64, ("expected float32", "got float64", ".to(torch.float32)", ".to(torch.float64)")),
    (torch.float64, torch.float32, ("expected float64", "got float32", ".to(torch.float64)")),
    (torch.float16, torch.float32, ("expected float16", "got float32", ".to(torch.float16)", "autocast")),
    (torch.float16, torch.bfloat16, ("expected float16", "got bfloat16", "autocast")),
    (torch.bfloat16, torch.float64, ("expected bfloat16", "got float64")),
    (torch.float32, torch.int64, ("int64", "float32")),
    (torch.float32, torch.uint8, ("uint8", "float32")),
]


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize(("of_network", "of_input", "words"), MIXED)
@pytest.mark.parametrize("argument", ["z", "image"])
def test_the_networks_input_is_named(
    argument: str, of_network: torch.dtype, of_input: torch.dtype, words: tuple[str, ...], backend: str | None
) -> None:
    """Not the weight of some layer inside, which is as it should be."""
    data, pair = Data.draw(0, "cpu"), networks(backend, "cpu")
    network, given = (pair[0], data.z) if argument == "z" else (pair[1], data.reals)
    network.to(of_network)
    with pytest.raises(TypeError) as caught:
        network(given.to(of_input), alpha=0.5)
    message = str(caught.value)
    assert message.startswith(f"{argument}: ")
    assert not [word for word in words if word not in message], message


@halves
def test_a_half_network_takes_float32_under_autocast(dtype: torch.dtype) -> None:
    data, (G, D) = Data.draw(0, "cpu"), networks(None, "cpu")
    with torch.autocast("cpu", dtype):
        image = G.half()(data.z, alpha=0.5)
        score = D.half()(image.float(), alpha=0.5)[0]
    assert image.dtype == score.dtype == dtype


def test_a_computed_weight_is_not_computed_twice() -> None:
    """A parametrization may keep state, as spectral norm's power iteration does: the dtype check leaves it alone."""
    calls = 0

    class Counted(torch.nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return weight

    data, (G, _) = Data.draw(0, "cpu"), networks(None, "cpu")
    torch.nn.utils.parametrize.register_parametrization(G.get_submodule("blocks.4x4.dense"), "weight", Counted())
    calls = 0
    G(data.z)
    assert calls == 1
