"""torch.use_deterministic_algorithms: every op runs under it, twice with the same bits, and no kernel adds by atomics.

On the CPU here; tests/gpu/test_deterministic.py has the same on a CUDA device. What would raise there can be told here,
by the names of torch's ops that our backends call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grid
import pytest
import torch
from public_ops import OPS, By, draw, everything, same
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import pggan_fast
from pggan_fast.backends import layout, registry
from pggan_fast.ops import _again

names = pytest.mark.parametrize("name", OPS)
backends = pytest.mark.parametrize("backend", ["aten"] if grid.SLOW_MOTION else ["reference", "aten", "cpu"])
formats = pytest.mark.parametrize("how", ["nchw", "channels_last"])
ENLARGED = 1 if grid.SLOW_MOTION else 8  # beyond what runs on one thread


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def results(name: str, backend: str | None, how: str = "channels_last", enlarged: int = ENLARGED) -> dict[str, Tensor]:
    op = OPS[name]
    tensors = {k: grid.arrange(t, how) if t.ndim == 4 else t for k, t in draw(op, enlarged).items()}
    return everything(lambda **t: op.call(By(backend), **t), tensors)


@names
@pytest.mark.parametrize("backend", [*grid.BACKENDS_UNDER_TEST, "reference"])
@formats
def test_the_same_bits_twice_and_as_without_the_flag(
    name: str, backend: str | None, how: str, request: pytest.FixtureRequest
) -> None:
    torch.set_num_threads(2)
    want = results(name, backend, how)
    request.getfixturevalue("deterministic")
    for _ in range(1 if grid.SLOW_MOTION else 2):
        same(results(name, backend, how), want)


@names
@backends
@pytest.mark.parametrize("fill", [False, True])
def test_memory_filled_with_nan_is_harmless(
    name: str, backend: str | None, fill: bool, deterministic: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.utils.deterministic.fill_uninitialized_memory: an element that nobody wrote would be NaN."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", fill)
    made = layout.empty((1, 2, 2, 2), torch.zeros(1), False)
    assert bool(made.isnan().all()) or not fill
    torch.use_deterministic_algorithms(False)
    want = results(name, backend, enlarged=1)
    torch.use_deterministic_algorithms(True)
    same(results(name, backend, enlarged=1), want)


# The convolutions and dense layers that are torch's own, oneDNN's, sum in pieces by the number of threads.
OURS = [
    "scaled_conv2d up", "scaled_conv2d pool", "generator_stage", "to_rgb_fade_in", "bias_act", "pixel_norm",
    "minibatch_stddev", "fade_reals", "fade_in",
]  # fmt: skip


@pytest.mark.parametrize("name", OURS)
@pytest.mark.skipif("cpu" not in grid.BACKENDS_UNDER_TEST, reason="is about the kernels of the backend cpu")
def test_the_same_bits_for_another_number_of_threads(name: str, deterministic: None) -> None:
    want = results(name, "cpu")
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        same(results(name, "cpu"), want)


# What raises on a CUDA device, as torch's documentation names it, and the ops of ATen that are meant.
RAISING = {
    "torch.nn.AvgPool3d": "avg_pool3d_backward",
    "torch.nn.AdaptiveAvgPool2d": "_adaptive_avg_pool2d_backward",
    "torch.nn.AdaptiveAvgPool3d": "_adaptive_avg_pool3d_backward",
    "torch.nn.AdaptiveMaxPool2d": "adaptive_max_pool2d_backward",
    "torch.nn.MaxPool3d": "max_pool3d_with_indices_backward",
    "torch.nn.FractionalMaxPool2d": "fractional_max_pool2d_backward",
    "torch.nn.FractionalMaxPool3d": "fractional_max_pool3d_backward",
    "torch.nn.MaxUnpool1d": "max_unpool2d",
    "torch.nn.MaxUnpool2d": "max_unpool2d",
    "torch.nn.MaxUnpool3d": "max_unpool3d",
    "torch.nn.functional.interpolate":
        "upsample_linear1d_backward upsample_bilinear2d_backward upsample_bicubic2d_backward "
        "upsample_trilinear3d_backward",
    "torch.nn.ReflectionPad1d": "reflection_pad1d_backward",
    "torch.nn.ReflectionPad2d": "reflection_pad2d_backward",
    "torch.nn.ReflectionPad3d": "reflection_pad3d_backward",
    "torch.nn.ReplicationPad1d": "replication_pad1d_backward",
    "torch.nn.ReplicationPad2d": "replication_pad2d_backward",
    "torch.nn.ReplicationPad3d": "replication_pad3d_backward",
    "torch.nn.NLLLoss": "nll_loss2d_forward nll_loss2d_backward nll_loss_forward",
    "torch.nn.CTCLoss": "_ctc_loss_backward",
    "torch.nn.EmbeddingBag": "_embedding_bag_dense_backward",
    "torch.Tensor.put_": "put_ put",
    "torch.histc": "histc",
    "torch.bincount": "bincount",
    "torch.kthvalue": "kthvalue",
    "torch.median": "median",
    "torch.nn.functional.grid_sample": "grid_sampler_2d_backward grid_sampler_3d_backward",
    "torch.cumsum": "cumsum cumsum_",
    "torch.Tensor.scatter_reduce": "scatter_reduce scatter_reduce_",
    "torch.Tensor.resize_": "quantized_resize_",
}  # fmt: skip
FORBIDDEN = {op for ops in RAISING.values() for op in ops.split()}


def test_the_list_is_torchs() -> None:
    """One that a newer torch adds has to be looked at."""
    text = torch.use_deterministic_algorithms.__doc__
    assert text is not None
    raising = text.split("operations will throw a", 1)[1].split("In addition", 1)[0]
    listed = set(re.findall(r"\* :(?:class|func):`([\w.]+)`", raising))
    assert len(listed) > 20
    assert listed <= set(RAISING)


class Called(TorchDispatchMode):
    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self.names = names

    def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(f._opname)
        return f(*args, **(kwargs or {}))


def called_by(f: Callable[[], Any]) -> set[str]:
    """Names of torch's ops that f and its kernels call, forward and in both backward passes."""
    found: set[str] = set()
    real = registry.choose

    def choose(*args: Any) -> registry.Chosen:
        run, way = real(*args)

        def watched(*inputs: Any) -> Any:
            with Called(found):
                return run(*inputs)

        return registry.Chosen(watched, way)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "choose", choose)
        patch.setattr(_again, "_intercepted", lambda: True)  # every call chooses
        with Called(found):
            f()
        f()
    return found


