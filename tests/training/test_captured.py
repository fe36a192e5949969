"""Steps as graphs, with a stand-in for CUDA's: captured, replayed, checked and dropped; trainings stay the same."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_trainings import Poisoned, images, state_of, trainer
from standin_graphs import StandIn

from pggan_fast import BackendUnavailable
from pggan_fast.backends.graphs import WARM_UPS
from pggan_fast.training.captured import Steps, _State, wanted
from pggan_fast.training.distributed import World
from pggan_fast.training.trainer import OutOfMemory, Trainer

# Without minibatch_repeats an iteration is a step of D and one of G. The fade, 64 images, is 8 of them.
ONE: dict[str, Any] = {"minibatch_repeats": 1}
FADE = 64  # images seen when the second level begins to fade in


def captured(device: StandIn | None = None, demanded: bool = True, dataset: Any = None, **options: Any) -> Trainer:
    ours = trainer(dataset, **{**ONE, **options})
    device = device or StandIn()
    ours._captured = Steps(lambda: device, ours.config.precision, demanded)
    return ours


def assert_same(ours: Trainer, plain: Trainer) -> None:
    """In everything that a checkpoint has. The rate is float32 in a graph."""
    got, want = state_of(ours), state_of(plain)
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        told = f"{name}: {{}}".format
        torch.testing.assert_close(got[name], tensor, rtol=1e-6, atol=1e-7, equal_nan=True, msg=told)
    assert ours.skipped == plain.skipped


def until(ours: Trainer, images: int) -> Trainer:
    while ours.images < images:
        ours.iteration()
    return ours


@functools.cache
def whole() -> Trainer:
    """A training to its end, without graphs."""
    return until(trainer(**ONE), 320)


def through_bytes(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return dict(torch.load(file, weights_only=True))


KINDS: list[dict[str, Any]] = [
    {}, {"labels": True}, {"precision": "bf16"}, {"loss": "lsgan"}, {"loss": "nonsaturating-r1"}, {"batch_gpu": 4},
    {"d_repeats": 2}, {"minibatch_repeats": 3},
]  # fmt: skip


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_training_is_the_uncaptured_one(options: dict[str, Any]) -> None:
    """Replays see new images, latents, labels, alpha and rate: all stages, compared after each iteration."""
    options = {**ONE, **options}
    dataset, device = images(labels=options.pop("labels", False)), StandIn()
    ours, plain = captured(device, dataset=dataset, **options), trainer(dataset, **options)
    while not plain.done:
        told: list[list[tuple[str, float]]] = [[], []]
        for each, found in zip((ours, plain), told, strict=True):
            each.iteration(lambda name, value, found=found: found.append((name, float(value))))  # type: ignore[misc]
        assert [name for name, _ in told[0]] == [name for name, _ in told[1]]
        torch.testing.assert_close([v for _, v in told[0]], [v for _, v in told[1]], rtol=1e-5, atol=1e-6)
        assert_same(ours, plain)
    # of D and G: 4x4, its successor fading in and faded; with two steps of D for one, G's are too few in one of them
    assert device.captures == (5 if "d_repeats" in options else 6)
    assert device.replays > 12


def test_a_key_is_captured_after_its_warm_ups_and_then_replayed() -> None:
    device = StandIn()
    ours, seen = captured(device), []
    for _ in range(WARM_UPS + 3):
        ours.iteration()
        seen.append((device.captures, device.replays))
    assert seen == [(0, 0)] * WARM_UPS + [(2, 2), (2, 4), (2, 6)]


def test_another_rate_is_read_by_a_replay() -> None:
    device = StandIn()
    plan = {"lr_rampup_kimg": 0.064}  # it changes in each iteration
    ours, plain = captured(device, schedule=plan), trainer(schedule=plan, **ONE)
    until(ours, FADE), until(plain, FADE)
    assert device.replays > 4
    assert_same(ours, plain)


def test_what_replays_report_is_the_callers_own() -> None:
    """A later replay writes over a graph's output."""
    told: list[list[Any]] = [[], []]
    for each, found in zip((captured(), trainer(**ONE)), told, strict=True):
        while each.images < FADE:
            each.iteration(lambda name, value, found=found: found.append(value))  # type: ignore[misc]
    torch.testing.assert_close([float(v) for v in told[0]], [float(v) for v in told[1]], rtol=1e-5, atol=1e-6)


