"""Sampler: what it gives is what the network gives, of the weights at the last refresh, from any thread and mode."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from sampling import NETWORKS, draw, expected, generator
from standin_graphs import StandIn
from test_stale_weights import WRITES

import pggan_fast
from pggan_fast import inference
from pggan_fast.backends import cpu, tiled
from pggan_fast.backends.frozen import is_frozen
from pggan_fast.backends.graphs import Graphs
from pggan_fast.inference import Sampler, latents, to_uint8
from pggan_fast.models import Discriminator, Generator

NATIVE = pytest.mark.skipif(cpu.native is None, reason=f"no native kernels: {cpu.why_missing()}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_images_are_the_networks_bit_by_bit(name: str, dtype: torch.dtype) -> None:
    options, label_dim, told = NETWORKS[name]
    G = generator(**options)
    z = draw()
    labels = torch.eye(label_dim)[torch.arange(len(z)) % label_dim] if label_dim else None
    sampler = Sampler(G, dtype=dtype, **told)
    want = expected(copy.deepcopy(G).to(dtype), z.to(dtype), labels, **told)
    for _ in range(2):
        got = sampler(z, labels)
        assert torch.equal(got, want)
        assert (got.dtype, got.stride()) == (dtype, want.stride())
    assert torch.equal(sampler.uint8(z, labels), to_uint8(want))
    assert next(G.parameters()).dtype == torch.float32


@NATIVE
def test_weights_are_prepared_once_and_for_this_sampler_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def launch(function: Callable[..., Any], *args: Any) -> Any:
        if function.__name__ == "tiled_weight":
            made.append(function.__name__)
        return real(function, *args)

    real = tiled.launch
    monkeypatch.setattr(tiled, "launch", launch)
    G = generator(32)
    sampler, other = Sampler(G), Sampler(G)
    sampler(draw())
    once = len(made)
    assert once > 2
    sampler(draw(seed=2))
    list(sampler.stream(8, 4))
    assert len(made) == once
    with torch.no_grad():
        G(draw())
    assert len(made) == once
    other(draw())
    sampler.refresh()
    sampler(draw())
    assert len(made) == 3 * once
    assert not any(map(is_frozen, [*G.parameters(), *sampler._own.parameters()]))


@pytest.mark.parametrize("write", WRITES)
def test_training_goes_on_until_refresh(write: str) -> None:
    G, z = generator(), draw()
    sampler = Sampler(G)
    before = sampler(z)
    for _ in range(2):
        WRITES[write](G)
        assert torch.equal(sampler(z), before)
        sampler.refresh()
        assert torch.equal(sampler(z), expected(G, z))
        assert not torch.equal(sampler(z), before)
        before = sampler(z)


def test_refresh_follows_a_growing_network() -> None:
    G, z = generator(), draw()
    sampler = Sampler(G, resolution=4)
    steps: list[dict[str, Any]] = [{"resolution": 8, "alpha": 0.25}, {"alpha": torch.tensor(0.5)}, {"alpha": 1.0}]
    told: dict[str, Any] = {}
    for step in [*steps, {"resolution": 16}]:
        WRITES["Adam"](G)
        sampler.refresh(**step)
        told.update(step)
        assert torch.equal(sampler(z), expected(G, z, **told))


def test_the_callers_alpha_is_read_when_it_is_given() -> None:
    G, z, alpha = generator(), draw(), torch.tensor(0.25)
    sampler = Sampler(G, alpha=alpha)
    alpha.fill_(0.75)
    assert torch.equal(sampler(z), expected(G, z, alpha=0.25))


def test_a_refresh_that_cannot_be_changes_nothing() -> None:
    G, z = generator(), draw()
    sampler = Sampler(G)
    before = sampler(z)
    WRITES["lerp_"](G)
    with pytest.raises(ValueError, match="resolution: expected one of"):
        sampler.refresh(resolution=12, alpha=0.5)
    with pytest.raises(ValueError, match="alpha: expected"):
        sampler.refresh(alpha=float("nan"))
    G.to_rgb["16x16"] = pggan_fast.nn.ToRGB(32, 1)
    with pytest.raises(
        ValueError, match=r"G: to_rgb\.16x16\.\w+ had shape \(3,.*and now has \(1,.*; make a new Sampler"
    ):
        sampler.refresh()
    del G.to_rgb["16x16"]
    with pytest.raises(ValueError, match=r"G: to_rgb\.16x16\.\w+ had shape .* and now has None"):
        sampler.refresh()
    assert torch.equal(sampler(z), before)


def test_modes_and_autocast_of_the_caller_do_not_matter() -> None:
    z = draw().requires_grad_()
    with torch.inference_mode():
        G = generator()
        sampler = Sampler(G, alpha=0.5)
    want = expected(G, z, alpha=0.5)
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)):
        with mode():
            for _ in range(2):
                sampler.refresh(alpha=0.5)
                got = sampler(z)
                assert torch.equal(got, want)
                assert got.dtype == torch.float32
                assert not got.requires_grad


def test_z_and_labels_of_other_dtypes_are_converted() -> None:
    G = generator(label_dim=2)
    sampler = Sampler(G, dtype=torch.bfloat16)
    labels = torch.tensor([[1, 0], [0, 1]])
    assert torch.equal(sampler(draw(2).double(), labels), sampler(draw(2).bfloat16(), labels.float()))


def test_no_image_is_no_image() -> None:
    sampler = Sampler(generator())
    assert sampler(draw(0)).shape == (0, 3, 16, 16)
    assert sampler.uint8(draw(0)).shape == (0, 16, 16, 3)


def in_threads(work: Callable[[int], bool], threads: int = 4) -> None:
    together = threading.Barrier(threads)

    def run(i: int) -> bool:
        together.wait()
        return work(i)

    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(run, range(threads))) == [True] * threads


@pytest.mark.parametrize("graphs", [False, True])
def test_four_threads_share_a_sampler(graphs: bool) -> None:
    G = generator(32)
    sampler = captured(G) if graphs else Sampler(G)
    wants = [expected(G, draw(seed=i)) for i in range(4)]
    in_threads(lambda i: all(torch.equal(sampler(draw(seed=i)), wants[i]) for _ in range(6)))
    assert not torch.equal(wants[0], wants[1])


def test_no_thread_sees_half_a_refresh() -> None:
    old, new, z = generator(seed=0), generator(seed=5), draw()
    states = [copy.deepcopy(G.state_dict()) for G in (old, new)]
    wants = [expected(G, z) for G in (old, new)]
    sampler = Sampler(old)

    def work(i: int) -> bool:
        if i == 0:
            for step in range(10):
                old.load_state_dict(states[(step + 1) % 2])
                sampler.refresh()
            return True
        images = [sampler(z) for _ in range(10)]
        return all(any(torch.equal(image, want) for want in wants) for image in images)

    in_threads(work)
    assert torch.equal(sampler(z), wants[0])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_have_the_same_images_and_their_own_weights(copied: Callable[[Sampler], Sampler]) -> None:
    G, z = generator(), draw()
    sampler = captured(G, alpha=0.5)
    want = [sampler(z) for _ in range(2)][-1]  # the second by a graph, which cannot be copied
    twin = copied(sampler)
    WRITES["data_copy"](G)
    sampler.refresh()
    assert torch.equal(twin(z), want)
    twin.refresh()
    assert torch.equal(twin(z), want)  # of the copy's G
    assert not torch.equal(sampler(z), want)
    assert repr(twin) == "Sampler(resolution=16, alpha=0.5, dtype=torch.float32, device='cpu')"


# CUDA graphs, with a stand-in: tests/backends/test_graphs.py has the rest, tests/gpu/test_sampler.py the real ones


def captured(G: Generator, device: StandIn | None = None, **options: Any) -> Sampler:
    sampler = Sampler(G, **options)
    sampler._graphs = Graphs(device or StandIn())
    return sampler


def test_graphs_give_the_same_images() -> None:
    for options, label_dim, told in NETWORKS.values():
        G, device = generator(**options), StandIn()
        sampler = captured(G, device, **told)
        for seed in range(3):
            labels = torch.rand(4, label_dim) if label_dim else None
            want = expected(G, draw(seed=seed), labels, **told)
            assert torch.equal(sampler(draw(seed=seed), labels), want)
            assert torch.equal(sampler.uint8(draw(seed=seed), labels), to_uint8(want))
        assert device.captures == 1
        assert device.replays == 5


def test_a_graph_serves_after_refresh_and_is_checked() -> None:
    G, z, device = generator(), draw(), StandIn()
    sampler = captured(G, device, alpha=0.25)
    sampler(z)
    sampler(z)
    WRITES["lerp_"](G)
    sampler.refresh(alpha=0.5)
    assert torch.equal(sampler(z), expected(G, z, alpha=0.5))
    assert device.captures == 1
    old = sampler(z)
    device.spoil = lambda y: old  # as if it held the old weights
    WRITES["lerp_"](G)
    sampler.refresh()
    with pytest.warns(RuntimeWarning, match="a CUDA graph cannot be used: its output differs"):
        assert torch.equal(sampler(z), expected(G, z, alpha=0.5))


def test_what_launches_depend_on_is_in_the_key() -> None:
    G, z, device = generator(), draw(), StandIn()
    sampler = captured(G, device)

    def twice(n: int = 4) -> None:
        sampler(z[:n])
        sampler(z[:n])

    changes: list[Callable[[], None]] = [
        lambda: None,
        lambda: sampler.refresh(resolution=8),
        lambda: sampler.refresh(alpha=0.5),
        lambda: torch.set_float32_matmul_precision("high"),
    ]
    precision = torch.get_float32_matmul_precision()
    try:
        for captures, change in enumerate(changes, 1):
            change()
            twice()
            assert device.captures == captures
    finally:
        torch.set_float32_matmul_precision(precision)
    with pggan_fast.use_backend("aten"):
        twice()
    assert device.captures == len(changes) + 1
    twice(3)
    assert device.captures == len(changes) + 2


def test_no_graph_above_a_resolution_or_of_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    device = StandIn()
    G = generator(128, fmap_base=64, fmap_max=8)
    monkeypatch.setattr(inference, "GRAPHS_UP_TO", 64)  # a network above 512 is a large one
    high, low = captured(G, device), captured(G, device, resolution=64)
    for _ in range(3):
        high(draw())
        low(draw(0))
    assert device.captures == 0
    low(draw())
    low(draw())
    assert device.captures == 1


# Arguments


def sampler_of(**options: Any) -> Sampler:
    return Sampler(generator(), **options)


ERRORS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "D": (lambda: Sampler(Discriminator(8)), TypeError, r"G: expected a pggan_fast\.models\.Generator, got Discrim"),  # type: ignore[arg-type]
    "meta": (lambda: Sampler(generator().to("meta")), ValueError, "G: expected weights, got those of the meta device"),
    "dtype": (lambda: sampler_of(dtype=torch.int8), TypeError, r"dtype: expected torch\.float32, .*got torch\.int8"),
    "dtype's name": (lambda: sampler_of(dtype="float16"), TypeError, "dtype: expected .*, got 'float16'"),
    "device": (lambda: sampler_of(device="abacus"), ValueError, "device: got 'abacus', which this torch cannot use"),
    "cuda": (lambda: sampler_of(device="cuda:77"), ValueError, "device: got 'cuda:77', which this torch cannot use"),
    "to meta": (lambda: sampler_of(device="meta"), ValueError, "device: expected one that computes, got meta"),
    "resolution": (lambda: sampler_of(resolution=0), ValueError, "resolution: expected one of .*, got 0"),
    "alpha": (lambda: sampler_of(alpha="1"), ValueError, "alpha: expected a number or a 0-d tensor, got '1'"),
    "alphas": (lambda: sampler_of(alpha=torch.ones(2)), ValueError, "alpha: expected a 0-d floating-point tensor"),
    "graphs": (lambda: sampler_of(graphs="yes"), ValueError, "graphs: expected 'auto', True or False, got 'yes'"),
    "graphs on CPU": (lambda: sampler_of(graphs=True), ValueError, "graphs: True needs a CUDA device, got cpu"),
    "z": (lambda: sampler_of()(torch.ones(2, 5)), ValueError, r"z: expected shape \[N, 16\], got \(2, 5\)"),
    "z of uint8": (
        lambda: sampler_of().uint8(torch.ones(5)),
        ValueError,
        r"z: expected a 2-D tensor, got shape \(5,\)",
    ),
    "z's type": (lambda: sampler_of()([0.0]), TypeError, "z: expected a tensor, got list"),  # type: ignore[arg-type]
    "z's dtype": (lambda: sampler_of()(torch.ones(2, 16).int()), TypeError, "z: expected float32, .*got int32"),
    "labels": (lambda: sampler_of()(draw(), torch.ones(4, 1)), ValueError, "labels: expected None"),
    "n": (lambda: sampler_of().stream(0, 4), ValueError, "n: expected an integer >= 1, got 0"),
    "batch": (lambda: sampler_of().stream(4, -1), ValueError, "batch: expected an integer >= 1, got -1"),
    "batch's type": (lambda: sampler_of().stream(4, 2.0), ValueError, r"batch: expected an integer >= 1, got 2\.0"),  # type: ignore[arg-type]
    "seed": (lambda: sampler_of().stream(4, 4, seed=-1), ValueError, "seed: expected an integer >= 0, got -1"),
    "large seed": (lambda: latents(4, seed=1 << 32), ValueError, r"seed: expected an integer < 2\^32"),
    "latents": (lambda: latents(-1), ValueError, "n: expected an integer >= 0, got -1"),
    "start": (lambda: latents(1, start=-1), ValueError, "start: expected an integer >= 0, got -1"),
    "latent_dim": (lambda: latents(1, 0), ValueError, "latent_dim: expected an integer >= 1, got 0"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_argument(name: str) -> None:
    make, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        make()


def test_errors_of_labels() -> None:
    sampler = Sampler(generator(label_dim=3))
    with pytest.raises(ValueError, match=r"labels: expected shape \[N, 3\], got None"):
        sampler(draw())
    with pytest.raises(ValueError, match=r"labels: expected shape \(4, 3\), got \(5, 3\)"):
        sampler.uint8(draw(), torch.ones(5, 3))
    with pytest.raises(TypeError, match="labels: expected a tensor, got list"):
        sampler(draw(), [1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"labels: expected shape \[N, 3\], got None"):
        sampler.stream(4, 2)
    with pytest.raises(ValueError, match=r"labels: expected shape \(4, 3\), got \(1, 3\)"):
        sampler.stream(4, 2, labels=torch.ones(1, 3))


def test_the_package_imports_it_when_it_is_asked_for() -> None:
    code = (
        "import sys, pggan_fast; assert 'pggan_fast.models' not in sys.modules; print(pggan_fast.inference.Sampler);"
        "assert not hasattr(pggan_fast, 'inferences')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pggan_fast.inference.Sampler" in done.stdout
