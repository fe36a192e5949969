"""gan-lab 0.4.2 itself, where it is installed."""

from pggan_fast.benchmarks.peers.gan_lab import generate, score
from pggan_fast.benchmarks.peers.installed import gan_lab

__all__ = ["generate", "networks", "score"]


def networks(depth, widths, latent):
    architectures, base = gan_lab()
    base.ProGAN.get_fmap = lambda self, scale_stage: widths[scale_stage - 1]
    base.ProGAN.reset_state()
    base.ProGAN._fmap = widths[0]
    g, d = architectures.ProGenerator(4 << depth, latent), architectures.ProDiscriminator(4 << depth)
    for _ in range(depth):
        g.increase_scale()
        d.increase_scale()
    return g, d
