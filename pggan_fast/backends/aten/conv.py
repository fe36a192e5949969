"""Convolutions of the backend "aten": torch's own, on phase-decomposed weights.

Resampling convolutions run as one 4x4 stride-2 convolution: with S(w) the 3x3 kernel box-summed to 4x4,
    conv2d(up2(x), w) == conv_transpose2d(x, S(flip(w)), stride=2, padding=1)     9 taps -> 4 per output pixel
    down2(conv2d(x, w)) == conv2d(x, S(w) / 4, stride=2, padding=1)               9 taps -> 4 per input pixel
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pggan_fast.backends import layout
from pggan_fast.backends.registry import TOGETHER, implement
from pggan_fast.reference import down2, up2

# oneDNN at or below this many pixels an image prefers NCHW: with channels_last activations and contiguous weights it
# took 16 ms instead of 1.6 for 4 x 512 x 4 x 4, and 17 instead of 7 for the weight gradient at 8 x 8 (Zen 4, 2 cores).
FEW_PIXELS = 64
# In half precision products are twice as fast and the sums, in float32, are not: 4 x 512 x 8 x 8 is faster without.
FEW_PIXELS_HALF = 1024
# On a GPU a product of weights takes 12 us and the host 60: what 512 channels of so many pixels take more without it.
FEW_PIXELS_GPU = 4096


def _on_cpu(x: Tensor) -> bool:
    """Whether oneDNN's habits count; elsewhere it is cuDNN's, to which every call of torch is dear. Tests say no."""
    return x.is_cpu


@functools.cache
def _unit_box_sum(flip: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[9, 16]: the 3x3 kernel's taps to those of S(w), the full convolution of w with a 2x2 box, or of its flip."""
    with torch.inference_mode(False), torch.device("cpu"):  # whoever calls first, and whatever the default device
        taps = torch.zeros(3, 3, 4, 4)
        for i in range(3):
            for j in range(3):
                taps[i, j, i : i + 2, j : j + 2] = 1.0
        taps = taps.view(9, 16)
        return (taps.flip(1) if flip else taps).to(device=device, dtype=dtype)


MOST_SCALES = 512  # a few for each width of the networks
_scaled: dict[Any, Tensor] = {}  # for good: a captured graph reads them


