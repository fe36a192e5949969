"""Sampling from a trained generator: `Sampler(G)`, latents by seed, and images as bytes."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pggan_fast.backends import forced, registry, signature
from pggan_fast.backends.frozen import Prepared
from pggan_fast.backends.graphs import Cuda, Graphs
from pggan_fast.models import Generator
from pggan_fast.models.levels import fades
from pggan_fast.ops import _checks

__all__ = ["Sampler", "latents", "to_uint8"]

# The largest resolution at which "auto" captures CUDA graphs: up to here launching takes longer than the work, on one
# H200 4.7 ms for 1.2 of 16 images of 128x128. Above, a graph would hold much memory to save little.
GRAPHS_UP_TO = 512


class Sampler:
    """Images from a frozen copy of a generator's weights, which is made now and by `refresh()`: training may go on.

    `sampler(z)` is what `with torch.no_grad(), pggan_fast.frozen(G): G(z)` is, for a G in eval mode, `dtype` and on
    `device` (on the CPU bit by bit), in the memory format that G runs in. `sampler.uint8(z)` gives bytes,
    `sampler.stream(n, batch)` many of them by seed.

    Args:
        G: a `pggan_fast.models.Generator`. It is referenced, for `refresh()`, and never written.
        dtype: float32, float16, bfloat16 or float64, of weights, z and images, whatever autocast says; None: that of G.
        device: None: that of G. z and labels may be anywhere.
        resolution: of the images, None: G's full one. alpha: weight of the newest level, see `Generator.forward`.
        graphs: CUDA graphs, of one batch size each. "auto": up to resolution 512, from the second call with a batch
            size on, by the 4 latest ones; True: always, from the first call; False: never. Each graph's first replay,
            and its first one after `refresh()`, is compared with the uncaptured run. Where they differ, or nothing can
            be captured, "auto" warns once and launches one by one, or raises BackendUnavailable under
            PGGAN_FAST_STRICT=1; True raises RuntimeError. Without effect on other devices.
    Memory: the weights once more in `dtype`; on the CPU besides what `frozen` keeps, for as long as the sampler lives;
        for each graph what one forward pass takes.
    Threads may share a sampler. It can be pickled and copied, with its weights and with G.
    Raises:
        TypeError, ValueError: an argument is off; the message names it, what came and what was expected.
    """

    def __init__(
        self,
        G: Generator,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        resolution: int | None = None,
        alpha: float | Tensor = 1.0,
        graphs: bool | Literal["auto"] = "auto",
    ) -> None:
        if not isinstance(G, Generator):
            raise TypeError(f"G: expected a pggan_fast.models.Generator, got {type(G).__name__}")
        weight = next(G.parameters())
        if weight.is_meta:
            raise ValueError("G: expected weights, got those of the meta device, which have no values")
        self.device = _device(weight.device if device is None else device)
        self.dtype = _dtype(weight.dtype if dtype is None else dtype)
        if graphs not in ("auto", True, False):
            raise ValueError(f"graphs: expected 'auto', True or False, got {graphs!r}")
        if graphs is True and self.device.type != "cuda":
            raise ValueError(f"graphs: True needs a CUDA device, got {self.device}")
        self._source, self._graphs_wanted = G, graphs
        with torch.inference_mode(False), torch.no_grad():  # inference tensors could not be written again
            self._own = _frozen_copy(G, self.device, self.dtype)
            self._alpha = torch.ones((), dtype=torch.float32, device=self.device)
        self.resolution, self._fades = self._level(G.levels.resolution if resolution is None else resolution, alpha)
        _synchronize(self.device)  # before another thread's stream reads the copy
        self._set_up()

    def _set_up(self) -> None:
        """What belongs to this object in this process alone."""
        self._gate, self._prepared = _Gate(), Prepared(self._own)
        self._graphs: Graphs | None = None
        if self._graphs_wanted and registry.kind_of(self.device.type) == "cuda":
            self._graphs = Graphs(Cuda(self.device), demanded=self._graphs_wanted is True)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_gate", "_prepared", "_graphs")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._set_up()

    def __repr__(self) -> str:
        alpha = f", alpha={float(self._alpha):.3g}" if self._fades else ""
        return f"Sampler(resolution={self.resolution}{alpha}, dtype={self.dtype}, device={str(self.device)!r})"

    def __call__(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images [N, channels, H, W] in about [-1, 1], in the sampler's dtype and on its device, without gradients.

        z: [N, latent_dim] of any floating dtype; labels: [N, label_dim], needed exactly when label_dim > 0.
        """
        return self._run(z, labels)

    def uint8(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """The same as bytes [N, H, W, channels] on the sampler's device, see `to_uint8`."""
        return self._run(z, labels, to_uint8)

    def stream(self, n: int, batch: int, *, seed: int = 0, labels: Tensor | None = None) -> Iterator[Tensor]:
        """n images in batches of bytes [batch, H, W, channels] on the CPU, each its own tensor; the last is shorter.

        Image i is of `latents(1, latent_dim, seed=seed, start=i)`, whatever `batch` is; the kernels that a batch size
        takes may round otherwise. On CUDA a batch is copied to the host, through pinned memory, while the next is
        computed, so that two are held. `refresh()` shows from the next batch on.

        labels: [n, label_dim], needed exactly when label_dim > 0.
        """
        _checks.counts(1, n=n, batch=batch)
        draw = _Latents(seed, self._own.latent_dim)
        self._own.check_inputs(torch.empty(n, draw.latent_dim, device="meta"), labels)
        batches = self._batches(n, batch, draw, labels)
        if self.device.type == "cuda":
            return one_behind(batches, PinnedCopies(self.device))
        return map(Tensor.cpu, batches)

    def _batches(self, n: int, batch: int, draw: _Latents, labels: Tensor | None) -> Iterator[Tensor]:
        for start in range(0, n, batch):
            stop = min(start + batch, n)
            z = draw(stop - start)
            if self.device.type == "cuda":  # from pageable memory the copy would wait for the last batch
                z = z.pin_memory().to(self.device, non_blocking=True)
            yield self.uint8(z, None if labels is None else labels[start:stop])

    def refresh(self, *, resolution: int | None = None, alpha: float | Tensor | None = None) -> None:
        """Copy G's weights again, in place; also move to another resolution or alpha, where given.

        Calls of other threads are waited for, and wait; nobody may write G meanwhile. Graphs stay: they prepare weights
        in each replay. On the CPU weights are prepared anew in the next call. Raises ValueError where G's parameters
        have other names or shapes than they had, with nothing copied. Whatever else was changed in G (hooks, layers'
        backends) needs a new sampler.
        """
        mine, theirs = self._own.state_dict(), self._source.state_dict()
        for key in sorted(mine.keys() | theirs.keys()):
            shapes = [tuple(state[key].shape) if key in state else None for state in (mine, theirs)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"G: {key} had shape {shapes[0]} and now has {shapes[1]}; make a new Sampler")
        with self._gate.alone():
            _synchronize(self.device)  # calls that have returned may still run
            if resolution is not None or alpha is not None:
                old = self._alpha if self._fades else 1.0
                self.resolution, self._fades = self._level(
                    self.resolution if resolution is None else resolution, old if alpha is None else alpha
                )
            self._own.load_state_dict(theirs)
            _synchronize(self.device)
            self._prepared = Prepared(self._own)
            if self._graphs is not None:
                self._graphs.check_again()

    def _level(self, resolution: int, alpha: float | Tensor) -> tuple[int, bool]:
        """The checked resolution, and whether the level below shows; a graph reads alpha where it is now written."""
        level, fading = self._own.levels.checked(resolution), fades(alpha)
        value = alpha.to(self.device) if isinstance(alpha, Tensor) else alpha
        self._alpha.copy_(_checks.alpha(value, self._alpha))
        return level, fading and level > 4

    def _run(self, z: Tensor, labels: Tensor | None, finish: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        self._own.check_inputs(z, labels)
        with (
            self._gate.call(),
            torch.no_grad(),
            torch.autocast(self.device.type, enabled=False),
            self._prepared.in_use(),
        ):
            z = z.to(self.device, self.dtype)
            labels = None if labels is None else labels.to(self.device, self.dtype)
            if self._graphs is not None and len(z) and (self._graphs_wanted is True or self.resolution <= GRAPHS_UP_TO):
                settings = forced.named(None), signature.switches(self.device.type)
                key = len(z), self.resolution, self._fades, *settings
                return self._graphs.run(key, self._image, (z, labels), finish)
            image = self._image(z, labels)
            return image if finish is None else finish(image)

    def _image(self, z: Tensor, labels: Tensor | None) -> Tensor:
        alpha = self._alpha if self._fades else 1.0
        image: Tensor = self._own(z, labels, resolution=self.resolution, alpha=alpha)
        return image


def to_uint8(images: Tensor) -> Tensor:
    """[N, C, H, W] in [-1, 1] to bytes [N, H, W, C]: round(127.5 x + 127.5), ties to even, clamped to [0, 255].

    In float32 at least; what NaN becomes is undefined. Source: the official code's `Gs.run(..., out_mul=127.5,
    out_add=127.5, out_dtype=np.uint8)` and `misc.convert_to_pil_image`.
    """
    _checks.tensor("images", images, (4,))
    x = images.permute(0, 2, 3, 1).to(torch.promote_types(images.dtype, torch.float32))
    return x.mul(127.5).add_(127.5).round_().clamp_(0.0, 255.0).to(torch.uint8).contiguous()


def latents(
    n: int, latent_dim: int = 512, *, seed: int = 0, start: int = 0, device: torch.device | str = "cpu"
) -> Tensor:
    """[n, latent_dim] of N(0, 1) in float32: the rows from `start` on of numpy's RandomState(seed).randn.

    The same on all devices and versions, and what the official code draws for a seed (`misc.random_latents`). It takes
    time in proportion to start + n. Raises ValueError for n < 0, start < 0, and a seed outside of [0, 2^32).
    """
    _checks.counts(1, latent_dim=latent_dim)
    _checks.counts(0, n=n, start=start)
    draw = _Latents(seed, latent_dim)
    for _ in range(start):
        draw(1)
    return draw(n).to(device)


class _Latents:
    """Draws one image's latents after the other's."""

    def __init__(self, seed: int, latent_dim: int) -> None:
        _checks.counts(0, seed=seed)
        if seed >= 1 << 32:
            raise ValueError(f"seed: expected an integer < 2^32, as numpy takes it, got {seed}")
        self.latent_dim, self._state = latent_dim, np.random.RandomState(seed)

    def __call__(self, n: int) -> Tensor:
        return torch.from_numpy(self._state.randn(n, self.latent_dim).astype(np.float32))


def one_behind(batches: Iterator[Tensor], copy: Callable[[Tensor], Callable[[], Tensor]]) -> Iterator[Tensor]:
    """Host copies of the batches: `copy` begins one and returns what waits for it, which is asked one batch later."""
    begun: Callable[[], Tensor] | None = None
    for batch in batches:
        last, begun = begun, copy(batch)
        if last is not None:
            yield last()
    if begun is not None:
        yield begun()


class PinnedCopies:
    """Copies from a CUDA device through pinned memory, on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._side = device, torch.cuda.Stream(device)

    def __call__(self, batch: Tensor) -> Callable[[], Tensor]:
        # torch keeps this memory for the next batch but one
        pinned = torch.empty(batch.shape, dtype=batch.dtype, device="cpu", pin_memory=True)
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._side):
            pinned.copy_(batch, non_blocking=True)
        copied = self._side.record_event()

        def wait(source: Tensor = batch) -> Tensor:  # whose memory must not be used again before
            copied.synchronize()
            return pinned.clone()  # pageable: whoever keeps all images keeps no locked memory

        return wait


class _Gate:
    """Calls go through together, `alone` has nobody beside it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls, self._closed = 0, False

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._closed = True
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._calls)
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()


def _frozen_copy(G: Generator, device: torch.device, dtype: torch.dtype) -> Generator:
    """G in eval mode with weights of its own, each copied once, straight to its place."""

    def placed(t: Tensor) -> Tensor:
        return t.detach().to(device, dtype if t.is_floating_point() else t.dtype, copy=True)

    memo: dict[int, Any] = {id(p): torch.nn.Parameter(placed(p), requires_grad=False) for p in G.parameters()}
    memo.update({id(b): placed(b) for b in G.buffers()})
    return copy.deepcopy(G, memo).eval()


def _dtype(dtype: object) -> torch.dtype:
    if not isinstance(dtype, torch.dtype) or dtype not in _checks.DTYPES:
        raise TypeError(f"dtype: expected torch.float32, float16, bfloat16 or float64, got {dtype!r}")
    return dtype


def _device(device: torch.device | str) -> torch.device:
    """The device with its index; ValueError where there is none such."""
    try:
        found = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        raise ValueError(f"device: got {str(device)!r}, which this torch cannot use: {error}") from None
    if found.type == "meta":
        raise ValueError("device: expected one that computes, got meta")
    return found


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
