"""How good generated images are: sliced Wasserstein distance, MS-SSIM, feature distance, FID, KID and IS.

`pggan-fast metrics` is `evaluate` with files around it; each metric alone is a function of tensors.
"""

from pggan_fast.metrics.features import RandomFeatures, frechet_distance
from pggan_fast.metrics.measures import Settings
from pggan_fast.metrics.msssim import ms_ssim
from pggan_fast.metrics.names import Name, parse
from pggan_fast.metrics.ranks import Ranks
from pggan_fast.metrics.running import Result, evaluate, measures
from pggan_fast.metrics.samples import Generated, Reals
from pggan_fast.metrics.swd import laplacian_pyramid, sliced_wasserstein

__all__ = [
    "Generated",
    "Name",
    "RandomFeatures",
    "Ranks",
    "Reals",
    "Result",
    "Settings",
    "evaluate",
    "frechet_distance",
    "laplacian_pyramid",
    "measures",
    "ms_ssim",
    "parse",
    "sliced_wasserstein",
]
