"""torch.export of whole networks: to files of ATen ops that run where pggan_fast is not, or of our own that do not."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor
from small_networks import ALPHA, KINDS, Network, arguments, make, outputs
from torch.export import Dim, ExportedProgram, export

import pggan_fast
from pggan_fast.models import Discriminator, Generator

PROGRAM = Path(__file__).with_name("exported_program.py")
GROUP = 4  # of D's minibatch stddev
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def plain() -> AbstractContextManager[None]:
    return pggan_fast.use_backend("reference")


def exported(network: Network, n: int, batch: Any = None, **options: Any) -> ExportedProgram:
    """From an example of n samples; `batch`: what changes in it."""
    inputs = arguments(network, n)
    names = ("image",) if isinstance(network, Discriminator) else ("z", "labels")[: len(inputs)]
    shapes = None if batch is None else {name: {0: batch} for name in names} | dict.fromkeys(options)
    return export(network, inputs, options, dynamic_shapes=shapes)


def namespaces(program: ExportedProgram) -> set[str]:
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    return {getattr(target, "namespace", getattr(target, "__module__", "")) for target in targets}


def as_bytes(program: ExportedProgram) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def through_a_file(program: ExportedProgram) -> torch.nn.Module:
    return torch.export.load(io.BytesIO(as_bytes(program))).module()


def same(module: torch.nn.Module, network: Network, n: int, **options: Any) -> None:
    inputs = arguments(network, n)
    got, want = outputs(module(*inputs, **options)), outputs(network(*inputs, **options))
    torch.testing.assert_close(got, want, **CLOSE)
    assert [t.stride() for t in got] == [t.stride() for t in want]


def in_another_process(how: str, file: Path) -> tuple[str, list[Any]]:
    """What exported_program.py says at last, and the outputs of the calls if it ended well."""
    path = os.pathsep.join([str(Path(pggan_fast.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(PROGRAM), how, str(file)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.stderr[-2000:], torch.load(f"{file}.out", weights_only=True) if done.returncode == 0 else []


@pytest.mark.parametrize("ours", [pytest.param(False, marks=pytest.mark.slow), True], ids=["aten", "ours"])
def test_files_in_another_process(ours: bool, tmp_path: Path) -> None:
    """With pggan_fast's ops in the graph the process has to import it; with ATen's it runs anywhere."""
    file, content, expected = tmp_path / "programs", [], []
    for kind in KINDS:
        network = make(kind, labelled=True)
        with torch.no_grad(), nullcontext() if ours else plain():
            program = exported(network, 2 * GROUP, GROUP * Dim("groups", min=1, max=64), alpha=torch.tensor(ALPHA))
        assert ("pggan_fast" in namespaces(program)) == ours
        calls = [(arguments(network, n), {"alpha": torch.tensor(alpha)}) for n, alpha in ((8, 0.7), (12, ALPHA))]
        expected += [outputs(network(*inputs, **options)) for inputs, options in calls]
        content.append((as_bytes(program), calls))
    torch.save(content, file)
    ended, results = in_another_process("without", file)
    if ours:
        assert "pggan_fast" in ended
        assert not results
        ended, results = in_another_process("with", file)
    assert len(results) == len(expected), ended
    for result, want in zip(results, expected, strict=True):
        torch.testing.assert_close(outputs(result), want, **CLOSE)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("kind", KINDS)
def test_any_batch_of_one_group_is_one_program(kind: type[Network], backend: str | None, grad: bool) -> None:
    """alpha as a float is compiled in. 1 is a batch apart, as always in torch.export."""
    network = make(kind)
    with torch.set_grad_enabled(grad), pggan_fast.use_backend(backend):
        program = exported(network, 3, Dim.AUTO, alpha=ALPHA)
    assert ("pggan_fast" in namespaces(program)) == (backend is None)
    module = through_a_file(program)
    for n in (2, 3, GROUP):
        same(module, network, n, alpha=ALPHA)


def test_any_number_of_groups_is_one_program_of_our_ops() -> None:
    D = make(Discriminator)
    module = through_a_file(exported(D, 3, Dim.AUTO))
    for n in (2, GROUP, 2 * GROUP, 3 * GROUP):
        same(module, D, n)


@pytest.mark.parametrize("backend", ["reference", None])
def test_other_batches_are_refused(backend: str | None) -> None:
    """By a program of ATen ops those of one group, too, where its example had several: they reshape differently."""
    D = make(Discriminator)
    with pggan_fast.use_backend(backend):
        module = through_a_file(exported(D, 2 * GROUP, GROUP * Dim("groups", min=1, max=64)))
    same(module, D, 3 * GROUP)
    for n in (6, *([GROUP] if backend else [])):
        with pytest.raises((AssertionError, RuntimeError), match="Guard failed"):
            module(*arguments(D, n))


def test_levels_and_strict_mode() -> None:
    G = make(Generator)
    with plain():
        for strict in (False, True):
            inputs, options = arguments(G), {"resolution": 8, "alpha": ALPHA}
            program = export(G, inputs, options, strict=strict)
            assert namespaces(program) == {"aten"}
            same(program.module(), G, 4, **options)


def test_another_backend_in_the_layers_is_seen_in_the_graph() -> None:
    """The fault that the check of namespaces has to catch: a layer that names its backend wins over the context."""
    G = make(Generator)
    G.get_submodule("blocks.8x8.conv").backend = "aten"  # type: ignore[assignment]
    with plain():
        assert "pggan_fast" in namespaces(exported(G, 2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_jit_trace(kind: type[Network]) -> None:
    """It records the reference, and checks itself without gradients. It can give no None, so D has labels."""
    network = make(kind, labelled=True)
    recorded = torch.jit.trace(network, arguments(network, 2 * GROUP))
    same(recorded, network, 2 * GROUP)


@pytest.mark.slow
def test_aot_inductor() -> None:
    G = make(Generator, 8)
    with plain(), torch.no_grad():
        package = torch._inductor.aoti_compile_and_package(exported(G, 3, Dim("n", min=2, max=64)))
    same(torch._inductor.aoti_load_package(package), G, 5)
