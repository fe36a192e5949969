"""What a compiled kernel must be: no spills, within the chip's shared memory, on tensor cores, in 16-byte accesses."""

from __future__ import annotations

from typing import Any

from static.aot import Program
from static.chips import CHIPS, Chip
from static.record import Job, Launch
from torch import Tensor

COMPILED = (80, 90, 100, 120)  # what machine code is made for

# Per kernel without a product, the tensor that it loads most of and the one that it stores most of, each with what lies
# in one piece for it: "rows" of channels (in planes, of pixels), "lines" of an image, or the tensor "flat"; None where
# that is not in whole 16-byte words by its nature. A kernel that is not here has to be entered.
Main = tuple[str, str] | None
MAIN: dict[str, tuple[Main, Main]] = {
    "bias_act.forward_kernel": (("u", "rows"), ("y", "rows")),
    "bias_act.backward_kernel": (("dy", "rows"), ("du", "rows")),
    "bias_act.masked_pool_kernel": (("g", "rows"), ("out", "rows")),
    "fade_in.blend_same": (("high", "flat"), ("out", "flat")),
    "fade_in.split_same": (("dy", "flat"), ("dhigh", "flat")),
    "fade_in.blend_up": (("high", "lines"), ("out", "lines")),
    "fade_in.split_up": (("dy", "lines"), ("dhigh", "lines")),
    "fade_reals.blend_means": (("image", "lines"), ("out", "lines")),
    "from_rgb_fade_in.blend_features": (("high", "rows"), ("y", "rows")),
    "to_rgb_fade_in.blend_rgb": (("x_high", "rows"), None),  # three channels
    "minibatch_stddev.copy_and_sum": (("x", "flat"), ("out", "rows")),
    "minibatch_stddev.write_map": (None, None),  # one channel of many
    "minibatch_stddev.sum_map": (None, None),
    "minibatch_stddev.add_gradient": (("x", "flat"), ("dx", "flat")),
    "pack_weight.pack_weight_kernel": (None, None),  # from [C, Cin, k, k], in tiles of few elements per thread
    "pack_weight.unpack_weight_grad_kernel": (("parts", "rows"), None),
}


def occupancy(program: Program, chip: Chip) -> int:
    """Blocks resident on one multiprocessor; 0 where a block does not fit."""
    return chip.blocks_of(32 * program.warps, program.registers, program.shared)


def wants_tensor_cores(job: Job, program: Program) -> bool:
    """Every product, less those in float32 that were asked to be exact."""
    return program.dot and job.constant("PRECISION") != "ieee"


def in_whole_words(t: Tensor, unit: str) -> bool:
    """Whether every piece of `t` starts and ends at a 16-byte word, as far as the compiler can know.

    A number of channels is a constant of the kernel, of any divisor; other sizes are arguments, divisible by 16 or not.
    """
    if unit == "flat":
        return t.numel() % 16 == 0 and t.numel() > 0
    last = t.shape[-1]
    channels_last = t.ndim >= 4 and t.stride(-3) == 1 and t.shape[-3] > 1
    if unit == "lines":
        return (t.shape[-3] * last if channels_last else last) % 16 == 0
    if channels_last:
        return t.shape[-3] * t.element_size() % 16 == 0
    return last % 16 == 0


def wide_kinds(launch: Launch, name: str) -> list[str]:
    """Which of "loads" and "stores" have to be 16 bytes wide."""
    kinds = zip(("loads", "stores"), MAIN[name], strict=True)
    return [kind for kind, main in kinds if main and in_whole_words(launch.tensors[main[0]], main[1])]


def violations(job: Job, program: Program, launch: Launch) -> list[str]:
    """What is wrong with the program; empty if nothing."""
    if program.failed is not None:
        return [f"does not compile: {program.failed}"]
    wrong = []
    chip = CHIPS[job.cc]
    if program.count("local") or program.stack:
        wrong.append(f"spills: {program.count('local')} local accesses, {program.stack} bytes of stack per thread")
    if program.shared > chip.shared_block:
        wrong.append(f"{program.shared} bytes of shared memory, the chip gives a block {chip.shared_block}")
    elif occupancy(program, chip) == 0:
        wrong.append("no block fits on a multiprocessor")
    if wants_tensor_cores(job, program) and not program.count("mma"):
        wrong.append("a product without a tensor-core instruction")
    if not program.dot and job.name not in MAIN:
        wrong.append(f"gate.MAIN does not know {job.name}: enter what it loads and stores")
    elif not program.dot:
        wrong += [f"no 16-byte {kind}" for kind in wide_kinds(launch, job.name) if not program.count(f"wide_{kind}")]
    return wrong


def row(job: Job, program: Program, launches: list[Launch]) -> dict[str, Any]:
    """One line of the table: the program, the first launch that it serves, and what is wrong with it."""
    first = launches[0]
    constants = dict(job.constants)
    return {
        "kernel": job.name,
        "arch": f"sm_{job.cc}",
        "dtype": first.dtype,
        "shapes": first.shapes,
        "grid": list(first.grid),
        "launches": len(launches),
        "constants": {n: constants.get((i,)) for i, (n, kind) in enumerate(job.signature) if kind == "constexpr"},
        "warps": program.warps,
        "stages": program.stages,
        "registers": program.registers,
        "shared_bytes": program.shared,
        "stack_bytes": program.stack,
        "blocks_per_sm": occupancy(program, CHIPS[job.cc]) if program.failed is None else 0,
        "instructions": dict(program.opcodes),
        "tensor_cores_required": wants_tensor_cores(job, program),
        "violations": violations(job, program, first),
    }