def test_the_optimisers_are_as_they_were() -> None:
    """Between steps nothing in them tells of graphs, so neither do checkpoints."""
    ours, plain = until(captured(), FADE), until(trainer(**ONE), FADE)
    for name, optimizer in ours.optimizers.items():
        assert not hasattr(optimizer, "found_inf")
        assert optimizer.state_dict()["param_groups"] == plain.optimizers[name].state_dict()["param_groups"]


def test_a_replay_skips_a_step_on_the_device() -> None:
    """Parameters, moments and their counts stay, G_ema moves on, the step is counted; the next one is taken."""
    device = StandIn()
    ours, plain = until(captured(device), 48), until(trainer(**ONE), 48)
    assert device.captures == 2
    for each in (ours, plain):
        each.loader = Poisoned(each.loader)  # type: ignore[assignment]
        before = {name: t for name, t in state_of(each).items() if name.startswith((".D.", ".optimizers.D."))}
        told: dict[str, float] = {}
        each.iteration(lambda name, value, told=told: told.update({name: float(value)}))  # type: ignore[misc]
        assert (told["Progress/skipped_steps_D"], told["Progress/skipped_steps_G"]) == (1.0, 0.0)
        assert each.skipped == 1
        after = state_of(each)
        assert len(before) > 10
        assert [name for name, t in before.items() if not torch.equal(after[name], t)] == []
    assert_same(ours, plain)
    assert type(ours.state_dict()["skipped"]) is int
    for each in (ours, plain):
        each.iteration()
    assert ours.skipped == 1
    assert (device.captures, device.replays) == (2, 10)
    assert_same(ours, plain)


def test_a_skipped_step_is_no_proof_of_a_graph() -> None:
    device = StandIn()
    ours = until(captured(device), 8 * WARM_UPS)
    ours.loader = Poisoned(ours.loader)  # type: ignore[assignment]
    ours.iteration()
    assert (ours.skipped, device.captures) == (1, 1)  # G's
    ours.iteration()
    assert (ours.skipped, device.captures) == (1, 2)


