"""What `explain` says is what runs, and `warm_up` leaves nothing to be checked."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import pggan_fast
from pggan_fast import BackendUnavailable, nn, ops
from pggan_fast.backends import cpu, recording, registry, selfcheck, signature, tables
from pggan_fast.models import Discriminator, Generator

pytestmark = [
    pytest.mark.skipif(cpu.native is None, reason=f"no native kernels: {cpu.why_missing()}"),
    pytest.mark.usefixtures("fresh_choices"),
]


def rows(*shape: int, **options: Any) -> torch.Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_(**options)


LAYER: dict[str, Any] = {"weight_scale": 0.1, "negative_slope": 0.2}


def test_an_op_and_its_backward_pass() -> None:
    x, w = rows(2, 16, 16, 16), torch.randn(8, 16, 3, 3, requires_grad=True)
    found = pggan_fast.explain(ops.scaled_conv2d, x, w, resample="down", **LAYER)
    assert [(c.call.split()[0], c.way) for c in found] == [
        ("scaled_conv2d_forward", "cpu"),
        ("bias_act_backward", "cpu"),
        ("conv", "cpu"),
        ("conv_weight_grad", "cpu"),
    ]
    assert found[0].reasons == {
        "cpu": None,
        "aten+cpu": "the static rule prefers the way above",
        "aten": "the static rule prefers the way above",
    }
    assert w.grad is None
    text = str(found)
    assert repr(found) == text
    head, legend, *_ = text.splitlines()
    assert head == "4 calls: cpu 4"
    assert legend.startswith("C@P: C channels")
    assert "  cpu       runs" in text
    assert "  aten+cpu  does not: the static rule" in text
    assert "\nscaled_conv2d_forward float32 x=16@512 weight=8x16x3x3 resample=down slope" in text
    by_function = pggan_fast.explain(lambda: ops.scaled_conv2d(x, w, resample="down", **LAYER))
    assert by_function == found  # the backward pass too, to leaves that are no arguments
    assert x.grad is None


def test_the_reasons_of_those_that_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = rows(1, 64, 4, 4, requires_grad=False), torch.randn(8, 64, 3, 3)
    few = pggan_fast.explain(ops.scaled_conv2d, x, w, **LAYER)[0]
    assert few.way == "aten+cpu"
    assert few.reasons["cpu"] == "so few pixels do not pay for transforming the weights: 16 for 64 channels"
    single = pggan_fast.explain(ops.scaled_conv2d, x, w[:, :, :1, :1].contiguous(), resample="up", **LAYER)[0]
    assert single.reasons["cpu"] == "its 1x1 convolutions do not resample, got 'up'"
    named = pggan_fast.explain(ops.scaled_conv2d, x, w, backend="aten", **LAYER)[0]
    assert named.reasons == {
        "aten": None,
        "cpu": "backend='aten' was named",
        "aten+cpu": "backend='aten' was named",
    }
    monkeypatch.setitem(registry._UNAVAILABLE, "cpu", lambda: "no compiler; install one")
    monkeypatch.setattr(registry, "_WARNED", set())
    with pytest.warns(RuntimeWarning, match="no compiler"):
        missing = pggan_fast.explain(ops.scaled_conv2d, x, w, **LAYER)[0]
    assert missing.way == "aten"
    assert missing.reasons["cpu"] == missing.reasons["aten+cpu"] == "no compiler; install one"


def test_a_measurement_is_told() -> None:
    x, w = rows(1, 16, 32, 32, requires_grad=False), torch.randn(16, 16, 3, 3)
    call = pggan_fast.explain(ops.scaled_conv2d, x, w, **LAYER)[0]
    assert call.way == "cpu"
    seconds = {"cpu": 3e-4, "aten+cpu": 2e-4, "aten": 5e-4}
    tables.add(x.device, "ways", {call.call: {"best": "aten+cpu", "seconds": seconds}})
    registry.forget()
    again = pggan_fast.explain(ops.scaled_conv2d, x, w, **LAYER)[0]
    assert again.way == "aten+cpu"
    assert again.reasons["cpu"] == "it was measured to be slower: 300 us"
    near, far = rows(1, 16, 32, 31, requires_grad=False), rows(1, 16, 32, 33, requires_grad=False)
    assert pggan_fast.explain(ops.scaled_conv2d, near, w, **LAYER)[0].way == "aten+cpu"
    assert pggan_fast.explain(ops.scaled_conv2d, far, w, **LAYER)[0].way == "cpu"


def test_a_failed_check_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    row = registry._TABLE["cpu", "fade_reals"]
    wrong = row._replace(run=lambda image, alpha: row.run(image, alpha) + 1, plan=None)
    monkeypatch.setitem(registry._TABLE, ("cpu", "fade_reals"), wrong)
    monkeypatch.setattr(registry, "_WARNED", set())
    with pytest.warns(RuntimeWarning, match="self-check"):
        found = pggan_fast.explain(ops.fade_reals, torch.randn(1, 3, 4, 4), 0.5)
    assert found[0].way == "aten"
    assert str(found[0].reasons["cpu"]).startswith("its self-check on this device failed: a result is off by")


def test_a_network_in_one_table() -> None:
    G, D = Generator(16, latent_dim=8, fmap_base=128), Discriminator(16, fmap_base=128)
    with torch.no_grad():
        found = pggan_fast.explain(G, torch.randn(4, 8), alpha=0.5)
    names = [c.call.split()[0] for c in found]
    assert names.count("generator_stage") == 2
    assert next(c for c in found if c.call.startswith("generator_stage")).reasons == {"cpu": None}
    found = pggan_fast.explain(D, torch.randn(4, 3, 16, 16))
    assert {"conv_weight_grad", "minibatch_stddev_backward"} <= {c.call.split()[0] for c in found}
    assert all(p.grad is None for p in D.parameters())


def test_an_op_of_several_layers_that_runs_its_parts() -> None:
    x, conv = rows(1, 16, 4, 4, requires_grad=False), nn.ScaledConv2d(16, 16).requires_grad_(False)
    name = pggan_fast.explain(ops.generator_stage, x, conv.scaled, conv.scaled)[0].call
    tables.add(x.device, "ways", {name: {"best": "parts", "seconds": {"parts": 1e-4, "cpu": 2e-4}}})
    registry.forget()
    found = pggan_fast.explain(ops.generator_stage, x, conv.scaled, conv.scaled)
    assert found[0].way == "parts"
    assert found[0].reasons == {"cpu": "it was measured to be slower: 200 us"}
    assert re.search(r"  parts +runs: its layers one by one", str(found))
    assert {c.call.split()[0] for c in found[1:]} == {"scaled_conv2d_forward"}


def test_what_is_not_ours_and_what_raises() -> None:
    assert "no op of pggan_fast ran" in str(pggan_fast.explain(ops.pixel_norm, torch.ones(1, 2), backend="reference"))
    assert pggan_fast.explain(torch.nn.Linear(2, 2), torch.ones(1, 2)) == ()
    with pytest.raises(ValueError, match="weight: expected 3 input channels"):
        pggan_fast.explain(ops.scaled_conv2d, torch.ones(1, 3, 2, 2), torch.ones(1, 2, 3, 3), weight_scale=1.0)
    assert not recording.recorders
    with pytest.raises(TypeError, match="function: expected an op, a module or a function, got int"):
        pggan_fast.explain(3)  # type: ignore[arg-type]
    if registry.unavailable("triton"):
        with pytest.raises(BackendUnavailable):
            pggan_fast.explain(ops.pixel_norm, torch.ones(1, 2), backend="triton")


def test_after_a_warm_up_nothing_is_left_to_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    D, image = Discriminator(16, fmap_base=128), torch.randn(4, 3, 16, 16, requires_grad=True)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    pggan_fast.warm_up(D, image)
    assert torch.equal(torch.get_rng_state(), state)
    assert image.grad is None
    assert all(p.grad is None for p in D.parameters())

    def check(*args: object) -> None:
        raise AssertionError("checked after the warm-up")

    monkeypatch.setattr(selfcheck, "check", check)
    D(image)[0].sum().backward()
    with torch.no_grad():
        D(image)
    with pytest.raises(AssertionError, match="after the warm-up"):
        D(image.detach().half())


def test_the_key_of_a_choice_holds_no_tensor_and_all_that_counts() -> None:
    x = torch.randn(1, 8, 4, 4)
    calls = [(x,), (x.half(),), (x.contiguous(memory_format=torch.channels_last),), (x[:, :4],), (x, "up"), (x, None)]
    keys = {signature.key(args) for args in calls}
    assert len(keys) == len(calls)
    assert not any(isinstance(part, torch.Tensor) for key in keys for part in key)
