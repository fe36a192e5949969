"""pro-gan-pth 3.4 itself, where it is installed."""

from pggan_fast.benchmarks.peers.akanimax import generate, score
from pggan_fast.benchmarks.peers.installed import pro_gan_pth

__all__ = ["generate", "networks", "score"]


def networks(depth, widths, latent):
    package, _ = pro_gan_pth()
    package.nf = lambda stage, **options: widths[stage - 1]
    return package.Generator(depth + 2, latent_size=latent), package.Discriminator(depth + 2, latent_size=latent)
