"""Every CUDA kernel with what proves it: the case of an op that launches it, its modelled traffic, a seeded fault."""

from __future__ import annotations

import re
import subprocess
from typing import Any, NamedTuple

import compiled
import emulate
import grid
import pytest
import torch

SOURCES = compiled.ROOT / "csrc" / "cuda"
FOLDER = compiled.ROOT / "build" / "emulator-faults"
BOTH = ("nchw", "channels_last")
NCHW, ROWS = BOTH[:1], BOTH[1:]


class Entry(NamedTuple):
    """`op` on the case `axes` (of tests/ops) launches the kernel in all of `layouts`."""

    source: str
    op: str
    axes: dict[str, Any]
    most: float  # sectors of device memory over those of the different bytes, in the last layout, of 16-byte rows
    fault: tuple[str, str]  # in the source: what stands there, and what is wrong
    layouts: tuple[str, ...] = BOTH
    wide: dict[str, Any] = {}  # the case whose traffic is counted, where it is another  # noqa: RUF012


ACT = {"channels": 16, "scale": 0.7, "slope": 0.2, "bias": "same"}
NORM = {**ACT, "norm": "after_act"}
LONG, WHOLE_LONG = {**NORM, "channels": 33, "size": 2}, {"channels": 520, "size": 4}
CONV = {"cin": 16, "cout": 16, "k": 3, "slope": 0.2, "bias": "same", "weights": "float32"}
FADE = {"channels": 16, "alpha": 0.3125}
RGB = {"cin": 16, "cout": 16, "alpha": 0.3125, "bias": "same"}
STAGE = {"cin": 16, "cout": 16, "shows": "blend", "alpha": 0.3125, "slope": 0.2, "norm": "after_act", "bias": "same"}
GROUPS = {"channels": 16, "batch": (4, 4)}

KERNELS = {
    # the bias anew in each block
    "forward_kernel": Entry("bias_act", "bias_act", ACT, 1.25, ("scale * u.v[j] + bias[j]", "u.v[j] + bias[j]")),
    "backward_kernel": Entry(
        "bias_act", "bias_act", ACT, 1.05, ("(bits[k] >> j & 1 ?", "(bits[k] >> (j ^ 1) & 1 ?")
    ),
    # the mask's bytes of every second pixel: a sector for each of the four taps
    "masked_pool_kernel": Entry(
        "bias_act", "scaled_conv2d", {**CONV, "resample": "pool"}, 1.85, ("bits >> j & 1 ?", "bits >> (j ^ 1) & 1 ?")
    ),
    "add_rows_kernel": Entry("bias_act", "bias_act", ACT, 1.15, ("= bias_scale * total", "= total")),
    # the bias anew in each block
    "forward_rows_kernel": Entry(
        "bias_act_norm", "bias_act", NORM, 1.25, ("v[k].v[j] *= factor", "v[k].v[j] *= 1.0f"), ROWS
    ),
    # u twice; the bias anew for each pixel, an element at a time, from the cache
    "forward_long_rows_kernel": Entry(
        "bias_act_norm", "bias_act", LONG, 9.5, ("f.factor(warp_sum(squares))", "f.factor(squares)"), ROWS, WHOLE_LONG
    ),
    "backward_rows_kernel": Entry(
        "bias_act_norm", "bias_act", NORM, 1.15, ("dot = sum_lanes(dot, lanes);", ""), ROWS
    ),
    # dy and y twice; each pixel adds to the block's sums in the cache
    "backward_long_rows_kernel": Entry(
        "bias_act_norm", "bias_act", LONG, 4.3, ("b.read(p, warp_sum(dot), ", "b.read(p, dot, "), ROWS, WHOLE_LONG
    ),
    # u twice, and the bias anew for each warp, from the cache
    "forward_planes_kernel": Entry(
        "bias_act_norm", "bias_act", NORM, 1.95,
        ("sum_slices(sum_batch(squares), at.slices)", "sum_batch(squares)"), NCHW,
    ),
    # dy and y twice, and sums of each 32 pixels
    "backward_planes_kernel": Entry(
        "bias_act_norm", "bias_act", NORM, 2.3, ("narrow<T>(b.scale * dv)", "narrow<T>(dv)"), NCHW
    ),
    "conv_weight_grad_kernel": Entry(
        "conv_weight_grad", "scaled_conv2d", CONV, 1.1, ("column * STRIDE - k / 2, b,", "column * STRIDE, b,")
    ),
    # elements of dw [c, cin, k, k] from sums [k, k, c, cin]: a sector each
    "add_blocks_kernel": Entry("conv_weight_grad", "scaled_conv2d", CONV, 4.5, ("side + x + tap", "side + y + tap")),
    "blend_same": Entry(
        "fade_in", "fade_in", {**FADE, "up": False}, 1.05, ("blend(v.v[j], u.v[j], a)", "blend(u.v[j], v.v[j], a)")
    ),
    "split_same": Entry("fade_in", "fade_in", {**FADE, "up": False}, 1.05, ("high.v[j] *= a;", "high.v[j] *= 1 - a;")),
    "blend_up": Entry("fade_in", "fade_in", FADE, 1.05, ("blend(v.v[j], q.v[k][j], a)", "blend(v.v[0], q.v[k][j], a)")),
    "split_up": Entry("fade_in", "fade_in", FADE, 1.05, ("k < 4; ++k) q.v[k][j] *= a;", "k < 3; ++k) q.v[k][j] *= a;")),
    "fade_reals_kernel": Entry("fade_reals", "fade_reals", FADE, 1.05, ("blend(0.25f * sum", "blend(0.5f * sum")),
    # the image's pixels of three channels, an element at a time; parameters anew in each block
    "blend_rows": Entry(
        "from_rgb_fade_in", "from_rgb_fade_in", {**FADE, "bias": "same"}, 1.9,
        ("vector / LANES] = uint8_t(bits)", "vector / LANES] = uint8_t(bits >> 1)"), ROWS,
    ),
    # the image's 2x2 pixels, an element at a time; parameters anew in each thread, from the cache
    "blend_planes": Entry(
        "from_rgb_fade_in", "from_rgb_fade_in", {**FADE, "bias": "same"}, 2.55,
        ("plane + within] = uint8_t(bits)", "plane + within] = uint8_t(bits >> 1)"), NCHW,
    ),
    # rows of an odd number of channels end within sectors
    "copy_and_sum": Entry(
        "minibatch_stddev", "minibatch_stddev", GROUPS, 1.3, ("sum += members.s.v[j]", "sum += 2 * members.s.v[j]")
    ),
    # one channel of 17: a sector for each of its elements
    "write_map": Entry(
        "minibatch_stddev", "minibatch_stddev", GROUPS, 15.6,
        ("sum / float(l.elements)", "sum / float(l.elements - l.plane)"),
    ),
    # one channel of 17: a sector for each of its elements
    "sum_map": Entry(
        "minibatch_stddev", "minibatch_stddev", GROUPS, 16.0,
        ("i = threadIdx.x; i < l.plane", "i = threadIdx.x + 1; i < l.plane"),
    ),
    # rows of an odd number of channels end within sectors
    "add_gradient": Entry(
        "minibatch_stddev", "minibatch_stddev", GROUPS, 1.35, ("(v.v[j] - members.mean.v[j]) * slope", "v.v[j] * slope")
    ),
    # weight [c, cin, k, k] to [k, k, c, cin]: a sector for each element, mostly from the cache
    "pack_weight_kernel": Entry(
        "pack_weight", "scaled_conv2d", CONV, 5.7, ("first + (p.a.adjoint ? k * k - 1 - e : e)", "first + e")
    ),
    "scaled_conv2d_kernel": Entry(
        "scaled_conv2d", "scaled_conv2d", CONV, 1.15, ("stride - p.taps.halo, left", "stride, left")
    ),
    # x with its halo, in tiles of which a small image clips most
    "generator_stage_kernel": Entry(
        "generator_stage", "generator_stage", STAGE, 1.6, ("at.i / 2 - 1, at.j", "at.i / 2, at.j")
    ),
    # an image's rows of three channels; the weights anew in each block
    "blend_rgb": Entry(
        "to_rgb_fade_in", "to_rgb_fade_in", RGB, 1.3, ("s.c, 1.0f - fade, w_low", "s.c, fade, w_low")
    ),
}  # fmt: skip