@names
@backends
def test_nothing_is_called_that_would_raise_on_a_cuda_device(name: str, backend: str | None) -> None:
    called = called_by(lambda: results(name, backend, enlarged=1))
    assert not called & FORBIDDEN
    assert len(called) > 5  # of the reference the passes of autograd, of a backend what its kernels are made of


def test_a_call_that_would_raise_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    aten = registry._TABLE["aten", "fade_reals"]
    spoiled = aten._replace(run=lambda image, alpha: aten.run(image.cumsum(0), alpha), plan=None)
    monkeypatch.setitem(registry._TABLE, ("aten", "fade_reals"), spoiled)
    assert called_by(lambda: results("fade_reals", "aten", enlarged=1)) & FORBIDDEN == {"cumsum"}


# Atomic additions of floats come in any order, and so do their roundings.
ROOT = Path(pggan_fast.__file__).parent.parent
SOURCES = sorted(
    p for folder in ("csrc", "kernels") for p in (ROOT / folder).rglob("*") if re.search(r"\.(h|cpp|cuh?|py)$", p.name)
)
ATOMIC = re.compile(
    r"\batomic(Add|Sub|Min|Max|CAS|Exch|Inc|Dec|And|Or|Xor)\w*\s*\(|\batomic_\w+\s*\(|\b(red|atom)\.\w|"
    r"__atomic_(fetch|add|exchange|compare)|__sync_\w+|\bfetch_(add|sub)\b|compare_exchange|omp\s+(atomic|critical)|"
    r"\batomic<\s*(float|double)\s*>|\batomic_ref\b|cp\.reduce"
)


def atomics_in(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if ATOMIC.search(line)]


def test_no_kernel_adds_by_atomics() -> None:
    assert len(SOURCES) > 60
    assert {p.name: found for p in SOURCES if (found := atomics_in(p.read_text()))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "  atomicAdd(&db[c], sum);",
        "  atomicAdd_block(db + c, sum);",
        "    tl.atomic_add(db + c, sum, mask=c < C)",
        '  asm volatile("red.global.add.f32 [%0], %1;" :: "l"(db), "f"(sum));',
        '  asm("atom.add.noftz.f16 %0, [%1], %2;");',
        "  std::atomic<float> sum{0.0f};",
        "  total.fetch_add(part);",
        "#pragma omp atomic",
        "  while (!sum.compare_exchange_weak(old, old + part)) {}",
    ],
)
def test_an_atomic_addition_is_seen(line: str) -> None:
    source = next(p for p in SOURCES if p.name == ("bias_act.py" if "tl." in line else "bias_act.cu")).read_text()
    assert atomics_in(f"{source}\n{line}\n") == [line.strip()]
