"""What a compiled kernel must be: no spills, within the chip, on tensor cores, in 16-byte accesses, copied behind."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from static.chips import CHIPS, REGISTERS
from static_cuda.programs import Program
from static_cuda.record import UNASKED, Launch

COMPILED = (80, 90, 100, 120)  # what machine code is made for
RUNS = {80: 80, 86: 80, 89: 80, 90: 90, 100: 100, 120: 120}  # chip: the machine code that it runs
NAMES = {
    "mma": "a tensor-core instruction",
    "async_copies": "an asynchronous copy",
    "matrix_loads": "ldmatrix",
    "wide_loads": "16-byte loads",
    "wide_stores": "16-byte stores",
}


@dataclass(frozen=True)
class Must:
    """What the kernels whose name matches have to have, of NAMES."""

    kernel: str  # a regular expression of file.kernel<arguments>, from its start
    has: tuple[str, ...] = ()


WIDE = ("wide_loads", "wide_stores")
PRODUCT = ("mma", "async_copies")
# The first that matches. A kernel that none matches has to be entered.
TABLE = [
    # Rows of channels in vectors; N = 1 is the way of odd channel counts and addresses
    Must(r"bias_act\.(forward|backward|masked_pool)_kernel<Rows<\w+, [248]>", WIDE),
    Must(r"bias_act_norm\.(forward|backward)_(long_)?rows_kernel<\w+, [248]\b", WIDE),
    Must(r"from_rgb_fade_in\.blend_rows<\w+, [248]>", WIDE),
    Must(r"minibatch_stddev\.(copy_and_sum|add_gradient)<\w+, [248]>", WIDE),
    Must(r"fade_in\.(blend|split)_same<[248], ", WIDE),
    Must(r"(fade_in|fade_reals)\.\w+<Quad<\w+, [248], ", WIDE),
    Must(r"to_rgb_fade_in\.blend_rgb<\w+, [248], ", ("wide_loads",)),  # three channels to store
    Must(r"scaled_conv2d\.scaled_conv2d_kernel<\w+, \d, ToImage>", (*PRODUCT, "matrix_loads", "wide_loads")),
    Must(r"scaled_conv2d\.scaled_conv2d_kernel<", (*PRODUCT, "matrix_loads", *WIDE)),
    Must(r"generator_stage\.generator_stage_kernel<", (*PRODUCT, "matrix_loads", *WIDE)),
    Must(r"conv_weight_grad\.conv_weight_grad_kernel<(Half|BFloat)Product", (*PRODUCT, "matrix_loads", "wide_loads")),
    Must(r"conv_weight_grad\.conv_weight_grad_kernel<", (*PRODUCT, "wide_loads")),  # ldmatrix takes no 32-bit columns
    # Planes, single elements, and small kernels behind large ones
    Must(r"bias_act\.\w+<(Planes|Rows<\w+, 1>)"),
    Must(r"bias_act_norm\.\w+_planes_kernel<"),
    Must(r"bias_act_norm\.\w+<\w+, 1\b"),
    Must(r"(bias_act\.add_rows|conv_weight_grad\.add_blocks|pack_weight\.pack_weight)_kernel"),
    Must(r"from_rgb_fade_in\.blend_(planes<|rows<\w+, 1>)"),
    Must(r"minibatch_stddev\.(sum_map|write_map|\w+<\w+, 1>)"),
    Must(r"fade_in\.(blend|split)_same<1, "),
    Must(r"(fade_in|fade_reals)\.\w+<Quad<\w+, 1, "),
    Must(r"to_rgb_fade_in\.blend_rgb<\w+, 1, "),
]


def required(kernel: str, table: Iterable[Must] | None = None) -> tuple[str, ...] | None:
    """The instructions that `kernel` must have; None where the table does not know it."""
    return next((must.has for must in table or TABLE if re.match(must.kernel, kernel)), None)


def violations(
    program: Program, chip: int, launches: Iterable[Launch] = (), table: Iterable[Must] | None = None
) -> list[str]:
    """What is wrong with the program, and with its launches, on the chip of that compute capability."""
    limits, wrong = CHIPS[chip], list(program.warnings)
    local = program.instructions["local"]
    if program.spilled or program.stack or local:
        wrong.append(f"local memory: {program.spilled} bytes spilled, {program.stack} of stack, {local} accesses")
    if not program.threads:
        wrong.append("no __launch_bounds__: how many threads it is compiled for is left open")
    elif program.registers * program.threads > REGISTERS:
        wrong.append(f"{program.registers} registers for {program.threads} threads: a chip has {REGISTERS}")
    needs = required(program.kernel, table)
    if needs is None:
        wrong.append(f"gate.TABLE does not know {program.kernel}: enter what it must have")
    wrong += [f"without {NAMES[name]}" for name in needs or () if not program.instructions[name]]
    if program.shared > limits.shared_block:
        wrong.append(f"{program.shared} bytes of shared memory, the chip gives a block {limits.shared_block}")
    return wrong + [fault for launch in launches for fault in launch_faults(program, launch, chip)]


def launch_faults(program: Program, launch: Launch, chip: int) -> list[str]:
    limits, shared = CHIPS[chip], program.shared + launch.shared
    wrong = []
    if launch.threads > program.threads > 0:
        wrong.append(f"launched with {launch.threads} threads, compiled for {program.threads}")
    if shared > limits.shared_block:
        wrong.append(f"launched with {shared} bytes of shared memory, the chip gives a block {limits.shared_block}")
    elif shared > UNASKED and launch.shared > launch.opted:
        wrong.append(f"launched with {launch.shared} bytes of shared memory, asked for {launch.opted}")
    elif limits.blocks_of(launch.threads, program.registers, shared) == 0:
        wrong.append("launched with blocks that do not fit on a multiprocessor")
    return wrong


def row(program: Program, chip: int, launches: list[Launch], table: Iterable[Must] | None = None) -> dict[str, Any]:
    """One line of the table: the program on a chip, its launches' largest needs, and what is wrong with it."""
    threads = max((launch.threads for launch in launches), default=program.threads)
    dynamic = max((launch.shared for launch in launches), default=0)
    limits = CHIPS[chip]
    each = [limits.blocks_of(n.threads, program.registers, program.shared + n.shared) for n in launches]
    fewest = min(each, default=limits.blocks_of(max(threads, 1), program.registers, program.shared))
    return {
        "kernel": program.kernel,
        "chip": f"sm_{chip}",
        "code": f"sm_{program.code}",
        "launches": len(launches),
        "threads": threads,
        "registers": program.registers,
        "shared_bytes": program.shared,
        "dynamic_bytes": dynamic,
        "stack_bytes": program.stack,
        "spilled_bytes": program.spilled,
        "blocks_per_sm": fewest,
        "instructions": {name: n for name, n in program.instructions.items() if n},
        "violations": sorted(set(violations(program, chip, launches, table))),
    }
