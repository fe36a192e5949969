"""The counts of work: products against torch's own counter on the networks, bytes against sums by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pggan_fast.benchmarks.subjects import SUBJECTS, Widths
from pggan_fast.benchmarks.work import FORMS, TAPS, Part, Work, chain_of, is_counted, work
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from pggan_fast import nn
from pggan_fast.models import Discriminator, Generator
from pggan_fast.training.step import d_step, g_step

N = 4


def torchs(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


class Counter(TorchDispatchMode):
    """FlopCounterMode's formulas without its modules, which gradients of gradients break."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if formula := flop_registry.get(function._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def counted(run: Callable[[], Any]) -> int:
    with Counter() as counter:
        run()
    return counter.flops


Network = tuple[Callable[[Tensor], Tensor], Tensor]


def networks(r: int) -> tuple[Network, Network]:
    """G and D's score with their inputs, of plain PyTorch, without memory."""
    with torch.device("meta"):
        G, D = Generator(r, backend="reference"), Discriminator(r, backend="reference")
        return (G, torch.empty(N, 512)), (lambda image: D(image)[0], torch.empty(N, 3, r, r))


def plain(name: str, r: int) -> float:
    return work(name, r, N).flops


@pytest.mark.parametrize("name", ["G", "D"])
@pytest.mark.parametrize("r", [4, 8, 64, 1024])
def test_networks_forward_and_backward(r: int, name: str) -> None:
    network, x = networks(r)["GD".index(name)]
    assert plain(f"{name}.forward", r) == torchs(lambda: network(x))
    # nobody wants x's: one product less of the lowest layer
    lowest = chain_of(name, r)[1 if name == "G" else 0]
    assert plain(f"{name}.backward", r) - 2 * N * lowest.products == torchs(lambda: network(x).sum().backward())
    x.requires_grad_()
    assert plain(f"{name}.backward", r) == torchs(lambda: network(x).sum().backward())


@pytest.mark.parametrize("r", [4, 8, 64])
def test_a_backward_is_twice_the_forward(r: int) -> None:
    for name in ("G", "D"):
        assert plain(f"{name}.backward", r) == 3 * plain(f"{name}.forward", r)


def of_zeros(name: str, r: int) -> float:
    """What torch multiplies with zeros in a double: its leaky ReLU sends zeros down the forward's chain, where
    nothing is curved above. Twice each such layer's products."""
    layers = chain_of(name, r)
    curved = max((i for i, layer in enumerate(layers) if layer.curved), default=-1)
    return 2 * N * sum(layer.flops("plain") for layer in layers[curved + 1 :] if layer.reads_y)


# At a size at which each is, and where the numbers of channels differ.
@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("mode", ["forward", "backward", "double"])
def test_every_case(name: str, mode: str) -> None:
    """As the suite's workloads run them, on plain PyTorch."""
    subject, widths = SUBJECTS[name], Widths()
    r = min(128, subject.resolutions[1])
    with torch.device("meta"):
        module = subject.make(r, widths, "reference", None)
        inputs = [torch.empty(shape, requires_grad=mode != "forward") for shape in subject.shapes(r, N, widths)]
    dy = torch.empty_like(module(*inputs), requires_grad=mode == "double")

    def run() -> None:
        y = module(*inputs)
        if mode == "backward":
            y.backward(dy)
        if mode == "double":
            (g,) = torch.autograd.grad(y, inputs[0], dy, create_graph=True)
            g.backward(torch.empty_like(g))

    assert counted(run) == plain(f"{name}.{mode}", r) + (of_zeros(name, r) if mode == "double" else 0)
    chain = chain_of(name, r)
    assert sum(x.numel() for x in inputs) == N * chain[0].x
    assert dy.numel() == N * chain[-1].y


@pytest.mark.parametrize("r", [4, 8])
def test_steps(r: int) -> None:
    """What the training's steps multiply, less what torch does with the gradient of x_hat, which nobody reads."""
    torch.manual_seed(0)
    G, D = Generator(r, backend="reference"), Discriminator(r, backend="reference")
    z, reals = torch.randn(N, 512), torch.randn(N, 3, r, r)
    optimizers = [torch.optim.Adam(net.parameters(), betas=(0.0, 0.99)) for net in (D, G)]
    of_x_hat = 2 * N * chain_of("D", r)[0].products
    assert counted(lambda: d_step(G, D, optimizers[0], reals, z)) == (plain("D.step", r) + of_zeros("D", r) + of_x_hat)
    assert counted(lambda: g_step(G, D, optimizers[1], z, resolution=r)) == plain("G.step", r)
    assert plain("step", r) == plain("D.step", r) + plain("G.step", r)


