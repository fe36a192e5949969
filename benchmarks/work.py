"""What a case has to do at least, layer by layer: products, bytes and kernels, counted from the networks' structure.

Nothing runs here. A layer is what one fused kernel computes: a convolution or matrix with its resampling, bias, leaky
ReLU and pixel norm, or an op without products. Products are counted by form (TAPS), bytes are what a kernel for the
layer reads and writes once. Products of epilogues and transforms, and a norm's factor per pixel, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from pggan_fast.models.levels import Levels

LATENT, IMAGE = 512, 3

# Products per pixel of the larger image and pair of channels of a 3x3 convolution, without resampling and with it.
TAPS: dict[str, dict[str, float]] = {
    "plain": {"none": 9.0, "up": 9.0, "down": 9.0},  # at the higher resolution, as plain PyTorch writes it
    "phases": {"none": 9.0, "up": 4.0, "down": 4.0},  # exactly summed taps: 2x2 for each phase, or 4x4 with stride 2
    "tiles": {"none": 4.0, "up": 9.0 / 4.0, "down": 9.0 / 4.0},  # csrc/cpu/forms.h: F(2x2, 3x3), differences
    "large_tiles": {"none": 36.0 / 16.0, "up": 9.0 / 4.0, "down": 9.0 / 4.0},  # the same with F(4x4, 3x3)
}
FORMS = tuple(TAPS)


@dataclass(frozen=True)
class Part:
    """One layer in one direction."""

    name: str
    flops: float
    bytes: float
    launches: int


@dataclass(frozen=True)
class Work:
    parts: tuple[Part, ...]

    @property
    def flops(self) -> float:
        return sum(part.flops for part in self.parts)

    @property
    def bytes(self) -> float:
        return sum(part.bytes for part in self.parts)

    @property
    def launches(self) -> int:
        return sum(part.launches for part in self.parts)


@dataclass(frozen=True)
class Layer:
    """Sizes are of one image: elements of x and y, and products of one tap (pairs of channels by larger pixels)."""

    name: str
    x: int
    y: int
    weights: int = 0
    biases: int = 0
    products: int = 0
    resample: str | None = None  # of a 3x3 convolution; None has one tap
    reads_y: bool = False  # its derivative takes y or x, not dy alone
    curved: bool = False  # its derivative changes with x, so that the second one is not zero
    first: int | None = None  # elements of its first input, where x holds several

    def flops(self, form: str) -> float:
        return 2.0 * self.products * (1.0 if self.resample is None else TAPS[form][self.resample])


def conv(name: str, r: int, cin: int, c: int, resample: str = "none", norm: bool = False) -> Layer:
    """A 3x3 convolution at `r`, its larger size, with leaky ReLU."""
    large, small = r * r, r * r // 4
    x, y = small if resample == "up" else large, small if resample == "down" else large
    return Layer(name, cin * x, c * y, 9 * cin * c, c, cin * c * large, resample, True, norm)


def dense(name: str, cin: int, c: int, biases: int, reads_y: bool = True, norm: bool = False) -> Layer:
    return Layer(name, cin, c, cin * c, biases, cin * c, None, reads_y, norm)


def rgb(name: str, r: int, cin: int, c: int) -> Layer:
    """A 1x1 convolution, from the image with leaky ReLU."""
    return Layer(name, cin * r * r, c * r * r, cin * c, c, cin * c * r * r, None, reads_y=c != IMAGE)


def op(name: str, x: int, y: int, biases: int = 0, reads_y: bool = True, curved: bool = False) -> Layer:
    return Layer(name, x, y, 0, biases, 0, None, reads_y, curved)


def generator(r: int) -> list[Layer]:
    """G up to the image of `r`, as `pggan_fast.models.Generator` runs it without a fade."""
    levels = _levels(r)
    c = levels.channels(4)
    chain = [op("latent_norm", LATENT, LATENT, curved=True), dense("4x4.dense", LATENT, 16 * c, c, norm=True)]
    for level in levels.resolutions:
        low, c = c, levels.channels(level)
        if level > 4:
            chain.append(conv(f"{level}x{level}.conv_up", level, low, c, "up", norm=True))
        chain.append(conv(f"{level}x{level}.conv", level, c, c, norm=True))
    return [*chain, rgb(f"{r}x{r}.to_rgb", r, c, IMAGE)]


def discriminator(r: int) -> list[Layer]:
    """D from an image of `r` to the score."""
    levels = _levels(r)
    chain = [rgb(f"{r}x{r}.from_rgb", r, IMAGE, levels.channels(r))]
    for level in reversed(levels.resolutions[1:]):
        c, low = levels.channels(level), levels.channels(level // 2)
        chain.append(conv(f"{level}x{level}.conv", level, c, c))
        chain.append(conv(f"{level}x{level}.conv_down", level, c, low, "down"))
    c, units = levels.channels(4), levels.stage_channels(0)
    return [
        *chain,
        op("4x4.stddev", 16 * c, 16 * (c + 1), curved=True),
        conv("4x4.conv", 4, c + 1, c),
        dense("4x4.dense", 16 * c, units, units),
        dense("4x4.head", units, 1, 1, reads_y=False),
    ]


def _levels(r: int) -> Levels:
    return Levels(max(r, 4), (4, 4), 8192, 1.0, 512)


def chain_of(subject: str, r: int) -> list[Layer]:
    """The layers of a subject in order. Raises ValueError for one that is not known, or that is not at `r`."""
    if subject in ("G", "D"):
        return generator(r) if subject == "G" else discriminator(r)
    levels = _levels(r)
    c, pixels = levels.channels(r), r * r
    chain = {
        "pixel_norm": [op(subject, c * pixels, c * pixels, curved=True)],
        "bias_act": [op(subject, c * pixels, c * pixels, biases=c)],
        "minibatch_stddev": [op(subject, c * pixels, (c + 1) * pixels, curved=True)],
        "conv": [conv("conv", r, c, c, norm=True)],
        "to_rgb": [rgb(subject, r, c, IMAGE)],
        "from_rgb": [rgb(subject, r, IMAGE, c)],
    }
    if r == 4:
        chain["dense"] = [dense(subject, LATENT, 16 * c, c, norm=True)]
    else:
        below = levels.channels(r // 2)
        up, down = conv("up", r, below, c, "up", norm=True), conv("down", r, c, below, "down")
        chain |= {"up": [up], "down": [down], "G.block": [up, *chain["conv"]]}
        chain["D.block"] = [conv("conv", r, c, c), down]
        low, high = IMAGE * pixels // 4, IMAGE * pixels
        chain["fade_in"] = [Layer(subject, low + high, high, first=low)]
    if subject not in chain:
        raise ValueError(f"case: expected a subject of {', '.join(('G', 'D', *chain))} at {r}x{r}, got {subject!r}")
    return chain[subject]


@dataclass(frozen=True)
class _Counter:
    """Makes parts: of `batch` images, features of `size` bytes an element and parameters of `parameter`."""

    form: str
    batch: int
    size: int
    parameter: int

    def part(
        self, layer: Layer, direction: str, products: int, xs: int, ys: int, parameters: int, launches: int
    ) -> Part:
        """`products` times the layer's own; xs and ys: how often images like x and y travel."""
        moved = self.batch * self.size * (xs * layer.x + ys * layer.y) + self.parameter * parameters
        return Part(f"{layer.name} {direction}", products * self.batch * layer.flops(self.form), moved, launches)

    def forward(self, chain: Sequence[Layer]) -> Iterator[Part]:
        for layer in chain:
            yield self.part(layer, "forward", 1, 1, 1, layer.weights + layer.biases, 1)

    def backward(
        self, chain: Sequence[Layer], wants_x: bool, weights: bool = True, direction: str = "backward"
    ) -> Iterator[Part]:
        """Reads x where weights are wanted, y where the derivative takes it, dy and the weight; writes dx, dw, db.

        wants_x: whether the gradient of the chain's own input is wanted; else layers without parameters below have no
        dx.
        """
        for i in reversed(range(len(chain))):
            layer = chain[i]
            dx = wants_x or (weights and any(below.biases for below in chain[:i]))
            dw = weights and layer.biases > 0
            products = dx + (dw and layer.weights > 0)
            if dx or dw:
                xs = dx + (dw and layer.weights > 0)
                parameters = layer.weights * dx + (layer.weights + layer.biases) * dw
                yield self.part(layer, direction, products, xs, 1 + layer.reads_y, parameters, max(1, products))

    def double(self, chain: Sequence[Layer], wants_x: bool, wants_dy: bool) -> Iterator[Part]:
        """The forward, the gradient of the (first) input, and the gradients of a function of that one.

        In a gradient penalty the topmost dy is constant and nobody wants the gradient of x; the cases want both. With A
        a layer's linear part and v what flows back into its dx = A^T du:
        - first: du from dy and y, dx = A^T du. Products once, also of the lowest layer.
        - second, from the input up: dw of (v, du), once, and A v, once, which is the v of the layer above; of the
          topmost, D's linear head in a penalty, only where dy wants a gradient. It reads v, dy and y.
        - where a layer is curved (a norm, the minibatch deviation) its derivative hangs on x, so a gradient enters the
          forward's own chain there and runs down: dx and dw as in a backward, of that layer and those below. Without
          one (leaky ReLU) there is none of it. In D all below the deviation has it, all above has not.
        """
        yield from self.forward(chain)
        layers = [layer if layer.first is None else replace(layer, x=layer.first) for layer in chain]
        yield from self.backward(layers, wants_x=True, weights=False, direction="first gradient")
        for i, layer in enumerate(layers):
            up = wants_dy or i < len(layers) - 1
            if up or layer.curved or layer.weights:
                yield self._second(layer, up)
        last = max((i for i, layer in enumerate(layers) if layer.curved), default=-1)
        below = layers[: last + 1]
        if below and below[-1].weights:  # its gradient of u was made on the way up
            below[-1] = replace(below[-1], reads_y=False)
        elif below:  # that of x was
            below.pop()
        yield from self.backward(below, wants_x, direction="of the curvature")

    def _second(self, layer: Layer, up: bool) -> Part:
        """Reads v, y, dy but for a linear op, and with A v (`up`) the weight; writes dw, A v, and of a curved layer the
        gradient of u, or of an op's x."""
        linear = not (layer.weights or layer.curved)
        products = (layer.weights > 0) + up
        xs = 1 + (layer.curved and not layer.weights)
        ys = (not linear) + layer.reads_y + up + (layer.curved and layer.weights > 0)
        return self.part(layer, "second", products, xs, ys, layer.weights * (1 + up), max(1, products))

    def adam(self, name: str, chain: Sequence[Layer]) -> Part:
        """The norm reads each gradient; Adam reads gradient, parameter and two moments and writes the last three."""
        return Part(f"{name} Adam", 0.0, 8.0 * 4 * sum(layer.weights + layer.biases for layer in chain), 2)


