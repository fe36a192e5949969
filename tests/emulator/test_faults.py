"""Every fault that the emulator tells of, seeded in a kernel of its own beside a correct twin."""

from __future__ import annotations

import re
from typing import Any

import emulate
import pytest
import torch
from emulate import Fault

from pggan_fast.backends import layout

COUNT = 128
HERE = r".* at faults_\w+\.cu:\d+"
RACE = "RACE .*"

# What is told of each, however threads are scheduled
TOLD = {
    "read_after_write": RACE + "shared tile.*" + HERE,
    "write_after_read": RACE + "shared tile.*" + HERE,
    "write_after_read_of_another_warp": RACE + "shared tile.*" + HERE,
    "lanes_out_of_step": RACE + "shared tile.*" + HERE,
    "shuffle_as_barrier": RACE + "shared tile.*" + HERE,
    "half_of_the_lanes_in_step": RACE + "shared tile.*" + HERE,
    "two_blocks_write": r"RACE write-write: global argument 1 float32\[128\].* block 0 thread .* block 1 thread" + HERE,
    "block_reads_another": RACE + r"global argument 2.*" + HERE,
    "block_writes_what_another_read": RACE + r"global argument 2.*" + HERE,
    "sum_without_atomics": RACE + r"global argument 2 float32\[128\] \+0,.*" + HERE,
    "read_beside_atomics": RACE + r"global argument 2 float32\[128\] \+0,.*" + HERE,
    "threads_share_a_byte": "RACE write-write" + HERE,
    "read_past_the_end": r"OUT-OF-BOUNDS read of 4 bytes: global argument 0 float32\[128\] \+512" + HERE,
    "write_past_the_end": r"OUT-OF-BOUNDS write of 4 bytes: global argument 1 float32\[128\] \+512" + HERE,
    "write_before_the_start": r"OUT-OF-BOUNDS write of 4 bytes: global argument 1 float32\[128\] -4" + HERE,
    "copy_past_the_end": r"OUT-OF-BOUNDS read of 24 bytes: global argument 0 float32\[128\] \+492" + HERE,
    "small_copy_past_the_end": r"OUT-OF-BOUNDS read of 8 bytes: global argument 0 float32\[128\] \+512" + HERE,
    "structure_past_the_end": r"OUT-OF-BOUNDS read of \d+ bytes: global argument 0 float32\[128\]" + HERE,
    "shared_past_the_end": r"OUT-OF-BOUNDS write of 4 bytes: shared tile \+256" + HERE,
    "dynamic_past_the_end": r"OUT-OF-BOUNDS write of 4 bytes: shared dynamic \+256" + HERE,
    "private_of_another_thread": "OUT-OF-BOUNDS read of 4 bytes: .* no device memory" + HERE,
    "host_pointer": "OUT-OF-BOUNDS read of 4 bytes: .* no device memory" + HERE,
    "misaligned_load": "MISALIGNED access of 16 bytes" + HERE,
    "misaligned_store": "MISALIGNED access of 16 bytes" + HERE,
    "store_to_shared": "OUT-OF-BOUNDS store128 to what is not device memory" + HERE,
    "shared_store_to_global": "OUT-OF-BOUNDS store128_shared to what is not shared memory" + HERE,
    "uninitialised_shared": r"UNINITIALISED read of 4 bytes: shared tile \+20" + HERE,
    "uninitialised_global": r"UNINITIALISED read of 4 bytes: global argument 1 float32\[128\]" + HERE,
    "uninitialised_atomic": r"UNINITIALISED atomic of 4 bytes: global argument 1" + HERE,
    "two_barriers": "DIVERGENT threads 0 and .* meet at two barriers" + HERE,
    "barrier_after_exits": "DIVERGENT 32 of 64 threads come to a barrier, the others have exited" + HERE,
    "full_mask_in_a_branch": "DEADLOCK 64 of 64 threads wait for ever: .* in __shfl_sync of lanes 0xffffffff" + HERE,
    "lanes_exit_before_a_shuffle": "(DEADLOCK|WARP-OP .*the mask names an exited lane)" + HERE,
    "source_outside_of_the_mask": "SHUFFLE lane .* reads lane 20, which is not in the mask 0xffff" + HERE,
    "lane_not_in_its_mask": "WARP-OP __shfl_sync of lanes 0xffff: the mask lacks the calling lane" + HERE,
    "lanes_that_do_not_exist": "WARP-OP __ballot_sync .*: the mask names lanes that do not exist, from 16" + HERE,
    "width_of_three": "SHUFFLE a width of 3" + HERE,
    "lanes_meet_from_two_places": "DIVERGENT __shfl_sync: lanes .* meet from two places" + HERE,
    "copy_without_wait": "ASYNC read of 4 bytes where a copy_async is under way: shared tile" + HERE,
    "wait_for_too_few": "ASYNC read of 4 bytes where a copy_async is under way: shared tile" + HERE,
    "copy_without_commit": "ASYNC read of 4 bytes where a copy_async is under way: shared tile" + HERE,
    "copy_never_waited_for": "ASYNC a thread exits without having waited for its copy_async" + HERE,
    "copy_of_another_thread": r"(RACE .*shared tile|ASYNC .*under way|UNINITIALISED .*shared tile)" + HERE,
    "copy_past_the_end_of_shared": "OUT-OF-BOUNDS write of 16 bytes: shared tile" + HERE,
    "copy_to_global": "OUT-OF-BOUNDS copy_async to what is not shared memory" + HERE,
    "misaligned_copy": "MISALIGNED access of 16 bytes" + HERE,
    "matrix_past_the_end": "OUT-OF-BOUNDS read of 16 bytes: shared tile" + HERE,
    "matrix_in_global": "OUT-OF-BOUNDS ldmatrix: row .* is not in shared memory" + HERE,
    "matrix_before_its_rows": r"(RACE .*shared tile|UNINITIALISED .*shared tile)" + HERE,
    "index_out_of_range": "UNDEFINED array index out of range" + HERE,
    "product_out_of_range": "UNDEFINED signed product out of range" + HERE,
    "division_by_zero": "UNDEFINED division by zero" + HERE,
    "shift_too_far": "UNDEFINED shift by more" + HERE,
    "too_many_threads": "LAUNCH a block of 1025x1x1 threads",
    "empty_grid": "LAUNCH a grid of 0x1x1 blocks",
    "too_much_shared": "LAUNCH 49156 bytes of dynamic shared memory, 49152 are allowed",
    "too_much_with_static": "LAUNCH 46080 bytes of shared memory and 4096 static, of 49152",
    "too_much_opted_in": "invalid argument",
    "fewer_opted_in": "LAUNCH 61440 bytes allowed after 65536, with which another thread may launch",
}


