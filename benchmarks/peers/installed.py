"""The networks of packages that are installed, as they were published: `pip install --no-deps pro-gan-pth gan-lab`.

Neither package runs on current PyTorch with all that it imports, so that only the modules of the networks are imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any


def pro_gan_pth() -> tuple[Any, Any]:
    """(networks, custom_layers) of pro_gan_pytorch 3.4, its generator repaired: its first layer calls a method of torch
    as that once was, with fewer arguments."""
    _folder("pro_gan_pytorch", "pro-gan-pth")
    networks = importlib.import_module("pro_gan_pytorch.networks")
    layers = importlib.import_module("pro_gan_pytorch.custom_layers")
    layers.EqualizedConvTranspose2d._output_padding = lambda *args: (0, 0)
    return networks, layers


def gan_lab() -> tuple[Any, Any]:
    """(architectures, base) of gan_lab 0.4.2, whose modules import each other as top-level ones."""
    root = _folder("gan_lab", "gan-lab")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    for name in ("utils", "progan"):
        package = sys.modules.setdefault(name, types.ModuleType(name))
        package.__path__ = [str(root / name)]
    return importlib.import_module("progan.architectures"), importlib.import_module("progan.base")


def _folder(module: str, distribution: str) -> Path:
    """Where it is installed; raises ModuleNotFoundError that says how to install it."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"{distribution} is not installed: pip install --no-deps {distribution}")
    return Path(found.origin).parent
