"""One training: its networks and everything else that changes, and the official iteration over them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pggan_fast.backends import report, tables
from pggan_fast.data import Dataset, Loader
from pggan_fast.errors import counted, line
from pggan_fast.models import Discriminator, Generator
from pggan_fast.networks import Networks
from pggan_fast.ops import _checks
from pggan_fast.training import captured, ema
from pggan_fast.training.config import PRECISIONS, Config, parts_of
from pggan_fast.training.distributed import World
from pggan_fast.training.schedule import Stage, resets
from pggan_fast.training.step import StepResult, d_step, g_step

__all__ = ["OutOfMemory", "Trainer"]

# Of float16's gradients, as the official optimiser scales them: up by 2^0.0005 a step, down by 2 where one overflows.
# It begins at 2^64 and loses its first 50 steps so.
_SCALE = {"init_scale": 2.0**16, "growth_factor": 2.0**0.0005, "backoff_factor": 0.5, "growth_interval": 1}
Report = Callable[[str, Tensor | float], None]


class Trainer:
    """G, D, G_ema, their optimisers and where the schedule, the images and the random numbers are.

    All processes draw the same random numbers, for the whole minibatch, and take every size-th of them from the
    rank-th, as the loader does with images: a training does not depend on how many processes share it, beyond rounding.

    Args:
        backend: of all layers, see `Generator`. batch_gpu: the most reals of a process in one pass, which D may take
            with as many fakes; more are added up in parts. cache, workers: see `Loader`.
        graphs: run steps as CUDA graphs, see `captured`; None: on a CUDA device, in one process, unless in fp16. Where
            one cannot be used, None warns once and goes on without, and True raises RuntimeError.
    Raises ValueError where a minibatch cannot be shared evenly, or does not fit the minibatch deviation's groups, or
    where `graphs` is True and there can be none.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        world: World | None = None,
        *,
        backend: str | None = None,
        batch_gpu: int | None = None,
        cache: Literal["auto", "always", "never"] = "auto",
        workers: int = 2,
        graphs: bool | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.config, self.dataset, self.world = config, dataset, world or World()
        self._say, self._batch_gpu = say, batch_gpu
        self.images = 0
        self._skipped: int | Tensor = 0  # a tensor where the device counts
        self.lod: float | None = None  # of the last iteration
        self.parts: dict[int, int] = {}  # by resolution, once memory was short
        config.check_batches(self.world.size, batch_gpu)
        self._captured: captured.Steps | None = None
        if captured.wanted(graphs, self.world, config.precision):
            self._captured = captured.of_device(self.world.device, config.precision, demanded=graphs is True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.G = Generator(**config.G, backend=backend)
            self.D = Discriminator(**config.D, backend=backend)
        device = self.world.device
        self.G, self.D = self.G.to(device), self.D.to(device)
        self.G_ema = ema.averaged(self.G)
        self.optimizers = {name: self._adam(net) for name, net in (("G", self.G), ("D", self.D))}
        self.scalers = {name: self._scaler() for name in self.optimizers}
        self.random = torch.Generator().manual_seed(config.seed)
        self.loader = Loader(
            dataset,
            batch=1,
            device=device,
            seed=config.seed,
            rank=self.world.rank,
            world_size=self.world.size,
            mirror=config.mirror,
            cache=cache,
            workers=workers,
        )

    def _adam(self, net: nn.Module) -> torch.optim.Adam:
        c = self.config
        return torch.optim.Adam(net.parameters(), c.schedule.lr_base, betas=c.betas, eps=c.adam_eps, fused=True)

    def _scaler(self) -> torch.amp.GradScaler | None:
        if self.config.precision != "fp16":
            return None
        return torch.amp.GradScaler(self.world.device.type, **_SCALE)

    def _parts(self, resolution: int, batch: int) -> int:
        return max(parts_of(batch, self._batch_gpu), self.parts.get(resolution, 1))

    @property
    def stage(self) -> Stage:
        """Where the schedule is."""
        return self.config.schedule.at(self.images, self.world.size)

    @property
    def done(self) -> bool:
        return self.images >= self.config.schedule.total_kimg * 1000

    @property
    def skipped(self) -> int:
        """Steps whose gradients were not finite. Waits for the device."""
        return int(self._skipped)

    def iteration(self, report: Report = lambda name, value: None) -> Stage:
        """minibatch_repeats pairs of steps by one look at the schedule; `report` gets the losses, by name.

        Each: d_repeats times a step of D, after which G_ema follows, then one of G. So G_ema sees G before its step.
        """
        stage = self.stage
        if resets(self.lod, stage.lod):
            for optimizer in self.optimizers.values():
                optimizer.state.clear()
            self.forget_graphs()
        self.lod = stage.lod
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = stage.lr
        # filled there: a copy from here would be waited for
        alpha = None if stage.alpha == 1.0 else torch.full((), stage.alpha, device=self.world.device)
        batch = stage.minibatch // self.world.size
        self.loader.set(resolution=stage.resolution, alpha=1.0 if alpha is None else alpha, batch=batch)
        for _ in range(self.config.minibatch_repeats):
            for _ in range(self.config.d_repeats):
                self._train_d(stage, alpha, report)
                self.images += stage.minibatch
            self._train_g(stage, alpha, report)
        return stage

    def _train_d(self, stage: Stage, alpha: Tensor | None, report: Report) -> None:
        reals, labels = next(self.loader)
        z, u = self._latents(stage.minibatch), self._mine(torch.rand(stage.minibatch, 1, 1, 1, generator=self.random))
        result = self._step("D", stage, (alpha, reals, z, labels, u))
        for name, term in result.terms.items():
            report(f"Loss/D/{name}", term)
        self._count(result, "D", report)

    def _train_g(self, stage: Stage, alpha: Tensor | None, report: Report) -> None:
        z, labels = self._latents(stage.minibatch), self._labels(stage.minibatch)
        result = self._step("G", stage, (alpha, z, labels))
        report("Loss/G/loss", result.loss)
        self._count(result, "G", report)

    def _count(self, result: StepResult, name: str, report: Report) -> None:
        skipped = 1 - result.applied
        self._skipped = self._skipped + skipped
        report(f"Progress/skipped_steps_{name}", skipped)

    def _d(self, options: dict[str, Any], reals: Tensor, z: Tensor, labels: Tensor | None, u: Tensor) -> StepResult:
        """D's step, after which G_ema follows."""
        optimizer, scaler = self.optimizers["D"], self.scalers["D"]
        result = d_step(self.G, self.D, optimizer, reals, z, labels, u=u, scaler=scaler, **options)
        ema.update(self.G_ema, self.G, self.config.ema_beta)
        return result

    def _g(self, options: dict[str, Any], z: Tensor, labels: Tensor | None) -> StepResult:
        return g_step(self.G, self.D, self.optimizers["G"], z, labels, scaler=self.scalers["G"], **options)

    def _step(self, name: str, stage: Stage, inputs: tuple[Tensor | None, ...]) -> StepResult:
        """A step; where memory does not suffice, the same in twice as many parts, from now on at this resolution.

        inputs: alpha, None once the level has faded in, and those of `_d` or `_g`.
        """
        while True:
            local = stage.minibatch // self.world.size
            parts = self._parts(stage.resolution, local)
            try:
                return self._run(name, stage, parts, inputs)
            except RuntimeError as error:
                if not captured.is_out_of_memory(error):
                    raise
                where = f"{stage.resolution}x{stage.resolution} with {counted(-(-local // parts), 'image')} at a time"
                if self.world.size > 1 or parts * 2 > local or not self.config.fits_groups(local, parts * 2):
                    raise OutOfMemory(f"out of memory at {where}; try a smaller --batch-gpu or --batch") from error
            for each, optimizer in self.optimizers.items():
                optimizer.zero_grad(set_to_none=True)
                if (scaler := self.scalers[each]) is not None:
                    scaler.scale(torch.zeros((), device=self.world.device))  # before it no scale can be set
                    scaler.update(scaler.get_scale())  # which forgets that it has unscaled these gradients
            self.forget_graphs()
            if self.world.device.type == "cuda":
                torch.cuda.empty_cache()
            self.parts[stage.resolution] = parts * 2
            self._say(f"out of memory at {where}: going on with {-(-local // (parts * 2))}")

    def _run(self, name: str, stage: Stage, parts: int, inputs: tuple[Tensor | None, ...]) -> StepResult:
        options = {
            "resolution": stage.resolution,
            "autocast": PRECISIONS[self.config.precision],
            "objective": self.config.objective,
            "parts": parts,
            "reduce": self.world.reduce,
        }
        function: Callable[..., StepResult] = self._d if name == "D" else self._g

        def step(alpha: Tensor | None, *others: Any) -> StepResult:
            return function({**options, "alpha": 1.0 if alpha is None else alpha}, *others)

        if self._captured is None:
            return step(*inputs)
        key = (stage.resolution, inputs[0] is None, stage.minibatch, parts)
        return self._captured.run(name, key, step, self.optimizers[name], inputs, lambda: self._written(name))

    def _written(self, name: str) -> captured.Written:
        """What a step writes."""
        net, optimizer = self._nets()[name], self.optimizers[name]
        moments = {
            kind: [held[kind] for held in optimizer.state.values()] for kind in ("step", "exp_avg", "exp_avg_sq")
        }
        mean = list(self.G_ema.state_dict().values()) if name == "D" else []
        buffers = [*self.G.buffers(), *self.D.buffers()]
        return {"parameters": list(net.parameters()), **moments, "weights of G_ema": mean, "buffers": buffers}

    def forget_graphs(self) -> None:
        """Give the memory of captured steps back; they are captured again."""
        if self._captured is not None:
            self._captured.forget()

    def _latents(self, count: int) -> Tensor:
        return self._mine(torch.randn(count, int(self.G.latent_dim), generator=self.random))

    def _labels(self, count: int) -> Tensor | None:
        """Labels of images drawn from the set."""
        if self.dataset.labels is None:
            return None
        numbers = torch.randint(len(self.dataset), (count,), generator=self.random)
        return self.loader.labels_of(self._mine(numbers))

    def _mine(self, drawn: Tensor) -> Tensor:
        """This process's rows, on its device."""
        mine = drawn[self.world.rank :: self.world.size]
        if self.world.device.type == "cuda":  # from pageable memory the copy would wait for the last step
            mine = mine.pin_memory()
        return mine.to(self.world.device, non_blocking=True)

    def networks(self, **source: Any) -> Networks:
        return Networks(self.G, self.D, self.G_ema, source)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on takes, for `torch.save` and `torch.load(weights_only=True)`."""
        return {
            "config": self.config.as_json(),
            "versions": report.versions(),
            "kernels": tables.fingerprint(self.world.device),
            "images": self.images,
            "lod": self.lod,
            "skipped": self.skipped,
            "parts": dict(self.parts),
            "random": self.random.get_state(),
            "loader": self.loader.state_dict(),
            **{name: net.state_dict() for name, net in self._nets().items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "scalers": {name: scaler.state_dict() for name, scaler in self.scalers.items() if scaler is not None},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where that training was, with any number of processes. Raises ValueError, KeyError, RuntimeError."""
        self.forget_graphs()  # the moments will be new tensors
        for name, net in self._nets().items():
            net.load_state_dict(state[name])
        for name, optimizer in self.optimizers.items():
            _restore(optimizer, state["optimizers"][name])
        for name, scaler in self.scalers.items():
            if scaler is not None:
                scaler.load_state_dict(state["scalers"][name])
        self.random.set_state(state["random"])
        self.loader.load_state_dict(state["loader"])
        _checks.counts(0, images=state["images"], skipped=state["skipped"])
        if state["lod"] is not None and not 0.0 <= state["lod"] <= 64.0:
            raise ValueError(f"lod: expected a level of detail, got {state['lod']}")
        self.images, self.lod, self._skipped = state["images"], state["lod"], state["skipped"]
        self.parts = {int(resolution): int(parts) for resolution, parts in state["parts"].items()}

    def _nets(self) -> dict[str, nn.Module]:
        return {"G": self.G, "D": self.D, "G_ema": self.G_ema}


def _restore(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Its moments; torch looks at the number of parameters alone. Raises ValueError where they are of others."""
    before = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(copy.deepcopy(dict(state)))  # torch would take its very tensors
    for own, group in zip(before, optimizer.param_groups, strict=True):
        for name in own.keys() & group.keys() - {"params", "lr"}:
            if own[name] != group[name]:
                raise ValueError(f"optimizers: {name}: expected {own[name]}, got {line(group[name])}")
    for parameter, held in optimizer.state.items():
        shapes = {name: tuple(t.shape) for name, t in held.items() if isinstance(t, Tensor) and t.is_floating_point()}
        own_shape = tuple(parameter.shape)
        if shapes != {"step": (), "exp_avg": own_shape, "exp_avg_sq": own_shape}:
            raise ValueError(f"optimizers: expected moments of {own_shape}, got {line(str(shapes))}")


class OutOfMemory(RuntimeError):
    """A step does not fit the memory in the smallest parts that there are."""