def kernels() -> Any:
    return emulate.module().emulator.faults


def run(name: str, correct: bool, policy: int, seed: int = 1) -> None:
    numbers = torch.arange(COUNT, dtype=torch.float32)
    with emulate.emulated(policy, seed):
        out = layout.empty((1, 1, 1, COUNT), numbers, False).view(COUNT)
        emulate.allocated(out)
        emulate.launch(getattr(kernels(), name), numbers, out, torch.zeros(COUNT), correct)


def test_every_fault_is_expected() -> None:
    assert {name for name in dir(kernels()) if not name.startswith("_")} == set(TOLD)


@pytest.mark.parametrize("policy", [emulate.FIFO, emulate.LIFO, emulate.RANDOM])
@pytest.mark.parametrize("name", TOLD)
def test_fault(name: str, policy: int) -> None:
    with pytest.raises(Fault) as told:
        run(name, False, policy)
    assert re.search(TOLD[name], str(told.value)), str(told.value)


@pytest.mark.parametrize("policy", [emulate.FIFO, emulate.LIFO, emulate.RANDOM])
@pytest.mark.parametrize("name", TOLD)
def test_its_correct_twin(name: str, policy: int) -> None:
    run(name, True, policy)


@pytest.mark.parametrize("name", [name for name, told in TOLD.items() if "RACE" in told])
@pytest.mark.parametrize("seed", range(2, 12))
def test_a_race_in_any_order(name: str, seed: int) -> None:
    with pytest.raises(Fault, match=r"RACE|ASYNC|UNINITIALISED"):
        run(name, False, emulate.RANDOM, seed)
    run(name, True, emulate.RANDOM, seed)


def test_a_fault_is_told_once_and_the_next_call_starts_anew() -> None:
    with pytest.raises(Fault) as told:
        run("two_blocks_write", False, emulate.FIFO)
    assert str(told.value).count("RACE") == 1
    with emulate.emulated():
        for _ in range(2):
            with pytest.raises(Fault, match="LAUNCH"):
                emulate.launch(kernels().empty_grid, torch.ones(COUNT), torch.ones(COUNT), torch.ones(COUNT), False)
        emulate.launch(kernels().read_after_write, torch.ones(COUNT), torch.ones(COUNT), torch.ones(COUNT), True)
