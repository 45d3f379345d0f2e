"""Random variations of training chunks."""

import math
from dataclasses import fields

import pytest
import torch

from ov_piano.data.audio import LogMel
from ov_piano.settings import LogMelSettings
from ov_piano.training.augmentation import Augmentation, add_powers, random_curves, transposed_bands

VARIATIONS = {"response_db": 4.0, "gain_db": 6.0, "transpose": 2, "mix": 0.5, "noise": 0.5, "mask": 0.5}


def batch(b: int = 400, mels: int = 250, t: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return 10 * torch.randn(b, mels, t) - 40, torch.randint(0, 128, (b, 88, t)).float()


def test_without_augmentation_batch_and_generator_are_unchanged():
    logmel, keys = batch(2)
    before = torch.get_rng_state()
    varied, varied_keys = Augmentation()(logmel, keys)
    assert varied is logmel
    assert varied_keys is keys
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", VARIATIONS)
def test_each_augmentation_is_random_and_repeats_with_the_seed(name):
    logmel, keys = batch(20)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(torch.cat([x.flatten() for x in Augmentation(**{name: VARIATIONS[name]})(logmel, keys)]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert set(VARIATIONS) == {field.name for field in fields(Augmentation)} - {"mel_range_hz"}


def test_each_chunk_gets_a_smooth_frequency_response_of_its_own():
    logmel, keys = batch()
    varied, varied_keys = Augmentation(response_db=4.0)(logmel, keys)
    response = varied - logmel
    assert varied_keys is keys
    assert (response - response[..., :1]).abs().max() < 1e-4  # the same in all frames
    assert response.diff(dim=1).diff(dim=1).abs().gt(1e-3).sum(dim=1).max() <= 12  # lines that bend at six points
    assert 3.7 < response[:, [0, -1]].std() < 4.3
    assert response[:, 0, 0].unique().numel() == 400


def test_gain_is_one_number_for_each_chunk_within_its_range():
    logmel, keys = batch()
    change = Augmentation(gain_db=6.0)(logmel, keys)[0] - logmel
    assert (change - change[:, :1, :1]).abs().max() < 1e-4
    assert -6 <= change.min() < -5.5
    assert 5.5 < change.max() <= 6


def test_transposed_tone_equals_the_tone_of_the_transposed_key():
    time = torch.arange(16_000) / 16_000
    tones = {midi: LogMel()(0.5 * torch.sin(2 * math.pi * 440 * 2 ** ((midi - 69) / 12) * time)) for midi in (69, 71)}
    keys = torch.zeros(400, 88, tones[69].shape[1])
    keys[:, 69 - 21, 5] = 90
    torch.manual_seed(0)
    varied, varied_keys = Augmentation(transpose=2)(tones[69].repeat(400, 1, 1), keys)
    assert {int(key) + 21 for key in varied_keys.nonzero()[:, 1].unique()} == {67, 68, 69, 70, 71}
    assert (varied_keys.sum(dim=(1, 2)) == 90).all()
    up_two = varied_keys[:, 71 - 21, 5] == 90
    peaks = varied[up_two, :, 20].argmax(dim=1)
    expected = int(tones[71][:, 20].argmax())
    assert (peaks - expected).abs().max() <= 1  # detuning moves it by less than a band here
    assert (varied[up_two, :, 20].amax(dim=1) - tones[71][:, 20].max()).abs().max() < 3


def test_onsets_transposed_beyond_the_keyboard_vanish():
    keys = torch.zeros(200, 88, 2)
    keys[:, 0] = keys[:, 87] = 50
    varied = Augmentation(transpose=3)(torch.zeros(200, 250, 2), keys)[1]
    assert {int(x) for x in varied.count_nonzero(dim=(1, 2)).unique()} == {2, 4}  # 4 only where nothing moved
    assert not varied[varied.count_nonzero(dim=(1, 2)) == 2][:, 30:60].any()


def test_transposition_by_an_octave_doubles_frequencies():
    bands = transposed_bands(250, (50.0, 8000.0), torch.tensor([12.0, 0.0]))
    filters = LogMel(LogMelSettings(window=2**17)).filters  # narrow bins: each filter's maximum is its centre
    hz = filters.argmax(dim=0) * 16_000 / 2**17
    assert torch.allclose(bands[1], torch.arange(250.0), atol=1e-3)
    at = 200
    low, share = int(bands[0, at]), bands[0, at] % 1
    assert abs((1 - share) * hz[low] + share * hz[low + 1] - hz[at] / 2) < 0.5


def test_a_mix_holds_the_onsets_and_the_power_of_both():
    logmel, keys = batch(1000, 4)
    varied, varied_keys = Augmentation(mix=0.25)(logmel, keys)
    mixed = (varied != logmel).any(dim=(1, 2))
    assert 200 < mixed.sum() < 300
    assert torch.equal(varied_keys[mixed], torch.maximum(keys, keys.roll(1, 0))[mixed])
    assert torch.equal(varied_keys[~mixed], keys[~mixed])
    loudest = torch.maximum(logmel, logmel.roll(1, 0))
    assert (varied[mixed] >= logmel[mixed] - 1e-3).all()
    assert (varied[mixed] <= loudest[mixed] + 3.02).all()


def test_powers_add_in_decibels():
    assert torch.allclose(
        add_powers(torch.tensor([0.0, -30.0]), torch.tensor([0.0, -20.0])), torch.tensor([3.0103, -19.586])
    )


def test_noise_only_fills_what_lies_below_it():
    logmel, keys = batch(1000, 40)
    logmel[:, 0] = 0.0  # the maximum, nearly
    varied = Augmentation(noise=0.5)(logmel, keys)[0]
    noisy = (varied != logmel).any(dim=(1, 2))
    assert 430 < noisy.sum() < 570
    assert (varied >= logmel - 1e-3).all()
    assert (varied - logmel)[noisy].amax() > 10


def test_a_mask_silences_one_band():
    logmel, keys = batch(1000)
    varied = Augmentation(mask=0.5)(logmel, keys)[0]
    changed = (varied != logmel).any(dim=2)  # (b, mels)
    masked = changed.any(dim=1)
    assert 430 < masked.sum() < 570
    assert changed.sum(dim=1).max() <= 250 * 0.15 + 2
    assert (changed.int().diff(dim=1).abs().sum(dim=1) <= 2).all()  # one band each
    floors = logmel.amin((1, 2))[:, None, None].expand_as(logmel)
    assert torch.equal(varied[varied != logmel], floors[varied != logmel])


def test_random_curves_have_unit_deviation_at_their_points():
    curves = random_curves(torch.zeros(2000, 250, 1))
    assert 0.95 < curves[:, [0, -1]].std() < 1.05
