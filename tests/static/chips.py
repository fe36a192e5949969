"""What a chip gives a block and a multiprocessor."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
REGISTERS = 65536  # per multiprocessor, in four parts
REGISTER_UNIT = 256  # allocated per warp


@dataclass(frozen=True)
class Chip:
    """Limits of one compute capability.

    CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; the same numbers are in the toolkit's
    cuda_occupancy.h, from which the allocation units come.
    """

    threads: int  # resident per multiprocessor
    blocks: int
    shared: int  # bytes per multiprocessor
    shared_block: int  # bytes that a block may opt in to
    reserved: int = KIB  # of shared memory, per block, by the system
    shared_unit: int = 128

    def blocks_of(self, threads: int, registers: int, shared: int) -> int:
        """Blocks resident on one multiprocessor; 0 where a block does not fit. `registers` per thread."""
        if shared > self.shared_block:
            return 0
        warps = -(-threads // 32)
        per_warp = round_up(max(1, registers) * 32, REGISTER_UNIT)
        resident = 4 * (REGISTERS // 4 // per_warp)
        with_reserved = round_up(shared + self.reserved, self.shared_unit)
        limits = [resident // warps, self.threads // (32 * warps), self.blocks]
        return min([*limits, self.shared // with_reserved] if with_reserved else limits)


def round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


CHIPS = {
    75: Chip(1024, 16, 64 * KIB, 64 * KIB, reserved=0, shared_unit=256),
    80: Chip(2048, 32, 164 * KIB, 163 * KIB),
    86: Chip(1536, 16, 100 * KIB, 99 * KIB),
    89: Chip(1536, 24, 100 * KIB, 99 * KIB),
    90: Chip(2048, 32, 228 * KIB, 227 * KIB),
    100: Chip(2048, 32, 228 * KIB, 227 * KIB),
    120: Chip(1536, 24, 100 * KIB, 99 * KIB),
}
