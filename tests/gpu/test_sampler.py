"""Sampler on a CUDA device: graphs, captured and checked; refreshed weights, threads, and streams to the host."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from device_networks import LATENT, RESOLUTION, Results, close, equal, networks
from torch import Tensor

from pggan_fast.backends import graphs
from pggan_fast.inference import Sampler, latents, to_uint8
from pggan_fast.models.levels import block_of


@pytest.fixture(autouse=True)
def no_fallback() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*a CUDA graph cannot be used")
        yield


def image(y: Tensor) -> Results:
    return {"image": y}


def agree(got: Tensor, want: Tensor, backend: str) -> None:
    """cuBLAS and cuDNN, which have wide layers of "cuda" too, may take other algorithms in a capture."""
    if backend == "triton":
        assert equal(image(got), image(want))
    else:
        close(image(got), image(want))


def kept(sampler: Sampler) -> list[graphs.Graph]:
    assert sampler._graphs is not None
    return list(sampler._graphs._graphs.values())


@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_replays_are_the_uncaptured_images(device: str, backend: str, alpha: float) -> None:
    G, _ = networks(backend, device)
    sampler, plain = Sampler(G, alpha=alpha), Sampler(G, alpha=alpha, graphs=False)
    results = []
    for seed in range(4):
        z = latents(4, LATENT, seed=seed, device=device)
        results.append(sampler(z))
        agree(results[-1], plain(z), backend)
        assert (sampler.uint8(z).int() - plain.uint8(z).int()).abs().max() <= 1
    assert len(kept(sampler)) == 1
    assert plain._graphs is None
    with torch.no_grad():
        agree(results[-1], G(latents(4, LATENT, seed=3, device=device), alpha=alpha), backend)
    assert not torch.equal(results[-1], results[-2])


def test_a_graph_sees_refreshed_weights_and_alpha(device: str, backend: str) -> None:
    G, _ = networks(backend, device)
    sampler, z = Sampler(G, alpha=0.25, graphs=True), latents(4, LATENT, device=device)
    before = sampler(z)
    (graph,) = kept(sampler)
    with torch.no_grad():
        for p in G.parameters():
            p.mul_(0.5).add_(0.1)
    agree(sampler(z), before, backend)
    sampler.refresh(alpha=0.75)
    for _ in range(2):
        agree(sampler(z), Sampler(G, alpha=0.75, graphs=False)(z), backend)
    assert kept(sampler) == [graph]
    assert not torch.equal(sampler(z), before)


def test_the_latest_graphs_are_kept(device: str) -> None:
    sampler = Sampler(networks(None, device)[0], graphs=True)
    for n in range(1, graphs.KEPT + 3):
        z = latents(n, LATENT, device=device)
        agree(sampler(z), Sampler(sampler._source, graphs=False)(z), "aten")
    assert len(kept(sampler)) == graphs.KEPT


def test_what_synchronises_cannot_be_captured_and_is_run_uncaptured(device: str) -> None:
    G, _ = networks(None, device)

    def synchronise(layer: torch.nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        float(y.sum())

    block_of(G.blocks, 4)["conv"].register_forward_hook(synchronise)
    stream, z = torch.cuda.current_stream(), latents(4, LATENT, device=device)
    want = Sampler(G, graphs=False)(z)
    with pytest.raises(RuntimeError, match="a CUDA graph cannot be used: it failed"):
        Sampler(G, graphs=True)(z)
    assert torch.cuda.current_stream() == stream
    sampler = Sampler(G)
    close(image(sampler(z)), image(want))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(3):
            close(image(sampler(z)), image(want))
    assert len([w for w in warned if "a CUDA graph cannot be used: it failed" in str(w.message)]) == 1
    assert torch.cuda.current_stream() == stream
    assert torch.randn(8, device=device).isfinite().all()  # torch's generator has left the capture too


def test_a_graph_that_does_nothing_is_found(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(self: graphs.Cuda, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        return lambda: None, run()

    monkeypatch.setattr(graphs.Cuda, "capture", capture)
    with pytest.raises(RuntimeError, match="a CUDA graph cannot be used: its output differs"):
        Sampler(networks(None, device)[0], graphs=True)(latents(4, LATENT, device=device))


def test_within_the_users_capture_the_launches_are_captured(device: str) -> None:
    sampler = Sampler(networks(None, device)[0], graphs=True)
    z = latents(4, LATENT, device=device)
    sampler(z)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        sampler._image(z, None)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = sampler(z)
    z.copy_(latents(4, LATENT, seed=1, device=device))
    graph.replay()
    close(image(y), image(sampler(z)))


def test_threads_on_streams_of_their_own_share_a_sampler(device: str, backend: str) -> None:
    sampler = Sampler(networks(backend, device)[0])
    zs = [latents(4, LATENT, seed=seed, device=device) for seed in range(4)]
    wants = [sampler(z) for z in zs]
    torch.cuda.synchronize()

    def work(i: int) -> bool:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                close(image(sampler(zs[i])), image(wants[i]))
        return True

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [True] * 4
    assert len(kept(sampler)) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_network_on_the_cpu_is_sampled_on_the_device(device: str, dtype: torch.dtype) -> None:
    G, _ = networks(None, "cpu")
    sampler = Sampler(G, device=device, dtype=dtype)
    z = latents(4, LATENT)
    for _ in range(3):
        got = sampler(z)
    assert (got.device.type, got.dtype) == ("cuda", dtype)
    with torch.no_grad():
        close(image(got.cpu().float()), image(G(z)), 1e-3 if dtype == torch.float32 else 0.1)
    assert next(G.parameters()).device.type == "cpu"


def test_a_network_on_the_device_is_sampled_on_the_cpu(device: str) -> None:
    G, _ = networks(None, device)
    z = latents(4, LATENT)
    got = Sampler(G, device="cpu")(z.to(device))
    with torch.no_grad():
        assert torch.equal(got, G.cpu()(z))


@pytest.mark.parametrize("batch", [1, 3, 40])
def test_a_stream_reaches_the_host_whole_and_in_order(device: str, backend: str, batch: int) -> None:
    """All batches are kept, so a buffer that is written twice shows; one at a time they are what uint8 gives."""
    sampler = Sampler(networks(backend, device)[0])
    batches = list(sampler.stream(32, batch, seed=7))
    assert all(b.device.type == "cpu" and not b.is_pinned() and b.dtype == torch.uint8 for b in batches)
    pixels = torch.cat(batches)
    assert pixels.shape == (32, RESOLUTION, RESOLUTION, 3)
    z = latents(32, LATENT, seed=7, device=device)
    want = torch.cat([to_uint8(sampler._image(part, None)) for part in z.split(batch)]).cpu()
    assert (pixels.int() - want.int()).abs().max() <= 1
    assert len(pixels.flatten(1).unique(dim=0)) == 32


def test_a_copy_that_does_not_wait_for_its_batch_would_be_seen(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: the side stream copies while the batch is not computed. Each seed is new to the device's memory."""
    G, _ = networks(None, "cpu")
    sampler = Sampler(G, device=device, graphs=False)
    real = sampler._image

    def late(z: Tensor, labels: Tensor | None) -> Tensor:
        torch.cuda._sleep(200_000_000)
        return real(z, labels)

    def off_by(seed: int) -> int:
        (want,), (got,) = (s.stream(4, 4, seed=seed) for s in (Sampler(G), sampler))
        return int((want.int() - got.int()).abs().max())

    monkeypatch.setattr(sampler, "_image", late)
    assert off_by(1) <= 1
    monkeypatch.setattr(torch.cuda.Stream, "wait_stream", lambda *args: None)
    assert off_by(2) > 1