def work(name: str, resolution: int, batch: int, dtype: torch.dtype = torch.float32, form: str = "plain") -> Work:
    """The least work of a case, `form` being one of FORMS: see TAPS.

    `<subject>.forward`: each layer reads x and its parameters and writes y. `.backward`: forward and all gradients,
    the input's among them. `.double`: see `_Counter.double`, with the gradients of x and dy. `D.step`: G's forward,
    D's on reals and fakes with backward, the gradient penalty and Adam; `G.step`: both forwards, D's backward to the
    image without its parameters' gradients, G's, Adam; `step`: both. `G.sample`: forward, and pixels as bytes.
    Parameters have the dtype of the features, in steps float32 (autocast). Raises ValueError for other names.
    """
    if form not in TAPS:
        raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
    if resolution < 4 or resolution & (resolution - 1) or batch < 1:
        raise ValueError(f"resolution, batch: expected a power of two >= 4 and at least 1, got {resolution}, {batch}")
    size = dtype.itemsize
    counter = _Counter(form, batch, size, size)
    steps = {"D.step": ("D",), "G.step": ("G",), "step": ("D", "G")}
    if name in steps:
        counter = replace(counter, parameter=4)
        return Work(tuple(part for kind in steps[name] for part in _step(kind, resolution, counter)))
    if name == "G.sample":
        pixels = Part("bytes", 0.0, (size + 1.0) * batch * IMAGE * resolution**2, 1)
        return Work((*counter.forward(generator(resolution)), pixels))
    subject, _, mode = name.rpartition(".")
    chain = chain_of(subject, resolution)
    if mode == "forward":
        return Work(tuple(counter.forward(chain)))
    if mode == "backward":
        return Work((*counter.forward(chain), *counter.backward(chain, wants_x=True)))
    if mode == "double":
        return Work(tuple(counter.double(chain, wants_x=True, wants_dy=True)))
    raise ValueError(f"case: expected .forward, .backward or .double of {subject}, got {name!r}")