class Constant(StandIn):
    """Replays write what the capture wrote."""

    def capture(self, run: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        return lambda: None, run()


class Sleeping(StandIn):
    """Replays give the right losses, and write nothing else."""

    def __init__(self, written: Callable[[], list[torch.Tensor]]) -> None:
        super().__init__()
        self._written = written

    def capture(self, run: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        replay, output = super().capture(run)

        def idle() -> None:
            before = [t.clone() for t in self._written()]
            replay()
            torch._foreach_copy_(self._written(), before)

        return idle, output


def parameters(net: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach() for p in net.parameters()]


def moments(ours: Trainer, kind: str) -> list[torch.Tensor]:
    return [held[kind] for held in ours.optimizers["D"].state.values()]


FAULTS: dict[str, tuple[str, Callable[[Trainer], StandIn]]] = {
    "other losses": ("its output differs by", lambda ours: StandIn(lambda y: y + 1)),
    "no run": ("its output differs by", lambda ours: Constant()),
    "no capture": ("it failed: not permitted", lambda ours: StandIn(refuse=RuntimeError("not permitted"))),
    "no step": ("the parameters that it wrote are", lambda ours: Sleeping(lambda: parameters(ours.D))),
    "no mean": ("the weights of G_ema that it wrote are", lambda ours: Sleeping(lambda: parameters(ours.G_ema))),
    "no count": ("the step that it wrote are", lambda ours: Sleeping(lambda: moments(ours, "step"))),
    "no moment": ("the exp_avg that it wrote are", lambda ours: Sleeping(lambda: moments(ours, "exp_avg"))),
    "two steps": (
        "the parameters that it wrote are",
        lambda ours: StandIn(after=lambda: [p.add_(p.sign(), alpha=0.002) for p in parameters(ours.D)] and None),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_where_a_graph_cannot_be_used_a_training_goes_on_the_same_after_one_warning(fault: str) -> None:
    reason, make = FAULTS[fault]
    ours = captured(demanded=False)
    device = make(ours)
    ours._captured = Steps(lambda: device, "fp32")
    until(ours, 8 * WARM_UPS)
    with pytest.warns(RuntimeWarning, match=rf"a CUDA graph cannot be used: D's step: {reason}.*one by one") as told:
        ours.iteration()
    assert [w.filename for w in told] == [__file__]
    replays = device.replays
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while not ours.done:
            ours.iteration()
    assert device.replays == replays
    assert_same(ours, whole())


@pytest.mark.parametrize("fault", ["other losses", "no capture", "no step"])
def test_where_it_was_demanded_or_under_strict_that_is_an_error(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reason, make = FAULTS[fault]
    for demanded, error in ((True, RuntimeError), (False, BackendUnavailable)):
        ours = captured(backend="aten")  # an "auto" without the native module is an error under strict, too
        device = make(ours)
        ours._captured = Steps(lambda: device, "fp32", demanded)  # noqa: B023
        until(ours, 8 * WARM_UPS)
        monkeypatch.setenv("PGGAN_FAST_STRICT", "01"[not demanded])
        with pytest.raises(error, match=f"D's step: {reason}"):
            ours.iteration()


def test_a_capture_that_does_not_fit_is_taken_in_parts_from_the_state_before() -> None:
    device, said = StandIn(refuse=torch.OutOfMemoryError("CUDA out of memory")), []
    ours, plain = captured(device, say=said.append), trainer(**ONE)
    for each in (ours, plain):
        until(each, 8 * WARM_UPS)
    ours.iteration()
    assert said == ["out of memory at 4x4 with 8 images at a time: going on with 4"]
    plain.parts = {4: 2}
    plain.iteration()
    assert_same(ours, plain)
    device.refuse = None
    until(ours, FADE), until(plain, FADE)
    assert device.captures == 2  # of parts
    assert_same(ours, plain)


def test_a_first_step_that_fits_in_no_parts_is_told() -> None:
    ours = captured(StandIn(refuse=torch.OutOfMemoryError("CUDA out of memory")), batch_gpu=4)
    with pytest.raises(OutOfMemory, match="out of memory at 4x4 with 4 images at a time"):
        until(ours, 8 * WARM_UPS + 8)


@pytest.mark.parametrize("when", ["copies", "capture"])
def test_where_it_is_not_demanded_a_capture_that_does_not_fit_is_left(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step itself does: not in parts, from the state that it made."""
    full = torch.OutOfMemoryError("CUDA out of memory")
    ours, plain = captured(StandIn(refuse=full if when == "capture" else None), demanded=False), trainer(**ONE)
    for each in (ours, plain):
        until(each, 8 * WARM_UPS)

    def no_memory(self: Any) -> None:
        raise full

    if when == "copies":
        monkeypatch.setattr(_State, "now", no_memory)
    with pytest.warns(RuntimeWarning, match="a CUDA graph cannot be used: D's step: it failed: CUDA out of memory"):
        ours.iteration()
    assert not ours.parts
    assert_same(until(ours, FADE), until(plain, FADE))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TypeError("a fault")])
def test_an_interrupted_capture_leaves_the_state_before_the_step(error: BaseException) -> None:
    device = StandIn()

    def interrupted(run: Callable[[], torch.Tensor]) -> Any:
        run()  # a warm-up, on other inputs
        raise error

    device.capture = interrupted  # type: ignore[method-assign]
    ours = until(captured(device), 8 * WARM_UPS)
    before = {name: t.clone() for name, t in state_of(ours).items() if name.startswith((".D.", ".optimizers.D."))}
    with pytest.raises(type(error)):
        ours.iteration()
    after = state_of(ours)
    assert [name for name, t in before.items() if not torch.equal(after[name], t)] == []


def test_a_state_that_is_refused_leaves_no_graph_of_the_one_before() -> None:
    ours = until(captured(), FADE)
    state = ours.state_dict()
    state["optimizers"]["G"]["param_groups"][0]["eps"] = 1.0
    with pytest.raises(ValueError, match="optimizers: eps"):
        ours.load_state_dict(state)
    assert ours._captured is not None
    assert not ours._captured._graphs


def test_what_launches_depend_on_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    device = StandIn()
    ours = until(captured(device), FADE)
    changes: list[Callable[[], None]] = [
        lambda: ours.parts.update({4: 2}),
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: monkeypatch.setattr(torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark),
    ]
    precision = torch.get_float32_matmul_precision()
    try:
        for count, change in enumerate(changes, 1):
            ours.images = 0
            change()
            until(ours, 40)
            assert device.captures == 2 + 2 * count
    finally:
        torch.set_float32_matmul_precision(precision)


REPLACED: dict[str, Callable[[Trainer], None]] = {
    "a state is loaded": lambda ours: ours.load_state_dict(ours.state_dict()),
    "Adam forgets": lambda ours: setattr(ours, "lod", 0.0),  # as if a level began now
}


@pytest.mark.parametrize("replaced", REPLACED)
def test_graphs_of_moments_that_are_replaced_are_dropped(replaced: str) -> None:
    """In the midst of a stage, whose key stays: captured again after its warm-ups, in memory of their own."""
    devices: list[StandIn] = []

    def make() -> StandIn:
        devices.append(StandIn())
        return devices[-1]

    ours = captured()
    ours._captured = steps = Steps(make, "fp32", demanded=True)
    until(ours, 32)
    assert sorted(steps._graphs) == ["D", "G"]
    ours.images = 0
    REPLACED[replaced](ours)
    for _ in range(WARM_UPS):
        ours.iteration()
        assert not steps._graphs
    ours.iteration()
    assert [device.captures for device in devices] == [2, 2]


@pytest.mark.parametrize("at", [8, 48, 96, 160])
@pytest.mark.parametrize("graphs", [False, True])
def test_a_checkpoint_with_graphs_goes_on_without_and_the_other_way_round(at: int, graphs: bool) -> None:
    make = {True: captured, False: lambda: trainer(**ONE)}
    again = make[not graphs]()
    again.load_state_dict(through_bytes(until(make[graphs](), at).state_dict()))
    assert again.images == at
    assert_same(until(again, 320), whole())


@pytest.mark.parametrize(
    ("graphs", "device", "size", "precision", "expected"),
    [
        (None, "cpu", 1, "fp32", False), (False, "cuda", 1, "fp32", False), (None, "cuda", 1, "fp32", True),
        (True, "cuda", 1, "bf16", True), (None, "cuda", 2, "fp32", False), (None, "cuda", 1, "fp16", False),
    ],
)  # fmt: skip
def test_where_there_are_graphs(graphs: bool | None, device: str, size: int, precision: str, expected: bool) -> None:
    assert wanted(graphs, World(0, size, torch.device(device)), precision) is expected


@pytest.mark.parametrize(
    ("device", "size", "precision"), [("cpu", 1, "fp32"), ("cuda", 2, "fp32"), ("cuda", 1, "fp16")]
)
def test_graphs_where_there_can_be_none_are_refused(device: str, size: int, precision: str) -> None:
    told = f"graphs: True needs a CUDA device, one process .* got {device}, {size} of them and {precision}"
    with pytest.raises(ValueError, match=told):
        wanted(True, World(0, size, torch.device(device)), precision)


def test_a_trainer_on_the_cpu_refuses_them() -> None:
    with pytest.raises(ValueError, match="graphs: True needs a CUDA device"):
        trainer(graphs=True)
    assert trainer()._captured is None
