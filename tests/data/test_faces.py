import numpy as np
import pytest
import torch

from pggan_fast.data import faces, faces_attribution
from pggan_fast.data.embedded import EMBEDDED_SHA256, digest
from pggan_fast.data.make_faces import draw_faces, face_options


def box_mean_oracle(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Integer arithmetic: the sum of each box, divided, ties to the even neighbour. [N, C, H, W] -> [N, C, H/f, W/f]"""
    n, c, h, w = pixels.shape
    total = pixels.reshape(n, c, h // factor, factor, w // factor, factor).astype(np.int64).sum(axis=(3, 5))
    quotient, rest = np.divmod(total, factor**2)
    up = (2 * rest > factor**2) | ((2 * rest == factor**2) & (quotient % 2 == 1))
    return (quotient + up).astype(np.uint8)


def test_the_embedded_faces_are_the_drawn_ones():
    images = faces()
    assert images.shape == (1024, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert images.is_contiguous()
    assert digest(images.permute(0, 2, 3, 1).numpy()) == EMBEDDED_SHA256


def test_the_digest_sees_one_changed_level():
    pixels = faces().permute(0, 2, 3, 1).numpy().copy()
    pixels[700, 3, 5, 1] ^= 1
    assert digest(pixels) != EMBEDDED_SHA256


def test_faces_are_varied():
    flat = faces().flatten(1)
    assert len(torch.unique(flat, dim=0)) == len(flat)
    assert flat.float().std(dim=0).min() > 10  # every pixel differs from face to face


@pytest.mark.parametrize("resolution", [16, 8, 4])
def test_lower_resolutions_are_box_means_rounded_once(resolution):
    expected = box_mean_oracle(faces().numpy(), 32 // resolution)
    assert np.array_equal(faces(resolution).numpy(), expected)
    if resolution < 16:  # rounding each level, a likely mistake, gives other pixels
        twice = box_mean_oracle(faces(2 * resolution).numpy(), 2)
        assert not np.array_equal(twice, expected)


def test_each_call_gives_its_own_tensor():
    faces().zero_()
    assert faces().any()


@pytest.mark.parametrize("resolution", [64, 33, 2, 0, -4, 32.5, "32", None])
def test_other_resolutions_are_refused(resolution):
    with pytest.raises(ValueError, match=r"resolution: got .*expected one of 32, 16, 8, 4"):
        faces(resolution)


def test_the_attribution_names_author_licence_and_nature():
    for part in ("Adventurer", "Lisa Wischofsky", "CC BY 4.0", "not photographs"):
        assert part in faces_attribution


def test_a_seed_alone_decides_a_face():
    assert face_options(5) == face_options(5)
    assert face_options(5) != face_options(6)


def test_drawing_refuses_a_resolution_that_is_no_divisor():
    with pytest.raises(ValueError, match="resolution: got 48"):
        draw_faces(1, 48)


def test_drawing_gives_the_embedded_faces_again():
    pytest.importorskip("dicebear", reason="drawing faces needs the demo extra")
    pytest.importorskip("resvg_py", reason="drawing faces needs the demo extra")
    drawn = draw_faces(8, 32, first_seed=100)
    assert np.array_equal(drawn, faces()[100:108].permute(0, 2, 3, 1).numpy())
