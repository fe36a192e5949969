"""Whole models of known families, whose forward is no chain: blended levels, lists of blocks, several inputs.

An adapter is an object with `match(model)`, which looks at structure and attributes (never at the class's name alone)
and returns the model's new forward, or None, or raises Unreadable with a reason for the report. That forward is a
subclass of `pggan_fast.swap.fused.Forward`:

    from pggan_fast import ops
    from pggan_fast.swap.chain import chain
    from pggan_fast.swap.fused import Forward, inside, outside
    from pggan_fast.swap.read import steps_of
    from pggan_fast.swap.steps import Act, Norm, NotAsRecorded, Up, View

    class Generator(Forward):
        pattern = "generator of ..."

        def __init__(self, model):
            super().__init__(model, modules=model.modules())   # all that is bypassed, and guarded against changes
            norm = Norm(1e-8)
            self.first = chain([*steps_of(model.dense, rank=2), View((512, 4, 4)), Act(0.2), norm])
            self.blocks = [chain([Up(), *steps_of(conv), Act(0.2), norm]) for conv in model.convs]
            self.to_rgb = [chain(steps_of(layer)) for layer in model.to_rgb]

        def examples(self, like):
            z = torch.randn(4, 512, dtype=like.dtype, device=like.device)
            return [(z, 1, 0.25), (z, 2, 1.0)]  # an alpha that float32 has exactly, as fade_in takes it

        def run(self, z, step, alpha):
            if not isinstance(z, Tensor) or z.ndim != 2:
                raise NotAsRecorded("latents of another rank")       # the model's own forward runs
            x = inside(self.first(z))                                 # channels_last from here on
            for block in self.blocks[:step]:
                low, x = x, block(x)
            image = ops.fade_in(self.to_rgb[step - 1](low), self.to_rgb[step](x), alpha)
            return outside(image)                                     # strides as the model's own code gives them

    def match(model):
        return Generator(model) if hasattr(model, "to_rgb") and ... else None

`steps_of(child)` gives what a child does (its own equalised learning rate, bias and all) as steps, or one `Call` of it
where it is not understood; pass `rank=2` for dense input. `chain` merges scales and biases and groups steps into calls
of the fused ops. A single `Conv` step has `.scaled`: weight, bias and both scales as they are now, which is what
`ops.to_rgb_fade_in` and `ops.from_rgb_fade_in` take. Forwards are pickled and copied with their model: they hold
modules, chains and numbers, no closures and no tensors. `examples(like)` lists arguments on which the probe compares
the forward with the model's own before it stays, `setting(case)` puts the model into the state that the example is
for; `calls` lists children that are called as they are. What progressive GANs share is in `families.network` and
`families.plan`.
"""

from __future__ import annotations

from typing import Protocol

import torch

from pggan_fast.swap.families import akanimax, gan_lab, gan_zoo, genforce, nashory, rosinality, wsconv
from pggan_fast.swap.fused import Forward


class Adapter(Protocol):
    """Recognises models of one family."""

    def match(self, model: torch.nn.Module) -> Forward | None: ...


FAMILIES: list[Adapter] = [akanimax, gan_lab, gan_zoo, genforce, nashory, rosinality, wsconv]
