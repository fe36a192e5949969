"""The two networks, on fused layers."""

from pggan_fast.models.discriminator import Discriminator
from pggan_fast.models.generator import Generator

__all__ = ["Discriminator", "Generator"]