def is_counted(name: str, resolution: int) -> bool:
    """Whether `work` knows this case: not other people's networks, nor a layer at a size that has none."""
    try:
        work(name, resolution, 1)
    except ValueError:
        return False
    return True


def _step(kind: str, r: int, counter: _Counter) -> Iterator[Part]:
    """What pggan_fast.training.step runs, WGAN-GP; losses of scores are left out."""
    G, D = generator(r), discriminator(r)
    yield from _named("fakes", counter.forward(G))
    if kind == "G":
        yield from _named("scores", counter.forward(D))
        yield from _named("scores", counter.backward(D, wants_x=True, weights=False))
        yield from _named("fakes", counter.backward(G, wants_x=False))
        yield counter.adam("G", G)
        return
    both = replace(counter, batch=2 * counter.batch)  # as one batch: training.losses.scores
    yield from _named("reals and fakes", both.forward(D))
    yield from _named("reals and fakes", both.backward(D, wants_x=False))
    image = counter.batch * IMAGE * r * r
    yield Part("penalty mix", 0.0, 3.0 * 4 * image, 1)  # of reals and fakes, float32
    yield from _named("penalty", counter.double(D, wants_x=False, wants_dy=False))
    yield Part("penalty norm", 0.0, 3.0 * 4 * image, 2)  # of the gradient, and its own gradient
    yield counter.adam("D", D)


def _named(name: str, parts: Iterator[Part]) -> Iterator[Part]:
    return (replace(part, name=f"{name}: {part.name}") for part in parts)
