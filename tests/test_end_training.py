"""Targets and loss of the end stage, against loops over notes and frames."""

import math

import pytest
import torch

from ov_piano.training.ends import CUT_WEIGHT, LEAST_FRAMES, SHARE, busiest_keys, end_loss, find_notes

FRAMES = 40
ROLL = torch.zeros(3, FRAMES)
ROLL[0, 0:7] = 50  # begins before the roll
ROLL[0, 10:12] = 64
ROLL[0, 12:30] = 80  # struck again
ROLL[1, 20:38] = 70  # may end after the roll within the tolerance
ROLL[2, 5:33] = 90
ROLL[2, 38:] = 20  # ends after the roll
NOTES = [
    (0, 0, 7, False, True),
    (0, 10, 12, True, False),
    (0, 12, 30, False, False),
    (1, 20, 38, False, False),
    (2, 5, 33, False, False),
]
NOTES += [(2, 38, 40, False, True)]


def loss_by_loops(logits: torch.Tensor) -> float:
    """The loss of `ROLL`, note by note."""
    probs, total, weights = logits.double().sigmoid(), 0.0, 0.0
    for row, begin, end, struck_again, is_cut in NOTES:
        reach = int(max(SHARE * (end - begin), LEAST_FRAMES))
        first = FRAMES if end == FRAMES else max(end - reach, begin + 1)
        probability = math.prod(1 - probs[row, frame].item() for frame in range(begin + 1, first))
        if not struck_again and end + reach < FRAMES:
            probability *= 1 - math.prod(1 - probs[row, frame].item() for frame in range(first, end + reach + 1))
        weight = CUT_WEIGHT if is_cut else 1.0
        total, weights = total - weight * math.log(probability), weights + weight
    return total / weights


def test_notes_are_found_with_how_they_end():
    found = find_notes(ROLL)
    assert list(zip(*(values.tolist() for values in found), strict=True)) == NOTES
    assert len(find_notes(torch.zeros(3, FRAMES)).row) == 0


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_loss_is_the_log_probability_of_ends_near_the_true_ones(scale):
    logits = scale * torch.randn(3, FRAMES, generator=torch.Generator().manual_seed(1)) - 2
    assert end_loss(logits, ROLL).item() == pytest.approx(loss_by_loops(logits), rel=1e-4)


def test_a_sure_and_true_map_costs_nothing_and_silence_has_no_loss():
    logits = torch.full((3, FRAMES), -30.0)
    for row, frame in ((0, 7), (0, 12), (0, 30), (2, 33)):
        logits[row, frame] = 30.0
    assert end_loss(logits, ROLL).item() == pytest.approx(0, abs=1e-6)
    assert end_loss(-logits, ROLL).item() > 10
    assert end_loss(logits, torch.zeros(3, FRAMES)).item() == 0


def test_the_busiest_keys_are_those_with_most_onsets_in_ascending_order():
    velocities = torch.zeros(2, 5, 12)
    velocities[0, 1, ::2] = 60  # six notes
    velocities[0, 4, ::4] = 60  # three
    velocities[0, 0, 3:] = 60  # one long note
    velocities[1, 3, 2:4] = 1
    velocities[1, 3, 4:6] = 9  # louder: struck again
    velocities[1, 2, 5] = 60
    assert busiest_keys(velocities, 2).tolist() == [[1, 4], [2, 3]]
