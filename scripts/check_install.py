"""Whether an installed pggan_fast is whole: every module imports, and a training step goes as by plain PyTorch.

    python -I scripts/check_install.py [MODULE ...]      MODULE: a native module that has to be there, _cpu or _cuda

Prints what was found; status 1 and the reason where something is wrong. Needs nothing but the package and its
dependencies, and writes nothing but the cache that every first call writes.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import platform
import sys

import torch

import pggan_fast

# What extras and some of torch's builds bring, by the names that are imported
OPTIONAL = {
    "dicebear", "dicebear_styles", "imageio_ffmpeg", "lmdb", "matplotlib", "pytest", "resvg_py", "tensorboard",
    "torch_fidelity", "torchmetrics", "triton",
}  # fmt: skip


def every_module() -> list[str]:
    """Imports all that the package has, less what runs when it is imported; the names of what is there.

    Modules that want something OPTIONAL that is not installed are left out.
    """
    found = pkgutil.walk_packages(pggan_fast.__path__, "pggan_fast.")
    return [module.name for module in found if not module.name.endswith("__main__") and imports(module.name)]


def imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OPTIONAL:
            return False
        raise
    return True


def losses(backend: str | None) -> list[float]:
    """D's and G's of two WGAN-GP steps on the embedded faces at 8x8, the same networks and numbers for all backends."""
    from pggan_fast.data import faces
    from pggan_fast.models import Discriminator, Generator
    from pggan_fast.training.step import d_step, g_step

    torch.manual_seed(0)
    G = Generator(8, fmap_base=64, fmap_max=16, latent_dim=16, backend=backend)
    D = Discriminator(8, fmap_base=64, fmap_max=16, backend=backend)
    adam = {net: torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.0, 0.99), eps=1e-8) for net in (G, D)}
    reals = faces(8)[:4] / 127.5 - 1
    found = []
    for _ in range(2):
        z = torch.randn(4, 16)
        found.append(float(d_step(G, D, adam[D], reals, z, resolution=8, alpha=0.5).loss))
        found.append(float(g_step(G, D, adam[G], z, resolution=8, alpha=0.5).loss))
    return found


def far_off() -> float:
    """The largest difference of G's image from the reference's, at 32x32 and fading in, of the largest value."""
    from pggan_fast.models import Generator

    torch.manual_seed(0)
    options = {"fmap_base": 512, "fmap_max": 64, "latent_dim": 64}
    ours, plain = Generator(32, **options), Generator(32, **options, backend="reference")
    plain.load_state_dict(ours.state_dict())
    z = torch.randn(4, 64)
    with torch.no_grad():
        image, expected = ours(z, alpha=0.5), plain(z, alpha=0.5)
    return float((image - expected).abs().max() / expected.abs().max())


def main(needed: list[str]) -> int:
    names = every_module()
    recorded, version = importlib.metadata.version("pggan-fast"), pggan_fast.__version__
    if recorded != version:
        print(f"the metadata are of version {recorded}, the package is {version}", file=sys.stderr)
        return 1
    native = [name for name in ("_cpu", "_cuda") if f"pggan_fast.{name}" in names]
    if missing := set(needed) - set(native):
        from pggan_fast.backends.cpu import build_report

        print(f"missing: {', '.join(sorted(missing))}; the build recorded {build_report()}", file=sys.stderr)
        return 1
    ours, plain = losses(None), losses("reference")
    if not all(abs(a - b) <= 1e-3 * max(1.0, abs(b)) for a, b in zip(ours, plain, strict=True)):
        print(f"the losses are {ours}, by plain PyTorch {plain}", file=sys.stderr)
        return 1
    if not (difference := far_off()) <= 1e-4:
        print(f"G's images differ from the reference's by {difference:.1e} of their largest value", file=sys.stderr)
        return 1
    print(
        f"pggan_fast {version}: {len(names)} modules, native {', '.join(native) or 'none'}; G within {difference:.0e} "
        f"of the reference; Python {platform.python_version()}, torch {torch.__version__}; {pggan_fast.__path__[0]}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
