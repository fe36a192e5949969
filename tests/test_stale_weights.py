"""However parameters are written, the next result is that of a fresh module with those weights, bit for bit.

Weights are transformed before they are used (Winograd's, sums of taps): whoever keeps a transformed
weight for the next call has to see every one of these writes, of which some leave `_version` or the address alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Module

from pggan_fast import nn
from pggan_fast.backends import cpu, tiled
from pggan_fast.models import Discriminator, Generator

Mode = Callable[[], AbstractContextManager[Any]]
MODES: tuple[Mode, ...] = torch.enable_grad, torch.no_grad, torch.inference_mode
NATIVE = pytest.mark.skipif(cpu.native is None, reason=f"no native kernels: {cpu.why_missing()}")
WIDE: dict[str, Any] = {"fmap_base": 4096, "fmap_max": 256}  # with 16 images of 8x8: pixels enough for tiles


def image(*shape: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


class Fading(Module):
    """toRGB and fromRGB of two levels in one op."""

    def __init__(self) -> None:
        super().__init__()
        self.high, self.low, self.from_rgb = nn.ToRGB(16), nn.ToRGB(32), nn.FromRGB(3, 16)

    def forward(self, x: Tensor) -> Tensor:
        shown = self.high.fade_in(x, self.low, torch.cat([x, x], 1)[:, :, ::2, ::2], 0.3)
        return self.from_rgb.fade_in(shown, x[:, :, ::2, ::2], 0.3)


def layer(cin: int, c: int, resample: str = "none", k: int = 3) -> Module:
    return nn.ScaledConv2d(cin, c, k, resample=resample, negative_slope=0.2, pixel_norm=_norm(resample))


def _norm(resample: str) -> str:
    return "none" if resample == "pool" else "after_act"


# A module, and what it is called with. Wide ones transform their weights.
SUBJECTS: dict[str, tuple[Callable[[], Module], Tensor]] = {
    "none": (lambda: layer(8, 12), image(2, 8, 8, 8)),
    "up": (lambda: layer(8, 12, "up"), image(2, 8, 8, 8)),
    "down": (lambda: layer(8, 12, "down"), image(2, 8, 8, 8)),
    "pool": (lambda: layer(8, 12, "pool"), image(2, 8, 8, 8)),
    "1x1": (lambda: layer(8, 12, k=1), image(2, 8, 8, 8)),
    "wide none": (lambda: layer(256, 256), image(1, 256, 32, 32)),
    "wide up": (lambda: layer(64, 128, "up"), image(1, 64, 8, 8)),
    "wide down": (lambda: layer(128, 64, "down"), image(1, 128, 16, 16)),
    "wide pool": (lambda: layer(256, 256, "pool"), image(1, 256, 32, 32)),
    "linear": (lambda: nn.ScaledLinear(16, 24, negative_slope=0.2), image(2, 16)),
    "latent": (lambda: nn.LatentToMap(16, 8), image(2, 16)),
    "toRGB": (lambda: nn.ToRGB(16), image(2, 16, 8, 8)),
    "fromRGB": (lambda: nn.FromRGB(3, 16), image(2, 3, 8, 8)),
    "fading": (Fading, image(2, 16, 8, 8)),
    "G": (lambda: Generator(8, latent_dim=16, **WIDE), image(16, 16)),
    "D": (lambda: Discriminator(8, **WIDE), image(16, 3, 8, 8)),
}


def fresh(name: str) -> Module:
    """With biases that are not zero."""
    with torch.random.fork_rng(), torch.no_grad():  # what is written is drawn from the other stream
        torch.manual_seed(1)
        module = SUBJECTS[name][0]()
        for key, p in module.named_parameters():
            if key.endswith("bias"):
                p.normal_()
    return module


def others(module: Module) -> dict[str, Tensor]:
    return {key: torch.randn_like(p) for key, p in module.state_dict().items()}


def data_copy(module: Module) -> None:
    for p, new in zip(module.parameters(), others(module).values(), strict=True):
        p.data.copy_(new)


def data_assigned(module: Module) -> None:
    for p, new in zip(module.parameters(), others(module).values(), strict=True):
        p.data = new


def by_numpy(module: Module) -> None:
    for p in module.parameters():
        array = p.detach().numpy()
        array *= -1.5


def loaded(module: Module) -> None:
    module.load_state_dict(others(module))


def loaded_by_assignment(module: Module) -> None:
    module.load_state_dict(others(module), assign=True)


def stepped(make: Callable[..., torch.optim.Optimizer], **options: Any) -> Callable[[Module], None]:
    def step(module: Module) -> None:
        for p in module.parameters():
            p.grad = torch.randn_like(p)
        make(module.parameters(), lr=0.3, **options).step()
        module.zero_grad()

    return step


def averaged(module: Module) -> None:
    """As an EMA of G is kept."""
    with torch.no_grad():
        for p, new in zip(module.parameters(), others(module).values(), strict=True):
            p.lerp_(new, 0.5)


def averaged_at_once(module: Module) -> None:
    with torch.no_grad():
        torch._foreach_lerp_(list(module.parameters()), list(others(module).values()), 0.5)


def from_vector(module: Module) -> None:
    """Parameters become views of one vector."""
    torch.nn.utils.vector_to_parameters(torch.cat([p.flatten() for p in others(module).values()]), module.parameters())


def replaced(module: Module) -> None:
    """New objects, at addresses and ids that the old ones may have had."""
    for part in module.modules():
        for key, p in list(part.named_parameters(recurse=False)):
            setattr(part, key, torch.nn.Parameter(torch.randn_like(p)))


WRITES: dict[str, Callable[[Module], None]] = {
    "data_copy": data_copy,
    "data_assigned": data_assigned,
    "numpy": by_numpy,
    "load_state_dict": loaded,
    "load_state_dict assign": loaded_by_assignment,
    "SGD": stepped(torch.optim.SGD, momentum=0.9),
    "Adam": stepped(torch.optim.Adam, betas=(0.0, 0.99)),
    "fused Adam": stepped(torch.optim.Adam, fused=True),
    "lerp_": averaged,
    "_foreach_lerp_": averaged_at_once,
    "vector_to_parameters": from_vector,
    "replaced": replaced,
}


def results(module: Module, x: Tensor, mode: Mode) -> list[Tensor]:
    """Outputs; with gradients those of x and of the parameters too."""
    with mode():
        x = x.clone().requires_grad_(torch.is_grad_enabled())
        y = module(x)
        y = y[0] if isinstance(y, tuple) else y
        if not y.requires_grad:
            return [y]
        leaves = [x, *module.parameters()]
        gradients = torch.autograd.grad(y.square().sum(), leaves, allow_unused=True)
        return [y.detach(), *(g for g in gradients if g is not None)]


def assert_fresh(module: Module, name: str) -> list[Tensor]:
    """In every mode, one after the other; gives the outputs."""
    twin = fresh(name)
    twin.load_state_dict(module.state_dict())
    for p, mine in zip(twin.parameters(), module.parameters(), strict=True):
        assert torch.equal(p, mine)
    outputs = []
    for mode in MODES:
        got, expected = results(module, SUBJECTS[name][1], mode), results(twin, SUBJECTS[name][1], mode)
        assert len(got) == len(expected)
        assert all(map(torch.equal, got, expected)), f"stale under {mode.__name__}"
        outputs.append(got[0])
    return outputs


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_write_is_seen(name: str) -> None:
    """One after the other on one module, so that what the last write left behind is there too."""
    module = fresh(name)
    before = assert_fresh(module, name)
    for write in WRITES.values():
        write(module)
        after = assert_fresh(module, name)
        assert not any(map(torch.equal, before, after))
        before = after


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_copy_and_its_original_part(name: str) -> None:
    module = fresh(name)
    before = assert_fresh(module, name)
    copied = copy.deepcopy(module)
    data_copy(copied)
    assert not any(map(torch.equal, before, assert_fresh(copied, name)))
    assert all(map(torch.equal, before, assert_fresh(module, name)))


@NATIVE
@pytest.mark.parametrize("name", ["wide none", "wide pool", "wide up", "wide down", "G", "D"])
def test_wide_modules_transform_their_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests above are about is really run."""
    launched: set[str] = set()

    def launch(function: Callable[..., Any], *args: Any) -> Any:
        launched.add(function.__name__)
        return real(function, *args)

    real = tiled.launch
    monkeypatch.setattr(tiled, "launch", launch)
    results(fresh(name), SUBJECTS[name][1], torch.no_grad)
    assert launched == {"tiled_conv"}


@NATIVE
@pytest.mark.parametrize(
    ("key", "unseen"),
    [(lambda w: (w.data_ptr(), w._version), ["data_copy", "numpy"]), (id, ["data_copy", "load_state_dict", "lerp_"])],
    ids=["version", "id"],
)
@pytest.mark.parametrize("name", ["wide none", "wide up", "G", "D"])
def test_a_cache_of_weights_is_caught(
    name: str, key: Callable[[Tensor], object], unseen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight as it was at first is used for the next call, by a key that does not change with these writes."""
    kept: dict[object, tuple[Tensor, Tensor]] = {}

    def launch(function: Callable[..., Any], x: Tensor, weight: Tensor, *args: Any) -> Any:
        if function.__name__ == "tiled_conv":
            weight = kept.setdefault(key(weight), (weight, weight.clone()))[1]
        return real(function, x, weight, *args)

    real = tiled.launch
    monkeypatch.setattr(tiled, "launch", launch)
    for write in unseen:
        kept.clear()
        module = fresh(name)
        assert_fresh(module, name)
        assert kept
        WRITES[write](module)
        with pytest.raises(AssertionError, match="stale"):
            assert_fresh(module, name)
