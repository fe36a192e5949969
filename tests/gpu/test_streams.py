"""Kernels run on the current stream of their tensors' device, from any thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from device_networks import Data, close, d_gradients, equal, networks
from torch import Tensor

from pggan_fast import ops

LONG = 200_000_000  # cycles: about a tenth of a second
OPS: dict[str, Callable[[Tensor, Tensor, str], Tensor]] = {
    "conv": lambda x, w, b: ops.scaled_conv2d(
        x, w, weight_scale=0.1, negative_slope=0.2, pixel_norm="after_act", backend=b
    ),
    "up": lambda x, w, b: ops.scaled_conv2d(x, w, weight_scale=0.1, resample="up", backend=b),
    "pool": lambda x, w, b: ops.scaled_conv2d(x, w, weight_scale=0.1, resample="pool", negative_slope=0.2, backend=b),
    "bias_act": lambda x, w, b: ops.bias_act(x, negative_slope=0.2, backend=b),
    "fade": lambda x, w, b: ops.fade_in(x, 2.0 * x, 0.25, backend=b),
    "stddev": lambda x, w, b: ops.minibatch_stddev(x, 2, backend=b),
}


def both(f: Callable[[Tensor, Tensor, str], Tensor], x: Tensor, w: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """The output and the gradient in x."""
    leaf = x.detach().requires_grad_()
    y = f(leaf, w, backend)
    return y.detach(), torch.autograd.grad(y.square().sum(), leaf)[0]


def inputs(device: str) -> tuple[Tensor, Tensor]:
    return torch.randn(4, 16, 8, 8, device=device), torch.randn(16, 16, 3, 3, device=device)


@pytest.mark.parametrize("op", OPS)
def test_a_side_stream_waits_for_its_own_producer(device: str, backend: str, op: str) -> None:
    source, w = inputs(device)
    want = both(OPS[op], source, w, backend)
    x = torch.full_like(source, float("nan"))
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(LONG)
        x.copy_(source)
        got = both(OPS[op], x, w, backend)
    side.synchronize()
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_a_launch_on_another_stream_would_be_seen(device: str, backend: str) -> None:
    """The fault: the consumer does not wait, and reads what was there before."""
    source, w = inputs(device)
    OPS["bias_act"](source, w, backend)  # compiled before the race
    x = torch.full_like(source, float("nan"))
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(LONG)
        x.copy_(source)
    y = OPS["bias_act"](x, w, backend)
    side.synchronize()
    assert y.isnan().all()


def test_threads_do_not_disturb_each_other(device: str, backend: str) -> None:
    """Four threads, each with a stream, a network and numbers of its own, against the same one after another.

    Within roundings: autograd adds up gradients in an order that other threads change.
    """
    jobs = [(networks(backend, device), Data.draw(seed, device)) for seed in range(4)]
    wants = [d_gradients(*pair, data) for pair, data in jobs]
    torch.cuda.synchronize()

    def work(i: int) -> bool:
        pair, data = jobs[i]
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(5):
                got = d_gradients(*pair, data)
        stream.synchronize()
        close(got, wants[i])
        return True

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [True] * 4
    assert not equal(wants[0], wants[1])


def test_a_second_device(device: str, backend: str) -> None:
    """Tensors decide where kernels run, not the current device."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    results = []
    for where in ("cuda:0", "cuda:1"):
        data = Data(*(t.to(where) for t in Data.draw(0, "cpu")))
        results.append(d_gradients(*networks(backend, where), data))
    assert torch.cuda.current_device() == 0
    there = results[1]["loss"]
    assert there is not None
    assert there.device.index == 1
    close({k: None if t is None else t.to("cuda:0") for k, t in results[1].items()}, results[0])
