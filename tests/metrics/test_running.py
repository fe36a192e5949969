"""Metrics by name over sets of images: what is used, how often, and what the numbers mean."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import LATENT, make
from torch import Tensor

from pggan_fast.data import DataError, faces
from pggan_fast.data.dataset import ArrayDataset
from pggan_fast.data.errors import ImageRefused
from pggan_fast.data.pyramid import shrink
from pggan_fast.inference import Sampler, latents
from pggan_fast.metrics import Generated, Reals, Result, Settings, evaluate, frechet_distance, measures, parse, swd
from pggan_fast.metrics.extractor import Extractor
from pggan_fast.metrics.features import RandomFeatures
from pggan_fast.metrics.published import PUBLISHED, beside
from pggan_fast.metrics.running import append, duration
from pggan_fast.metrics.samples import Level, label_rows
from pggan_fast.metrics.scores import MISSING, available
from pggan_fast.models import Generator

FACES = faces()


class Spied:
    """A source that tells which of its images were asked for."""

    def __init__(self, stored: Tensor, seed: int = 0) -> None:
        self._reals, self.asked = Reals(stored, seed=seed), list[int]()
        self.name, self.resolution, self.available = "spied", self._reals.resolution, len(stored)
        self.channels = self._reals.channels

    def images(self, numbers: range) -> Tensor:
        self.asked += numbers
        return self._reals.images(numbers)


def run(names: str, fakes: Tensor | None, reals: Tensor | None, batch: int = 64, **options: object) -> list[Result]:
    sources = [None if t is None else Reals(t, seed=seed) for seed, t in ((1, fakes), (0, reals))]
    wanted = measures([parse(n) for n in names.split(",")], *sources, Settings(**options))  # type: ignore[arg-type]
    return evaluate(wanted, *sources, batch=batch)


@pytest.mark.parametrize(
    ("text", "kind", "count", "full"),
    [("swd16k", "swd", 16384, False), ("msssim20k", "msssim", 20000, False), ("fid50k_full", "fid", 50000, True),
     ("kid10k", "kid", 10000, False), ("is50k", "is", 50000, False), ("fd500", "fd", 500, False)],
)  # fmt: skip
def test_names(text: str, kind: str, count: int, full: bool) -> None:
    name = parse(text)
    assert (name.text, name.kind, name.count, name.full) == (text, kind, count, full)


@pytest.mark.parametrize("text", ["", "swd", "swd0", "swd016k", "swd1", "ppl10k", "is50k_full", "swd16k_full"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse(text)


def test_each_image_is_used_once_however_many_metrics_there_are() -> None:
    fakes, reals = Spied(FACES[:300]), Spied(FACES[:200])
    wanted = measures([parse(n) for n in ("msssim400", "fd64", "fd250")], fakes, reals, Settings())
    results = evaluate(wanted, fakes, reals, batch=32)
    assert fakes.asked == list(range(300))
    assert reals.asked == list(range(200))
    assert [r.images for r in results] == [
        {"reals": 200, "fakes": 300},
        {"reals": 64, "fakes": 64, "floor": 64},
        {"reals": 200, "fakes": 250, "floor": 100},
    ]
    assert [r.used for r in results] == [300, 64, 200]
    no_more = "it has no more, and none is used twice"
    assert results[0].notes[:2] == [
        f"of 200 images of the data set, not 400: {no_more}",
        f"of 300 images of the generated set, not 400: {no_more}",
    ]
    assert results[2].notes[0] == f"of 200 images of the data set, not 250: {no_more}"
    assert not any(no_more in note for note in results[1].notes)


def test_as_many_of_one_as_of_the_other_for_sorted_projections() -> None:
    (result,) = run("swd64", FACES[:100], FACES[:40])
    assert result.images == {"reals": 40, "fakes": 40, "floor": 20}
    parts = "", "matched_", "floor_"
    assert set(result.values) == {f"swd64_{part}{end}" for part in parts for end in ("32", "16", "avg")}
    assert result.values["swd64_avg"] == pytest.approx((result.values["swd64_32"] + result.values["swd64_16"]) / 2)


def test_values_do_not_depend_on_batches() -> None:
    one, other = (run("swd48,msssim48,fd48", FACES[:80], FACES[100:], batch=b) for b in (48, 10))
    for a, b in zip(one, other, strict=True):
        assert a.values == pytest.approx(b.values, rel=1e-5)


def test_values_are_those_of_the_functions() -> None:
    """The floor is of the first images against those after them: none is on both sides."""
    (distance, patches) = run("fd40,swd40", FACES[:40], FACES[:80])
    fakes, reals = Reals(FACES[:40], seed=1).images(range(40)), Reals(FACES[:80], seed=0).images(range(80))
    f, r = RandomFeatures()(fakes), RandomFeatures()(reals)
    assert distance.values["fd40"] == pytest.approx(frechet_distance(r[:40], f), rel=1e-4)
    assert distance.values["fd40_floor"] == pytest.approx(frechet_distance(r[:40], r[40:]), rel=1e-4)
    a, b = (swd.extract(images, 0, stream=s)[1].flatten(0, 1) for s, images in ((0, reals), (1, fakes)))
    m = 40 * swd.PER_IMAGE
    assert patches.values["swd40_16"] == pytest.approx(1e3 * swd.sliced_wasserstein(a[:m], b, level=1), rel=1e-6)
    floor = swd.sliced_wasserstein(a[:m], a[m:], level=1)
    assert patches.values["swd40_floor_16"] == pytest.approx(1e3 * floor, rel=1e-6)


def test_the_floor_has_a_value_of_as_many_beside() -> None:
    """Reals against reals are fewer a side; the value is computed of as many once more, of the first ones."""
    (few,) = run("fd64", FACES[200:264], FACES[:100])
    assert few.images == {"reals": 64, "fakes": 64, "floor": 50}
    (same,) = run("fd50", FACES[200:264], FACES[:100])
    assert set(same.values) == {"fd50", "fd50_floor"}
    assert not any("matched" in note for note in same.notes)
    # the generated ones are in an order of their own, in which the first 50 are the same
    assert few.values["fd64_matched"] == pytest.approx(same.values["fd50"], rel=1e-4)
    assert few.values["fd64_floor"] == pytest.approx(same.values["fd50_floor"], rel=1e-4)
    assert few.values["fd64_matched"] > few.values["fd64"]
    assert "reals with reals is of 2 x 50 images, the value of more" in few.notes[-1]


@pytest.mark.skipif(not available(), reason=MISSING)
def test_only_what_shrinks_with_more_images_is_said_to() -> None:
    def means(images: Tensor) -> Tensor:
        return images.float().mean(dim=(2, 3))

    network = Extractor("means", means, means)
    distance, kernel = run("fid64,kid64", FACES[200:264], FACES[:100], extractor=network)
    assert distance.notes == [
        "reals with reals is of 2 x 50 images, the value of more, which makes it smaller; what to compare is matched, "
        "the value of as many"
    ]
    assert kernel.notes == [distance.notes[0].replace(", which makes it smaller", "")]


def test_the_floor_is_of_no_more_images_than_are_generated() -> None:
    for name, values in (("fd200", {"", "_matched", "_floor"}), ("swd200", None)):
        (result,) = run(name, FACES[:20], FACES[:300])
        assert (result.images["fakes"], result.images["floor"], result.used) == (20, 20, 20)
        assert values is None or set(result.values) == {f"{name}{end}" for end in values}
    (full,) = run("fd40_full", FACES[:40], FACES[:60])
    assert (full.images, full.used) == ({"reals": 60, "fakes": 40, "floor": 30}, 40)
    assert not any("it has no more" in note for note in full.notes)


def test_reals_alone_tell_how_many_they_are() -> None:
    distance, similar = run("swd200,msssim200", None, FACES[:300])
    assert (distance.used, similar.used) == (150, 200)
    assert distance.notes == ["reals with reals is of 2 x 150 images, not 2 x 200"]
    (similar,) = run("msssim200", None, FACES[:30])
    assert similar.used == 30
    assert similar.notes[0] == "of 30 images of the data set, not 200: it has no more, and none is used twice"


def test_grey_beside_colour_is_told() -> None:
    """A grey network with reals in colour, and the reverse; either with its like needs no note."""
    G, grey = make(Generator, 32), make(Generator, 32, channels=1)
    assert isinstance(G, Generator)
    assert isinstance(grey, Generator)
    for generated, reals, said in (
        (grey, FACES, "the generated set is grey, the data set is not: grey is compared as three equal channels"),
        (G, FACES[:, :1], "the data set is grey, the generated set is not: grey is compared as three equal channels"),
        (G, FACES, None),
        (grey, FACES[:, :1], None),
    ):
        (measure,) = measures([parse("fd8")], Generated(generated, 8), Reals(reals), Settings())
        assert [note for note in measure.notes if "grey" in note] == ([] if said is None else [said])


def test_without_a_floor_and_without_fakes() -> None:
    (result,) = run("fd40", FACES[:40], FACES, floor=False)
    assert set(result.values) == {"fd40"}
    assert "floor" not in result.images
    (result,) = run("fd40", None, FACES)
    assert set(result.values) == {"fd40_floor"}
    (result,) = run("msssim40", FACES, None)
    assert set(result.values) == {"msssim40"}


def test_scratch_holds_what_memory_would(tmp_path: Path) -> None:
    (kept,) = run("swd32", FACES[:32], FACES[32:])
    (on_disk,) = run("swd32", FACES[:32], FACES[32:], scratch=tmp_path)
    assert on_disk.values == kept.values
    assert not list(tmp_path.iterdir())


def test_what_is_lacking_is_said() -> None:
    for names, fakes, reals, said in (
        ("fd8", FACES, None, "fd8: compares with reals, and there are none"),
        ("fd8", FACES, faces(16), r"expected one size, got 16x16 \(data\) and 32x32 \(data\)|32x32"),
        ("swd8", faces(8), faces(8), "needs at least 16x16"),
        ("fid8", FACES, FACES, "fid8: needs an extractor"),
        ("fd8", None, None, "expected one size, got none"),
        ("fd8", FACES, FACES[:1], "fd8: expected at least 2 images, got 1 in the data set"),
    ):
        with pytest.raises(ValueError, match=said):
            run(names, fakes, reals)
    with pytest.raises(ValueError, match="batch: expected an even number"):
        run("fd8", FACES, FACES, batch=7)


def test_generated_images_are_those_of_their_numbers() -> None:
    G = make(Generator)
    assert isinstance(G, Generator)
    source = Generated(G, 20, seed=5)
    want = Sampler(G).uint8(latents(8, LATENT, seed=5, start=4)).permute(0, 3, 1, 2)
    assert torch.equal(source.images(range(4, 12)), want)
    labelled = make(Generator, labelled=True)
    assert isinstance(labelled, Generator)
    sources = [Generated(labelled, n, seed=5) for n in (20, 10)]
    assert torch.equal(*(s.images(range(4, 8)) for s in sources))
    with pytest.raises(ValueError, match="labels: expected"):
        Generated(labelled, 4, labels=torch.ones(3, 5))


def test_reals_are_shuffled_and_mirrored_by_the_seed() -> None:
    plain, again, other = (Reals(FACES[:64], seed=s).images(range(64)) for s in (0, 0, 1))
    assert torch.equal(plain, again)
    assert not torch.equal(plain, other)
    assert sorted(map(bytes, plain.numpy())) == sorted(map(bytes, FACES[:64].numpy()))
    mirrored = Reals(FACES[:64], mirror=True).images(range(64))
    flipped = (mirrored == plain.flip(3)).flatten(1).all(1)
    assert torch.equal(torch.where(flipped.view(-1, 1, 1, 1), mirrored.flip(3), mirrored), plain)
    assert 16 < int(flipped.sum()) < 48


def test_grey_images_have_three_equal_channels_and_others_are_refused() -> None:
    grey = Reals(FACES[:4, :1]).images(range(4))
    assert grey.shape == (4, 3, 32, 32)
    assert torch.equal(grey[:, 0], grey[:, 2])
    with pytest.raises(ValueError, match=r"image 0: expected torch\.uint8"):
        Reals(FACES[:1].float()).images(range(1))
    with pytest.raises(ValueError, match=r"image 0: expected \[3 or 1, H, W\], got \[32, 32\]"):
        Reals(FACES[:, 0])
    with pytest.raises(ValueError, match="expected images, got none"):
        Reals(FACES[:0])


def test_lines_are_added_in_styles_gans_format(tmp_path: Path) -> None:
    (result,) = run("fd40", FACES[:40], FACES)
    for _ in range(2):
        path = append(tmp_path, result, {**result.as_json(2, "network.safetensors"), "timestamp": 0.0})
    assert path == tmp_path / "metric-fd40.jsonl"
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == second
    wanted = ["results", "metric", "total_time", "total_time_str", "num_gpus", "snapshot_pkl", "timestamp"]
    assert list(first)[:7] == wanted
    assert first["num_images"] == 40
    assert (first["results"], first["num_gpus"]) == (result.values, 2)
    assert [duration(s) for s in (5.4, 65, 7205, 93600)] == ["5s", "1m 05s", "2h 00m 05s", "1d 02h 00m"]


def test_published_averages_are_those_of_their_levels() -> None:
    rows = [row for known in PUBLISHED.values() for row in known.rows if row.swd]
    assert len(rows) == 19
    for row in rows:
        assert row.average == pytest.approx(sum(row.swd) / 4, abs=0.0126), row
    assert beside("celeba", 64) is None
    found = beside("lsun-bedroom", 256)
    assert found is not None
    assert found.rows[0].fid == 8.34


def spoilt(kind: str, strength: float) -> Tensor:
    """Other faces than the first 512, with one thing wrong with them."""
    images = FACES[512:].float()
    if kind == "blur":
        small = torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
        images = images + strength * (small - images)
    elif kind == "noise":
        images = images + 30 * strength * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    elif kind == "colour":
        images = images + 40 * strength * torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1)
    return images.round().clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("kind", ["blur", "noise"])
def test_worse_images_are_farther_away(kind: str) -> None:
    """By patches and by features, and clean ones about where the floor is."""
    values: dict[str, list[float]] = {"swd128_32": [], "fd512": []}
    for strength in (0.0, 0.5, 1.0):
        for result in run("swd128,fd512", spoilt(kind, strength), FACES[:512], floor=False):
            for key in values.keys() & result.values.keys():
                values[key].append(result.values[key])
    for key, found in values.items():
        assert found == sorted(found), (key, found)
        assert found[-1] > 3 * found[0], (key, found)


def test_a_shift_of_colours_is_seen_by_features_and_not_by_normalised_patches() -> None:
    clean, shifted = (run("fd512", spoilt("colour", s), FACES[:512], floor=False)[0] for s in (0.0, 0.5))
    assert shifted.values["fd512"] > 10 * clean.values["fd512"]


def test_few_images_over_and_over_are_more_alike() -> None:
    """Mode collapse: 512 images of 4 faces."""
    collapsed = FACES[torch.arange(512) % 4]
    similar, distance = run("msssim512,fd512", collapsed, FACES[512:], floor=True)
    assert similar.values["msssim512"] > similar.values["msssim512_reals"] + 0.1
    assert distance.values["fd512"] > 5 * distance.values["fd512_floor"]


class Labelled(ArrayDataset):
    """Faces of which one cannot be read."""

    def image(self, number: int) -> np.ndarray:
        if number == 3:
            raise ImageRefused("broken", "no bytes left")
        return super().image(number)


def test_a_data_set_at_one_of_its_resolutions() -> None:
    dataset = ArrayDataset("some", FACES[:6].numpy())
    whole, half = Reals(Level(dataset)), Reals(Level(dataset, 16))
    assert (whole.resolution, half.resolution) == ((32, 32), (16, 16))
    assert torch.equal(half.images(range(6)), shrink(whole.images(range(6)), 2))
    with pytest.raises(DataError, match="image 3: no bytes left; metrics leave no image out"):
        Reals(Level(Labelled("some", FACES[:6].numpy()))).images(range(6))


def test_labels_are_drawn_from_those_of_the_data() -> None:
    """Classes are one-hot, vectors as they are; class 1 is nobody's."""
    G = make(Generator, labelled=True)
    assert isinstance(G, Generator)
    classes = ArrayDataset("some", FACES[:6].numpy(), np.array([0, 2, 2, 0, 2, 2]))
    rows = label_rows(classes)
    assert rows is not None
    assert rows.tolist() == [[float(c == k) for k in range(3)] for c in (0, 2, 2, 0, 2, 2)]
    vectors = ArrayDataset("some", FACES[:2].numpy(), np.array([[1.0, 0.5], [0.0, 2.0]], np.float32))
    assert torch.equal(label_rows(vectors), torch.tensor([[1.0, 0.5], [0.0, 2.0]]))  # type: ignore[arg-type]
    assert label_rows(ArrayDataset("some", FACES[:2].numpy())) is None
    drawn = Generated(G, 300, labels=rows)._labels
    assert drawn is not None
    assert drawn[:, 1].sum() == 0
    assert 160 < int(drawn[:, 2].sum()) < 240