def _box_sum(scale: float, flip: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same times `scale`."""
    key = scale, flip, dtype, device
    if (found := _scaled.get(key)) is not None:
        return found
    with torch.inference_mode(False):
        box = _unit_box_sum(flip, dtype, device) * scale
    captured = device.type == "cuda" and torch.cuda.is_current_stream_capturing()  # into the graph's own memory
    if len(_scaled) < MOST_SCALES and type(box) is Tensor and not captured:
        _scaled[key] = box
    return box


def _summed(
    weight: Tensor, scale: float, flip: bool, transpose: bool, dtype: torch.dtype, memory_format: torch.memory_format
) -> Tensor:
    """scale * S(weight, or its flip) in `dtype`: [C, Cin, 4, 4], or [Cin, C, 4, 4], in the memory format of the
    convolution's input, as torch would copy it there."""
    c, cin = weight.shape[:2]
    s = (weight.reshape(-1, 9) @ _box_sum(scale, flip, weight.dtype, weight.device)).view(c, cin, 4, 4)
    return _copied(s.transpose(0, 1) if transpose else s, dtype, memory_format)


def _gathered(ds: Tensor, scale: float, flip: bool, transpose: bool) -> Tensor:
    """The transpose: ds [C, Cin, 4, 4] or [Cin, C, 4, 4] -> [C, Cin, 3, 3], in float32 at least."""
    ds = ds.transpose(0, 1) if transpose else ds
    ds = _copied(ds, layout.accumulator(ds.dtype), torch.contiguous_format)
    box = _box_sum(scale, flip, ds.dtype, ds.device)
    return (ds.view(-1, 16) @ box.t()).view(*ds.shape[:2], 3, 3)


def _copied(t: Tensor, dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    """`t` so, in one pass; `to` alone leaves a transposed one as it is where the dtype is right."""
    return t.to(dtype, memory_format=memory_format).contiguous(memory_format=memory_format)


def _wide(weight: Tensor) -> Tensor:
    return weight.to(layout.accumulator(weight.dtype))


def _prepared(weight: Tensor, scale: float, x: Tensor) -> Tensor:
    """scale * weight in the dtype of x; on a GPU in its format too, where a copy is made anyway."""
    w = weight if scale == 1.0 else _wide(weight) * scale
    if w.dtype == x.dtype:
        return w
    if _on_cpu(x):
        return w.to(x.dtype)
    return _copied(w, x.dtype, layout.memory_format(layout.is_channels_last(x)))


def _compute_format(x: Tensor, k: int) -> Tensor:
    if x.is_contiguous():
        return x
    return layout.dense(x, _suits_rows(x, k))


def _suits_rows(x: Tensor, k: int) -> bool:
    """Whether torch's k x k convolution is fast in channels_last: cuDNN's is."""
    return not _on_cpu(x) or k == 1 or x.shape[2] * x.shape[3] > FEW_PIXELS


def conv_plan(x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool) -> Callable[..., Tensor]:
    """What runs `conv` for such arguments, of (x, weight)."""
    k = weight.shape[2]
    if k == 3 and resample != "none" and sums_pay(x, resample):
        return lambda x, weight, *_: layout.conform(
            _strided_conv(_compute_format(x, k), weight, scale, resample, adjoint), x
        )
    first, last, scale = _around(x, k, scale, resample, adjoint)
    convolve = _planned(x, weight, scale, adjoint) if first is None else None
    if convolve is None:
        convolve = functools.partial(_convolve, scale=scale, adjoint=adjoint)
    elif last is None and k == 1 and (x.shape[2] == x.shape[3] == 1 or _is_planes(x)):
        return convolve  # a product, in the format of x

    def run(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
        y = convolve(x if first is None else first(x), weight)
        return layout.conform(y if last is None else last(y), x)

    return run


@implement("aten", "conv", plan=conv_plan)
def conv(x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool) -> Tensor:
    return conv_plan(x, weight, scale, resample, adjoint)(x, weight)


def _convolve(x: Tensor, weight: Tensor, *, scale: float, adjoint: bool) -> Tensor:
    """Without resampling, in any format."""
    rows = _compute_format(x, weight.shape[2])
    return _plain_conv(rows, _prepared(weight, scale, rows), adjoint)


def _planned(x: Tensor, weight: Tensor, scale: float, adjoint: bool) -> Callable[..., Tensor] | None:
    """The same with no second look at the arguments, where they are as torch wants them."""
    k = weight.shape[2]
    if scale != 1.0 or weight.dtype != x.dtype or not _computes_as_it_is(x, k):
        return None
    if k == 1 or adjoint:
        return lambda x, weight, *_: _plain_conv(x, weight, adjoint)
    padding = (k // 2, k // 2)
    return lambda x, weight, *_: torch.conv2d(x, weight, None, (1, 1), padding)


def _computes_as_it_is(x: Tensor, k: int) -> bool:
    return x.is_contiguous() or (_suits_rows(x, k) and x.is_contiguous(memory_format=torch.channels_last))


Pass = Callable[[Tensor], Tensor]


def _around(x: Tensor, k: int, scale: float, resample: str, adjoint: bool) -> tuple[Pass | None, Pass | None, float]:
    """(what is done to the image before a k x k convolution, what after it, the scale that is left)."""
    if resample == "none":
        return None, None, scale
    if adjoint and not _on_cpu(x):  # with the 4 or 1 / 4 of `ADJOINT` in the same pass; on the CPU slower than without
        resampled, scale = (_spread, scale * 4.0) if resample == "up" else (_sum2, scale * 0.25)
    else:
        resampled = up2 if resample == "up" else down2
    # Resampling commutes with a 1x1 convolution: it is done on the smaller image there.
    return (None, resampled, scale) if (k == 1) == (resample == "up") else (resampled, None, scale)


def _spread(x: Tensor) -> Tensor:
    """up2(x) / 4, the transpose of `down2`."""
    if x.numel() == 0:
        return up2(x)
    n, c, h, w = x.shape
    large = layout.empty((n, c, 2 * h, 2 * w), x, layout.is_channels_last(x))  # only its shape and format count
    y: Tensor = torch.ops.aten.avg_pool2d_backward(x, large, [2, 2], [], [0, 0], False, True, None)
    return y


def _sum2(x: Tensor) -> Tensor:
    """4 * down2(x), the transpose of `up2`."""
    if x.numel() == 0:
        return down2(x)
    n, c, h, w = x.shape
    y: Tensor = torch.ops.aten.upsample_nearest2d_backward(x, [h, w], [n, c, h // 2, w // 2])
    return y


def sums_pay(x: Tensor, resample: str) -> bool:
    """Whether 16 summed taps for 36 are worth summing them: in half precision and on a GPU not for a handful of
    pixels."""
    pixels = x.shape[0] * x.shape[2] * x.shape[3] * (4 if resample == "up" else 1)  # of the larger image
    if not _on_cpu(x):
        return pixels > FEW_PIXELS_GPU
    return x.dtype not in (torch.float16, torch.bfloat16) or pixels > FEW_PIXELS_HALF


def _plain_conv(x: Tensor, w: Tensor, adjoint: bool) -> Tensor:
    k = w.shape[2]
    if k == 1 and x.shape[2] == x.shape[3] == 1:  # a dense layer
        rows, matrix = x.view(x.shape[:2]), w.view(w.shape[:2])
        y = rows @ matrix if adjoint else F.linear(rows, matrix)
        return y.view(*y.shape, 1, 1)
    if k == 1 and _is_planes(x):
        matrix = w[:, :, 0, 0].t() if adjoint else w[:, :, 0, 0]
        y = layout.empty((len(x), len(matrix), *x.shape[2:]), x, False)  # in large pages
        torch.bmm(matrix.expand(len(x), -1, -1), x.flatten(2), out=y.flatten(2))
        return y
    if adjoint:  # as eager's backward does it: its sums round less than conv_transpose2d's
        n, c, h, width = x.shape
        square = c == w.shape[1]
        shape_only = x if square else layout.empty((n, w.shape[1], h, width), x, layout.is_channels_last(x))
        return _convolution_backward(x, shape_only, w, 1, (True, False))[0]
    return F.conv2d(x, w, padding=k // 2)


def _is_planes(x: Tensor) -> bool:
    """Whether a 1x1 convolution of x is a product with each image, two to six times faster than torch's convolution in
    NCHW; in float16 torch's is the faster one."""
    return _on_cpu(x) and x.dtype != torch.float16 and x.is_contiguous()


def _strided_conv(x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool) -> Tensor:
    """The adjoint's kernel is the flipped transpose, and S(flip(w)) == flip(S(w))."""
    memory_format = layout.memory_format(layout.is_channels_last(x))
    if resample == "up":  # conv_transpose2d takes [Cin, C, 4, 4] and flips by itself
        s = _summed(_wide(weight), scale, not adjoint, not adjoint, x.dtype, memory_format)
        return F.conv_transpose2d(x, s, stride=2, padding=1)
    s = _summed(_wide(weight), scale * 0.25, adjoint, adjoint, x.dtype, memory_format)
    return F.conv2d(x, s, stride=2, padding=1)


@implement("aten", "conv_weight_grad")
def conv_weight_grad(
    x: Tensor,
    dy: Tensor,
    scale: float,
    resample: str,
    k: int,
    dtype: torch.dtype,
) -> Tensor:
    if x.shape[0] == 0:
        return x.new_zeros(dy.shape[1], x.shape[1], k, k, dtype=dtype)
    if dtype != x.dtype and _on_cpu(x):  # float32 parameters beside half activations: no half rounding on the way
        x, dy = x.to(dtype), dy.to(dtype)  # a GPU takes five times as long for it, and eager rounds there too
    if k == 1:
        return _pointwise_weight_grad(x, dy, scale, resample, dtype)
    if resample != "none" and not _on_cpu(x) and not sums_pay(x, resample):
        x, dy, resample = (up2(x), dy, "none") if resample == "up" else (x, _spread(dy), "none")
    x, dy = _compute_format(x, k), _compute_format(dy, k)
    if resample == "up":  # conv_transpose2d(x, s)'s gradient is a strided convolution's with x and dy exchanged
        return _gathered(_strided_weight_grad(dy, x, 4, 2), scale, True, True).to(dtype)
    if resample == "down":
        return _gathered(_strided_weight_grad(x, dy, 4, 2), scale * 0.25, False, False).to(dtype)
    return _plainly(_strided_weight_grad(x, dy, 3, 1), scale, dtype)


def _plainly(dw: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """scale * dw as a parameter's gradient is."""
    dw = _copied(dw, dtype, torch.contiguous_format)
    return dw if scale == 1.0 else dw.mul_(scale)


def _strided_weight_grad(x: Tensor, dy: Tensor, k: int, stride: int) -> Tensor:
    """The weight gradient of `conv2d(x, w, stride, padding=1)`: [C, Cin, k, k], in either format."""
    shape_only = layout.empty((dy.shape[1], x.shape[1], k, k), x, layout.is_channels_last(x))  # torch copies others
    return _convolution_backward(dy, x, shape_only, stride, (False, True))[1]


def _convolution_backward(
    dy: Tensor, x: Tensor, w: Tensor, stride: int, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """(dx, dw) of `conv2d(x, w, stride, padding=(k - 1) // 2)`, those wanted; the other operand only gives a shape."""
    padding = [(w.shape[2] - 1) // 2] * 2
    dx, dw, _ = torch.ops.aten.convolution_backward(
        dy, x, w, None, [stride] * 2, padding, [1, 1], False, [0, 0], 1, [*wanted, False]
    )
    return dx, dw


def gradients_plan(
    x: Tensor, dy: Tensor, weight: Tensor, scale: float, resample: str
) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """(dx, dw) of a convolution by one call of torch for both, with the bits that two have: of few pixels, and on a
    GPU, torch looks at the arguments for longer than it computes."""
    if not x.numel() or not (_together_on_cpu if _on_cpu(x) else _together_on_gpu)(x, weight, scale, resample):
        return None
    k, dtype = weight.shape[2], weight.dtype
    if k == 1 and x.shape[2] == x.shape[3] == 1:
        other_sums = _convolution_sums(x, dy) or _images_apart(x, dy)  # see `_product_over_images`
        return None if other_sums else functools.partial(_dense_gradients, scale=scale)
    if layout.is_channels_last(x) != layout.is_channels_last(dy):  # of one channel or pixel: each would have its own
        return None
    as_they_are = _computes_as_it_is(x, k) and _computes_as_it_is(dy, k)
    up, down = resample == "up", resample == "down"

    def run(x: Tensor, dy: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        rows, drows = (up2(x) if up else x), (_spread(dy) if down else dy)
        if not as_they_are:
            rows, drows = _compute_format(rows, k), _compute_format(drows, k)
        dx, dw = _convolution_backward(drows, rows, _prepared(weight, scale, drows), 1, (True, True))
        return layout.conform(_sum2(dx) if up else dx, dy), _plainly(dw, scale, dtype)

    return run


def _dense_gradients(x: Tensor, dy: Tensor, weight: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
    rows, drows = x.view(x.shape[:2]), dy.view(dy.shape[:2])
    dx = drows @ _prepared(weight, scale, dy).view(weight.shape[:2])
    dw = _plainly(drows.t() @ rows, scale, weight.dtype)
    return dx.view(x.shape), dw.view(weight.shape)


def _together_on_cpu(x: Tensor, weight: Tensor, scale: float, resample: str) -> bool:
    as_it_is = resample == "none" and scale == 1.0 and weight.dtype == x.dtype
    pixels = x.shape[2] * x.shape[3]
    if pixels == 1 and weight.shape[2] == 1:
        return as_it_is and len(x) < 2 * PIECE
    return as_it_is and weight.shape[2] == 3 and len(x) * pixels <= FEW_PIXELS_HALF


def _together_on_gpu(x: Tensor, weight: Tensor, scale: float, resample: str) -> bool:
    if weight.shape[2] == 3:
        return resample == "none" or not sums_pay(x, resample)
    return resample == "none" and (len(x) < 2 * PIECE if x.shape[2] * x.shape[3] == 1 else _few_on_gpu(x))


def _few_on_gpu(x: Tensor) -> bool:
    return x.shape[0] * x.shape[2] * x.shape[3] <= FEW_PIXELS_GPU


TOGETHER["aten"] = TOGETHER["aten+cpu"] = gradients_plan


def _pointwise_weight_grad(x: Tensor, dy: Tensor, scale: float, resample: str, dtype: torch.dtype) -> Tensor:
    if resample == "up":
        dy, scale = down2(dy), scale * 4.0
    elif resample == "down":
        x = down2(x)
    dw = _plainly(_product_over_images(x, dy), scale, dtype)
    return dw.view(*dw.shape, 1, 1)


PIECE = 256  # pixels


def _product_over_images(x: Tensor, dy: Tensor) -> Tensor:
    """sum over images and pixels of dy [N, C, H, W] and x [N, Cin, H, W]: [C, Cin]."""
    if _convolution_sums(x, dy):
        w = layout.empty((dy.shape[1], x.shape[1], 1, 1), x, False)  # only its shape counts
        drows, rows = _compute_format(dy, 1), _compute_format(x, 1)
        return _convolution_backward(drows, rows, w, 1, (False, True))[1].flatten(1)
    if _images_apart(x, dy):
        planes, dplanes = x.flatten(2), dy.flatten(2)  # [N, Cin, HW], [N, C, HW]
        if planes.shape[2] < 2 * PIECE:
            return torch.bmm(planes, dplanes.transpose(1, 2)).sum(dim=0).t()
        parts = [_product_over_pixels(d.t(), p.t()) for p, d in zip(planes, dplanes, strict=True)]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(dim=0)
    rows = dy.permute(0, 2, 3, 1).reshape(-1, dy.shape[1])  # [pixels, C]
    columns = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])  # [pixels, Cin]
    return _product_over_pixels(rows, columns)


def _images_apart(x: Tensor, dy: Tensor) -> bool:
    """Whether products [C, Cin], one for each image, are less to write than copies as [pixels, channels]; those of a
    few numbers are sums in one long row, which round more."""
    c, cin, pixels = dy.shape[1], x.shape[1], dy.shape[2] * dy.shape[3]
    return _on_cpu(x) and x.is_contiguous() and dy.is_contiguous() and 16 <= c * cin <= pixels * (c + cin)


def _convolution_sums(x: Tensor, dy: Tensor) -> bool:
    """Whether torch's convolution sums over the pixels two to ten times faster than products do: in NCHW those of half
    types; in channels_last for wide outputs of few channels or for many pixels, but not in float16. On a GPU those of
    few pixels, which `gradients_plan` leaves to it too."""
    if not _on_cpu(x):
        return x.shape[2] * x.shape[3] > 1 and _few_on_gpu(x)
    if x.is_contiguous() and dy.is_contiguous():
        return x.dtype in (torch.float16, torch.bfloat16)
    rows = all(t.is_contiguous(memory_format=torch.channels_last) for t in (x, dy))
    pays = x.shape[1] < dy.shape[1] or dy.shape[0] * dy.shape[2] * dy.shape[3] >= 16 * PIECE
    return x.dtype in (torch.float32, torch.bfloat16) and rows and pays


def _product_over_pixels(rows: Tensor, columns: Tensor) -> Tensor:
    """rows^T @ columns; of few channels in pieces, whose sums round less than one long one."""
    pixels, c, cin = len(rows), rows.shape[1], columns.shape[1]
    if pixels < 2 * PIECE or c * cin > 16384 or (not _on_cpu(rows) and rows.dtype != torch.float32):
        return rows.t() @ columns
    whole = pixels - pixels % PIECE
    parts = rows[:whole].view(-1, PIECE, c).transpose(1, 2) @ columns[:whole].view(-1, PIECE, cin)
    return parts.sum(dim=0) + rows[whole:].t() @ columns[whole:]
