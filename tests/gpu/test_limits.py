"""What is refused, and what is far away: tensors of more than 2^31 elements."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pggan_fast import BackendUnavailable, ops
from pggan_fast.backends import registry


def test_a_tensor_on_the_cpu_is_refused(device: str, ours: str) -> None:
    with pytest.raises(BackendUnavailable, match="needs tensors on a CUDA device, got cpu"):
        ops.bias_act(torch.ones(1, 3, 2, 2), negative_slope=0.2, backend=ours)


def test_a_weight_on_the_cpu_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="weight: expected a tensor on cuda:0, got one on cpu"):
        ops.scaled_conv2d(torch.ones(1, 3, 2, 2, device=device), torch.ones(4, 3, 3, 3), weight_scale=1.0)


def test_float64_is_refused_and_left_to_another_backend(device: str, ours: str) -> None:
    x = torch.ones(1, 3, 2, 2, device=device, dtype=torch.float64)
    with pytest.raises(BackendUnavailable, match=r"no kernels for torch\.float64"):
        ops.pixel_norm(x, backend=ours)
    assert ops.pixel_norm(x).dtype == torch.float64


def test_the_automatic_choice_takes_the_kernels(device: str, triton: str) -> None:
    x = torch.ones(1, 3, 2, 2, device=device)
    assert registry.choose("fade_reals", None, "cuda", (x, x.new_tensor(0.5))).way == "triton"


LARGE = (129, 16, 1024, 1024)  # 2.2e9 elements, of half precision 4.3 GB
ELEMENTS = 129 * 16 * 1024 * 1024
NEEDED = 3 * 2 * ELEMENTS + (2 << 30)


def conv(x: Tensor, backend: str) -> Tensor:
    w = torch.linspace(-1.0, 1.0, 16 * 16 * 9, device=x.device).view(16, 16, 3, 3)
    return ops.scaled_conv2d(x, w, weight_scale=0.1, negative_slope=0.2, pixel_norm="after_act", backend=backend)


FAR: dict[str, Callable[[Tensor, str], Tensor]] = {
    "bias_act": lambda x, backend: ops.bias_act(
        x, torch.linspace(-1.0, 1.0, 16, device=x.device), negative_slope=0.2, pixel_norm="after_act", backend=backend
    ),
    "fade_in": lambda x, backend: ops.fade_in(x, x, 0.25, backend=backend),
    "fade_reals": lambda x, backend: ops.fade_reals(x, 0.25, backend=backend),
    "conv": conv,
}


def far_images(device: str, memory: torch.memory_format) -> Tensor:
    free = torch.cuda.mem_get_info()[0]
    if free < NEEDED:
        pytest.skip(f"needs {NEEDED / 1e9:.0f} GB of free device memory, got {free / 1e9:.0f}")
    x = torch.empty(LARGE, device=device, dtype=torch.float16, memory_format=memory)
    return x.copy_(torch.randn(1, *LARGE[1:], device=device, dtype=torch.float16).expand(LARGE))


@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format], ids=["channels_last", "nchw"])
@pytest.mark.parametrize("op", FAR)
def test_addresses_past_2_to_31(device: str, ours: str, op: str, memory: torch.memory_format) -> None:
    """The same image over and over, the last one another: each result is that of its image alone."""
    x = far_images(device, memory)
    x[-1].mul_(-0.5)
    with torch.no_grad():
        y = FAR[op](x, ours)
        assert y.numel() > 1 << 31
        for i in (0, 63, 64, 127, 128):
            alone = FAR[op](x[i : i + 1].clone(memory_format=memory), ours)
            torch.testing.assert_close(y[i : i + 1], alone, rtol=2e-3, atol=1e-3)
    assert not torch.equal(y[0], y[-1])
    del x, y
    torch.cuda.empty_cache()


@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format], ids=["channels_last", "nchw"])
def test_a_weight_gradient_past_2_to_31(device: str, ours: str, memory: torch.memory_format) -> None:
    """All but the last image are zero: the gradient is that of the last image alone."""
    x = far_images(device, memory)
    x[:-1] = 0.0
    # One image of gradients for all, with a batch stride of zero, would be made dense: its memory is counted
    dy = torch.randn(1, *LARGE[1:], device=device, dtype=torch.float16).expand(LARGE)
    gradient = torch.ops.pggan_fast.conv_weight_grad
    got = gradient(x, dy, 0.01, "none", 3, torch.float32, ours)
    last = x[-1:].clone(memory_format=memory)
    want = gradient(last, dy[-1:].clone(memory_format=memory), 0.01, "none", 3, torch.float32, ours)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))
    assert want.any()
    del x, dy
    torch.cuda.empty_cache()
