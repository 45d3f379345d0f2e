import numpy as np
import pytest

from ov_piano.data.keyboard import SOFT, SOSTENUTO, SUSTAIN
from ov_piano.data.midi import MidiNotes, read_notes
from ov_piano.data.pianoroll import piano_roll
from tests.midi_files import GOLDEN_MIDI, GOLDEN_ROLLS


def notes_and_pedals(notes, pedals=None, last_secs=1.0) -> MidiNotes:
    pedals = {pedal: np.array((pedals or {}).get(pedal, []), float).reshape(-1, 2) for pedal in (64, 66, 67)}
    return MidiNotes(np.array(notes, float).reshape(-1, 4), pedals, last_secs, restruck=0, unmatched=0)


@pytest.mark.parametrize("extend_sustain", [True, False])
@pytest.mark.parametrize("path", GOLDEN_MIDI, ids=lambda path: path.stem)
def test_rolls_equal_the_golden_ones(path, extend_sustain):
    roll, collisions = piano_roll(read_notes(path, extend_sustain))
    expected = GOLDEN_ROLLS[f"{path.stem}_extendsus={extend_sustain}"]
    assert roll.dtype == np.uint8
    np.testing.assert_array_equal(roll, expected)
    assert collisions == 0


def test_a_note_covers_its_onset_frame_up_to_its_offset_frame():
    roll, _ = piano_roll(notes_and_pedals([[0.1, 0.35, 60, 90]]), frame_secs=0.1)
    assert roll.shape == (259, 9)
    np.testing.assert_array_equal(roll[60], [0, 90, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(roll[128 + 60], [0, 90, 90, 0, 0, 0, 0, 0, 0])
    assert roll.sum() == 3 * 90


def test_times_after_the_last_frame_start_belong_to_the_last_frame():
    roll, _ = piano_roll(notes_and_pedals([[0.85, 0.99, 60, 90], [0.99, 0.99, 61, 80]]), frame_secs=0.1)
    assert roll[60, 8] == 90
    assert roll[61, 8] == 80
    assert roll.sum() == 90 + 80


def test_two_onsets_of_one_key_in_one_frame_collide_and_the_later_stays():
    notes = [[0.51, 0.52, 60, 10], [0.53, 0.75, 60, 20], [0.53, 0.75, 61, 30]]
    roll, collisions = piano_roll(notes_and_pedals(notes), frame_secs=0.1)
    assert collisions == 1
    assert roll[60, 5] == 20
    np.testing.assert_array_equal(roll[128 + 60], [0, 0, 0, 0, 0, 20, 20, 0, 0])
    assert roll[61, 5] == 30


def test_pedals_hold_their_value_until_the_next_change():
    pedals = {
        SUSTAIN: [[0.25, 100], [0.51, 40], [0.55, 50], [0.95, 0]],
        SOFT: [[0.0, 7]],
        SOSTENUTO: [[0.95, 127]],
    }
    roll, _ = piano_roll(notes_and_pedals([], pedals), frame_secs=0.1)
    np.testing.assert_array_equal(roll[256], [0, 0, 100, 100, 100, 50, 50, 50, 0])
    np.testing.assert_array_equal(roll[257], [7] * 9)
    np.testing.assert_array_equal(roll[258], [0, 0, 0, 0, 0, 0, 0, 0, 127])


@pytest.mark.parametrize("last_secs", [0.0, 0.01, 0.024, 0.03])
def test_a_very_short_file_has_one_frame(last_secs):
    roll, collisions = piano_roll(notes_and_pedals([[0.0, last_secs, 60, 5]], last_secs=last_secs))
    assert roll.shape == (259, 1)
    assert (roll[60, 0], collisions) == (5, 0)