LAYERS = {
    "up": lambda c, low: nn.ScaledConv2d(low, c, resample="up", backend="reference"),
    "conv": lambda c, low: nn.ScaledConv2d(c, c, backend="reference"),
    "down": lambda c, low: nn.ScaledConv2d(c, low, resample="down", backend="reference"),
    "to_rgb": lambda c, low: nn.ToRGB(c, backend="reference"),
    "from_rgb": lambda c, low: nn.FromRGB(3, c, backend="reference"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    """At 128x128, where the numbers of channels differ."""
    with torch.device("meta"):
        layer = LAYERS[name](128, 256)
        size = 64 if name == "up" else 128
        x = torch.empty(N, layer.weight.shape[1], size, size, requires_grad=True)
        y = layer(x)
    assert plain(f"{name}.forward", 128) == torchs(lambda: layer(x))
    assert plain(f"{name}.backward", 128) == torchs(lambda: layer(x).sum().backward())
    forward, backward = work(f"{name}.forward", 128, N), work(f"{name}.backward", 128, N)
    parameters = sum(p.numel() for p in layer.parameters())
    assert forward.bytes == 4 * (x.numel() + y.numel() + parameters)
    epilogue = 0 if name == "to_rgb" else y.numel()
    read = x.numel() + y.numel() + epilogue + layer.weight.numel()
    assert backward.bytes == forward.bytes + 4 * (read + x.numel() + parameters)
    assert (forward.launches, backward.launches) == (1, 3)


def test_phases() -> None:
    """4x4 taps with stride 2, as torch counts them."""
    with torch.device("meta"):
        x, low = torch.empty(N, 128, 128, 128), torch.empty(N, 256, 64, 64)
        down, up = torch.empty(256, 128, 4, 4), torch.empty(256, 128, 4, 4)
    flops = torchs(lambda: F.conv2d(x, down, stride=2, padding=1))
    assert work("down.forward", 128, N, form="phases").flops == flops
    flops = torchs(lambda: F.conv_transpose2d(low, up, stride=2, padding=1))
    assert work("up.forward", 128, N, form="phases").flops == flops
    assert work("conv.forward", 128, N, form="phases").flops == work("conv.forward", 128, N).flops


def test_fewer_products_by_form() -> None:
    for name in ("up.forward", "conv.forward", "down.forward", "G.forward", "D.double", "step"):
        flops = [work(name, 64, N, form=form).flops for form in FORMS]
        assert flops == sorted(flops, reverse=True)
        assert flops[0] > flops[-1]
    assert len({work("dense.forward", 4, N, form=form).flops for form in FORMS}) == 1


def test_parts_are_the_layers_in_order() -> None:
    names = [part.name for part in work("G.forward", 8, 1).parts]
    layers = ["latent_norm", "4x4.dense", "4x4.conv", "8x8.conv_up", "8x8.conv", "8x8.to_rgb"]
    assert names == [f"{layer} forward" for layer in layers]
    names = [part.name.split()[0] for part in work("D.backward", 8, 1).parts]
    layers = ["8x8.from_rgb", "8x8.conv", "8x8.conv_down", "4x4.stddev", "4x4.conv", "4x4.dense", "4x4.head"]
    assert names == [*layers, *reversed(layers)]


@pytest.mark.parametrize("r", [4, 32, 1024])
def test_layers_hold_the_networks_parameters(r: int) -> None:
    """Those in use at the full resolution; and each layer's y is the next one's x."""
    with torch.device("meta"):
        for name, network in (("G", Generator(r)), ("D", Discriminator(r))):
            rgb = "to_rgb" if name == "G" else "from_rgb"
            used = {k: p for k, p in network.named_parameters() if rgb not in k or f".{r}x{r}." in k}
            chain = chain_of(name, r)
            assert sum(layer.weights + layer.biases for layer in chain) == sum(p.numel() for p in used.values())
            assert [a.y for a in chain[:-1]] == [b.x for b in chain[1:]]


def test_which_layers_are_curved() -> None:
    """All with a norm, and the minibatch deviation; and which derivatives take dy alone."""
    curved = {name: [layer.name for layer in chain_of(name, 8) if layer.curved] for name in ("D", "G.block", "D.block")}
    assert curved == {"D": ["4x4.stddev"], "G.block": ["up", "conv"], "D.block": []}
    assert [layer.curved for layer in chain_of("G", 8)] == [True] * 5 + [False]
    alone = {name: [layer.name for layer in chain_of(name, 8) if not layer.reads_y] for name in ("G", "D", "D.block")}
    assert alone == {"G": ["8x8.to_rgb"], "D": ["4x4.head"], "D.block": []}


def test_bytes_of_a_double_by_hand() -> None:
    """A convolution without a norm, `down` at 8x8: forward x, y, w, b; first dy, y, w, dx; second v, dy, y, w, dw,
    ddy."""
    x, y, w, b = 2 * 512 * 64, 2 * 512 * 16, 9 * 512 * 512, 512
    found = work("down.double", 8, 2)
    assert [part.bytes for part in found.parts] == [
        4 * (x + y + w + b),
        4 * (2 * y + w + x),
        4 * (x + 3 * y + 2 * w),
    ]
    assert [part.flops for part in found.parts] == [2 * 64 * 2 * 9 * 512 * 512 * products for products in (1, 1, 2)]
    # With a norm, `conv` at 8x8, the gradient of u is written too, then read with x and w for dx, dw and db.
    x = 2 * 512 * 64
    parts = work("conv.double", 8, 2).parts
    assert [part.bytes for part in parts[2:]] == [4 * (x + 4 * x + 2 * w), 4 * (2 * x + x + 2 * w + b)]


def test_bytes_of_ops_by_hand() -> None:
    x = 2 * 256 * 64 * 64
    low, high = 2 * 3 * 32 * 32, 2 * 3 * 64 * 64
    expected = {
        "pixel_norm.forward": [2 * x],
        "pixel_norm.backward": [2 * x, 3 * x],  # dy, y, dx
        "pixel_norm.double": [2 * x, 3 * x, 5 * x],  # v, dy, y, dx, ddy
        "bias_act.forward": [2 * x + 256],
        "bias_act.backward": [2 * x + 256, 3 * x + 256],  # with db
        "bias_act.double": [2 * x + 256, 3 * x, 3 * x],  # v, y, ddy: linear in dy
        "fade_in.forward": [low + 2 * high],
        "fade_in.backward": [low + 2 * high, high + low + high],
        "fade_in.double": [low + 2 * high, high + low, low + high],
        "minibatch_stddev.forward": [2 * x + x // 256],
    }
    for name, elements in expected.items():
        found = work(name, 64, 2)
        assert [part.bytes / 4 for part in found.parts] == elements, name
        assert found.flops == 0


def test_bytes_by_dtype() -> None:
    """Half features halve all; in a step parameters stay float32."""
    for name in ("G.forward", "D.double", "fade_in.backward"):
        assert 2 * work(name, 8, 2, torch.float16).bytes == work(name, 8, 2).bytes
    whole, half = work("G.step", 8, 2), work("G.step", 8, 2, torch.bfloat16)
    dense = half.parts[1]
    assert dense.name == "fakes: 4x4.dense forward"
    assert dense.bytes == 2 * 2 * (512 + 16 * 512) + 4 * (512 * 16 * 512 + 512)
    assert half.parts[-1] == whole.parts[-1]  # Adam
    pixels = work("G.sample", 8, 2, torch.float16).parts[-1]
    assert pixels.bytes == 2 * 3 * 64 * (2 + 1)


def test_the_top_of_a_penalty() -> None:
    """The head's dy is constant, so nobody wants its A v: it reads v and dy and writes dw."""
    (second,) = (p for p in work("D.step", 8, 2).parts if p.name == "penalty: 4x4.head second")
    assert (second.flops, second.bytes, second.launches) == (2 * 2 * 512, 4 * (2 * 512 + 2 + 512), 1)


def test_adam() -> None:
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Generator(4).parameters())
    assert work("G.step", 4, 1).parts[-1] == Part("G Adam", 0.0, 32.0 * parameters, 2)


def test_sums() -> None:
    found = Work((Part("a", 1.0, 2.0, 3), Part("b", 10.0, 20.0, 30)))
    assert (found.flops, found.bytes, found.launches) == (11.0, 22.0, 33)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (("up.forward", 4, 1), "case: expected a subject of .* at 4x4, got 'up'"),
        (("wsconv.step", 8, 1), "case: expected a subject"),
        (("G.sideways", 8, 1), "case: expected .forward, .backward or .double of G, got 'G.sideways'"),
        (("G.forward", 12, 1), "expected a power of two >= 4"),
        (("G.forward", 8, 1, torch.float32, "magic"), "form: expected one of plain, phases, tiles, large_tiles"),
    ],
)
def test_refuses(case: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        work(*case)


def test_is_counted() -> None:
    assert all(is_counted(name, 8) for name in ("G.forward", "step", "G.sample", "fade_in.double", "D.block.backward"))
    assert not any(is_counted(name, 8) for name in ("wsconv.step", "wsconv.G.forward", "dense.forward", "G"))


def test_tiles_are_a_mean_of_larger_pixels() -> None:
    """csrc/cpu/forms.h: POINTS squared products for OUT squared pixels, of x for a mean."""
    assert TAPS["tiles"] == {"none": 4**2 / 2**2, "up": 3**2 / 2**2, "down": 3**2 / 2**2}
    assert TAPS["large_tiles"]["none"] == 6**2 / 4**2