def kernels_of(text: str) -> list[str]:
    """The names of the `__global__` functions in a source."""
    return re.findall(r"__global__\s+void\s+(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s+)?(\w+)\s*\(", text)


def compare(entry: Entry, dtype: torch.dtype, layout: str, **axes: Any) -> None:
    """The op's own test: outputs, gradients and second order against float64. Within emulated()."""
    tests = grid.load(f"test_{entry.op}")
    case = {axis: values[0] for axis, values in tests.AXES.items()}
    case |= {"batch": 1, "size": 4, "narrow": False} | entry.axes | axes
    case |= {axis: layout for axis in ("layout", "other_layout") if axis in case} | {"dtype": dtype}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tests, "CASES", {0: case})
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        tests.test_grid("cuda", 0)


def base_name(kernel: str) -> str:
    return kernel.partition("<")[0]


def faulty_module(kernel: str) -> Any:
    """The emulator's `_cuda` with the fault of this kernel in its source."""
    entry, (right, wrong) = KERNELS[kernel], KERNELS[kernel].fault
    source = SOURCES / f"{entry.source}.cu"
    text = source.read_text()
    assert text.count(right) == 1, f"{source.name} has {text.count(right)} times {right!r}: update KERNELS[{kernel!r}]"
    folder = FOLDER / kernel
    folder.mkdir(parents=True, exist_ok=True)
    mutated, output = folder / source.name, folder / "_cuda.so"
    mutated.write_text(text.replace(right, wrong))
    compiled.build()
    module = compiled.module()
    objects = []
    for item in module.objects:
        made = (folder if item.source == source else compiled.WATCHED.folder) / item.name
        if item.source == source:
            command = [item.compiler, *item.flags, f"-I{SOURCES}", "-c", str(mutated), "-o", str(made)]
            subprocess.run(command, check=True)
        objects.append(str(made))
    subprocess.run([module.linker, *objects, *module.link_flags, "-o", str(output)], check=True)
    found = compiled.load(output, f"{kernel}._cuda")
    assert found is not emulate.module()
    return found


def use(patch: pytest.MonkeyPatch, module: Any) -> None:
    """From now on the emulator runs the kernels of this module."""
    patch.setattr(emulate, "module", lambda: module)
    patch.setattr(emulate, "_names", {})
