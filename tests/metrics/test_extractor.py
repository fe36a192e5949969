"""Feature networks of local files: which are read, how they are called, and that none executes a pickle."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pggan_fast.metrics.extractor import ExtractorError, load


class Plain(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean(dim=(2, 3))


class Classifier(nn.Module):
    """Called as the Inception of StyleGAN's metrics is."""

    def forward(self, images: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        features = images.float().mean(dim=(2, 3))
        if return_features:
            return features
        return torch.softmax(features * (2.0 if no_output_bias else 1.0), dim=1)


class Wrong(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float()


def saved(network: nn.Module, folder: Path) -> Path:
    path = folder / "extractor.pt"
    torch.jit.script(network).save(str(path))
    return path


IMAGES = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
MEANS = IMAGES.float().mean(dim=(2, 3))


def test_a_plain_network_gives_features_and_logits(tmp_path: Path) -> None:
    extractor = load(saved(Plain(), tmp_path))
    assert torch.equal(extractor.features(IMAGES), MEANS)
    assert torch.equal(extractor.logits(IMAGES), MEANS)


def test_a_classifier_is_asked_for_features_and_for_probabilities(tmp_path: Path) -> None:
    extractor = load(saved(Classifier(), tmp_path))
    assert torch.equal(extractor.features(IMAGES), MEANS)
    probabilities = extractor.logits(IMAGES).softmax(dim=1)
    torch.testing.assert_close(probabilities, torch.softmax(2.0 * MEANS, dim=1), atol=1e-6, rtol=1e-4)


def test_what_is_not_one_row_per_image_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExtractorError, match=r"extractor\.pt: expected \[2, F\] for 2 images, got \[2, 3, 4, 4\]"):
        load(saved(Wrong(), tmp_path)).features(IMAGES)
    with pytest.raises(ExtractorError, match="fails on"):
        load(saved(Plain(), tmp_path)).features(IMAGES[0])


def test_other_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "x.pt"
    text.write_text("no network")
    with pytest.raises(ExtractorError, match="not a TorchScript network"):
        load(text)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing.pt")


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.pt2"])
def test_no_pickle_is_executed(name: str, tmp_path: Path) -> None:
    torch.save({"weight": Evil(tmp_path / "executed")}, tmp_path / name)
    with pytest.raises(ExtractorError):
        load(tmp_path / name)
    assert not (tmp_path / "executed").exists()
    with pytest.raises((AttributeError, TypeError, RuntimeError)):  # which the file would do elsewhere
        torch.load(tmp_path / name, weights_only=False)["weight"].sum()
    assert (tmp_path / "executed").exists()


def test_an_exported_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt2"
    torch.export.save(torch.export.export(Plain(), (IMAGES,)), path)
    with pytest.raises(ExtractorError, match=r"x\.pt2: not a TorchScript network"):
        load(path)
