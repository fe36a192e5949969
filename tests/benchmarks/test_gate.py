import pytest
import torch
from pggan_fast.benchmarks import gate

F32 = torch.float32


def verdict(result, reference, eager=None):
    torchs = gate.errors(eager or reference, reference)
    return gate.judge(gate.errors(result, reference), torchs, F32)


def test_rounding_passes_and_an_output_off_by_a_thousandth_does_not():
    image = torch.rand(2, 3, 8, 8, dtype=torch.float64) * 2 - 1
    assert not verdict({"image": image.float()}, {"image": image}).red
    wrong = image.float()
    wrong[1, 2, 7, 7] += 1e-3  # one pixel at the border
    assert verdict({"image": wrong}, {"image": image}).red


def test_limit_is_twice_eagers_error():
    ref = {"image": torch.tensor([1.0, -0.5], dtype=torch.float64)}
    eager = {"image": ref["image"] + 1e-3}
    assert not verdict({"image": ref["image"] + 1.9e-3}, ref, eager).red
    assert verdict({"image": ref["image"] + 2.1e-3}, ref, eager).red


def test_nan_is_red_even_beside_a_larger_error():
    ref = {"a": torch.ones(2), "b": torch.ones(2)}
    found = verdict({"a": torch.tensor([1.0, float("nan")]), "b": torch.full((2,), 9.0)}, ref)
    assert found.red
    assert found.name == "a"


def test_gradients_are_judged_by_rms_and_cancelled_ones_on_the_scale_of_the_others():
    ref = {"grad w": torch.randn(64, 64, dtype=torch.float64), "grad b": torch.full((4,), 1e-9, dtype=torch.float64)}
    flipped = ref["grad w"].clone()
    flipped[0, 0] += 0.05  # one weight moved by a flipped sign: below the floor in rms
    assert not verdict({"grad w": flipped, "grad b": ref["grad b"] + 1e-7}, ref).red
    halo = ref["grad w"].clone()
    halo[0] *= 0.9  # a row too small
    assert verdict({**ref, "grad w": halo}, ref).red


def test_one_flipped_sign_passes_and_one_wrong_channel_does_not():
    ref = {"loss": torch.tensor(0.7, dtype=torch.float64), "grad b": torch.randn(512, dtype=torch.float64)}
    flipped = ref["grad b"].clone()
    flipped[3] += 0.05  # as plain PyTorch did in channels_last
    assert not verdict({"loss": ref["loss"] * (1 + 2e-5), "grad b": flipped}, ref).red
    assert verdict({**ref, "loss": ref["loss"] * 1.001}, ref).red
    wrong = ref["grad b"].clone()
    wrong[511] += 1.0
    assert verdict({**ref, "grad b": wrong}, ref).red


def test_an_absent_gradient_is_zero_and_a_misshapen_or_absent_output_an_error():
    ref = {"y": torch.ones(3), "grad w": torch.ones(3), "grad b": torch.zeros(3)}
    assert gate.errors({"y": torch.ones(3), "grad b": torch.zeros(3)}, ref)["grad w"] == 1.0
    assert gate.errors({"y": torch.ones(3), "grad w": torch.ones(3)}, ref)["grad b"] == 0.0
    assert gate.errors({**ref, "grad c": torch.ones(3)}, ref)["grad c"] > 1.0
    assert gate.errors({**ref, "grad c": torch.zeros(3)}, ref)["grad c"] == 0.0
    with pytest.raises(ValueError, match=r"got tensors \[\], expected \['y'\]"):
        gate.errors({"grad w": torch.ones(3)}, ref)
    with pytest.raises(ValueError, match="grad b: got shape"):
        gate.errors({**ref, "grad b": torch.ones(1)}, ref)


def test_a_tensor_that_eager_gets_wholly_wrong_does_not_hide_the_others():
    ref = {"grad w": torch.ones(4, dtype=torch.float64), "grad b": torch.ones(1, dtype=torch.float64)}
    eager = {**ref, "grad b": torch.zeros(1)}
    found = verdict({"grad w": 1.001 * ref["grad w"], "grad b": torch.zeros(1)}, ref, eager)
    assert not found.red
    assert found.name == "grad w"
    assert verdict({"grad w": 1.01 * ref["grad w"], "grad b": torch.zeros(1)}, ref, eager).name == "grad w"
    assert verdict({**ref, "grad b": torch.full((1,), 4.0)}, ref, eager).red
    with pytest.raises(ValueError, match="nothing to compare with"):
        verdict({"grad b": torch.zeros(1)}, {"grad b": ref["grad b"]}, {"grad b": torch.zeros(1)})
