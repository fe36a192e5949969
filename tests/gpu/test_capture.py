"""CUDA graphs: captured once after a warm-up, replayed on new inputs, the same as uncaptured."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from device_networks import Data, Results, close, d_gradients, equal, g_gradients, generate, networks

WORK = {
    "G forward": lambda G, D, data: generate(G, data),
    "D step": d_gradients,
    "G step": g_gradients,
}


def capture(f: Callable[[], Results]) -> tuple[torch.cuda.CUDAGraph, Results]:
    """The graph of f and its outputs, after three runs on a side stream: compiled, loaded, workspaces allocated."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            f()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = f()
    return graph, results


@pytest.mark.parametrize("work", WORK)
def test_a_replay_equals_an_uncaptured_run(device: str, backend: str, work: str) -> None:
    G, D = networks(backend, device)
    data, run = Data.draw(0, device), WORK[work]
    graph, results = capture(lambda: run(G, D, data))
    replays: list[Results] = []
    for seed in (1, 2):
        data.copy_(Data.draw(seed, device))  # alpha too: it is read on the device
        graph.replay()
        want = run(G, D, data)
        if backend == "triton":
            assert equal(results, want)
        else:  # cuBLAS and cuDNN, which have wide layers of "cuda" too, may take other algorithms in a capture
            close(results, want)
        replays.append({k: None if t is None else t.clone() for k, t in results.items()})
    assert not equal(*replays), "the replay does not see new inputs"


def test_new_weights_are_seen_by_a_replay(device: str, ours: str) -> None:
    """Weights are packed in the graph, not once before it."""
    G, _ = networks(ours, device)
    data = Data.draw(0, device)
    graph, results = capture(lambda: generate(G, data))
    with torch.no_grad():
        for p in G.parameters():
            p.mul_(0.5)
    graph.replay()
    if ours == "triton":
        assert equal(results, generate(G, data))
    else:
        close(results, generate(G, data))
