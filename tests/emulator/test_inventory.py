"""No CUDA kernel goes unproven: each is launched, compared, held to its traffic, and caught with a seeded fault."""

from __future__ import annotations

import emulate
import inventory
import pytest
import torch
from inventory import KERNELS

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def missing(found: dict[str, list[str]]) -> list[str]:
    """What KERNELS lacks or has too much, for the kernels of each source."""
    wrong = []
    names = [name for kernels in found.values() for name in kernels]
    wrong += [f"two kernels are called {name}: rename one" for name in sorted(set(names)) if names.count(name) > 1]
    for source, kernels in found.items():
        wrong += [
            f"{source}: add KERNELS[{name!r}] to tests/emulator/inventory.py: an Entry with the op and the case that "
            "launch it, the most traffic and a fault"
            for name in kernels
            if name not in KERNELS or f"{KERNELS[name].source}.cu" != source
        ]
    return wrong + [f"{name} is no kernel any more: remove KERNELS[{name!r}]" for name in KERNELS if name not in names]


def sources() -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(inventory.SOURCES.glob("*.cu*"))}


def test_every_kernel_has_an_entry() -> None:
    found = {source: inventory.kernels_of(text) for source, text in sources().items()}
    assert sum(map(len, found.values())) == sum(text.count("__global__") for text in sources().values())
    assert not missing(found)


def test_another_kernel_is_told() -> None:
    text = "template <class T>\n__global__ void __launch_bounds__(A<b>::C, 2)\n    other_kernel(T* x) {"
    found: dict[str, list[str]] = {f"{entry.source}.cu": [] for entry in KERNELS.values()}
    for name, entry in KERNELS.items():
        found[f"{entry.source}.cu"].append(name)
    assert not missing(found)
    found["fade_in.cu"] += inventory.kernels_of(text)
    assert ["add KERNELS['other_kernel']" in line for line in missing(found)] == [True]


Case = tuple[str, tuple[tuple[str, object], ...], str]
CASES: dict[Case, list[str]] = {}  # and the kernels that each launches
for _name, _entry in KERNELS.items():
    for _layout in _entry.layouts:
        CASES.setdefault((_entry.op, tuple(_entry.axes.items()), _layout), []).append(_name)


def name_of(case: Case) -> str:
    return "-".join([case[0], *(str(value) for _, value in case[1]), case[2]])


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_launched_and_compared(case: Case) -> None:
    kernels = CASES[case]
    for dtype in DTYPES:
        with emulate.emulated() as emulator:
            inventory.compare(KERNELS[kernels[0]], dtype, case[2])
            launched = {inventory.base_name(launch["kernel"]) for launch in emulator.launches()}
        assert not set(kernels) - launched, "its case in KERNELS does not launch it"


@pytest.mark.parametrize("kernel", KERNELS)
def test_traffic(kernel: str) -> None:
    entry = KERNELS[kernel]
    with emulate.emulated(stats=True, multiprocessors=1) as emulator:
        inventory.compare(entry, torch.float16, entry.layouts[-1], **{"size": 16, **entry.wide})
        launches = [launch for launch in emulator.launches() if inventory.base_name(launch["kernel"]) == kernel]
    assert launches
    factor = max(32 * launch["sectors"] / (launch["read"] + launch["written"]) for launch in launches)
    assert factor <= entry.most, f"{factor:.3g} times its different bytes, at most {entry.most}"


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_fault_is_caught(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inventory.use(monkeypatch, inventory.faulty_module(kernel))
    for layout in KERNELS[kernel].layouts:
        with emulate.emulated(), pytest.raises(AssertionError, match="error ") as caught:
            inventory.compare(KERNELS[kernel], torch.float32, layout)
        assert not isinstance(caught.value, emulate.Fault)
