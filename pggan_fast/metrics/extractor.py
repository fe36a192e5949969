"""Feature networks from local files, for FID, KID and IS. Nothing is downloaded, and no pickle is executed.

Two kinds of files are read:

* TorchScript (torch.jit.save), any network that takes uint8 images [N, 3, H, W] and resizes them as it wants. If its
  forward has an argument `return_features`, as the Inception of StyleGAN's metrics has, features are asked for with it,
  and class probabilities without it; else its output is taken as features [N, F], or as logits for IS.
* `*.pth`: the weights of torch-fidelity's Inception (weights-inception-2015-12-05-6726825d.pth of its releases), which
  give the numbers that papers report. It needs the extra "fidelity": torch-fidelity and torchvision.

Files of torch.export are not read: torch.export.load falls back to executing pickles that they hold. Whoever trusts one
makes it a TorchScript file: `torch.jit.trace(torch.export.load(FILE).module(), images).save("extractor.pt")`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SMALLEST_PROBABILITY = 1e-30


class ExtractorError(ValueError):
    """The file cannot be used; the message is one line that starts with its path."""


class Extractor:
    """`features(images)` gives [N, F], `logits(images)` gives [N, classes], float32; images are uint8 [N, 3, H, W]."""

    def __init__(self, name: str, features: Callable[[Tensor], Any], logits: Callable[[Tensor], Any]) -> None:
        self.name, self._features, self._logits = name, features, logits

    def features(self, images: Tensor) -> Tensor:
        return self._checked(self._features, images)

    def logits(self, images: Tensor) -> Tensor:
        return self._checked(self._logits, images)

    def _checked(self, function: Callable[[Tensor], Any], images: Tensor) -> Tensor:
        try:
            with torch.inference_mode():
                found = function(images)
        except RuntimeError as error:  # TorchScript's trace is long, its last line says what happened
            raise ExtractorError(f"{self.name}: fails on {list(images.shape)}: {_last_line(error)}") from None
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ExtractorError(f"{self.name}: expected [{len(images)}, F] for {len(images)} images, got {got}")
        return found.to(torch.float32)


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Extractor:
    """The network of a file, on `device`. Raises ExtractorError, and OSError where the file cannot be read."""
    path = Path(path)
    with open(path, "rb"):
        pass
    return _fidelity(path, device) if path.suffix == ".pth" else _torchscript(path, device)


def _torchscript(path: Path, device: torch.device | str) -> Extractor:
    try:
        network = torch.jit.load(str(path), map_location=device).eval()
        arguments = {argument.name for argument in network.forward.schema.arguments}
    except (RuntimeError, AttributeError) as error:
        hint = "torch.jit.save writes such a file, torch.export does not"
        raise ExtractorError(f"{path}: not a TorchScript network ({hint}): {_last_line(error)}") from None
    if "return_features" not in arguments:
        return Extractor(path.name, network, network)
    biased = {"no_output_bias": True} if "no_output_bias" in arguments else {}

    def logits(images: Tensor) -> Tensor:
        probabilities: Tensor = network(images, **biased)
        return probabilities.clamp(min=SMALLEST_PROBABILITY).log()

    return Extractor(path.name, lambda images: network(images, return_features=True), logits)


def _fidelity(path: Path, device: torch.device | str) -> Extractor:
    # torch-fidelity unpickles whatever the file holds, so it is given what a restricted reading found there
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly anything over bytes that somebody made up
        raise ExtractorError(f"{path}: not a file of weights: {_last_line(error)}") from None
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        remedy = "pip install 'pggan-fast[fidelity]'"
        raise ExtractorError(f"{path}: weights of Inception need torch-fidelity: {error}; {remedy}") from None

    def network(what: str) -> Callable[[Tensor], Tensor]:
        weights = io.BytesIO()
        torch.save(state, weights)
        weights.seek(0)
        try:
            made = FeatureExtractorInceptionV3("inception-v3-compat", [what], feature_extractor_weights_path=weights)
        except (RuntimeError, TypeError) as error:
            raise ExtractorError(f"{path}: not the weights of Inception: {_last_line(error)}") from None
        made = made.to(device)
        return lambda images: made(images)[0]

    return Extractor(path.name, network("2048"), network("logits_unbiased"))


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
