import mido
import numpy as np
import pytest

from ov_piano.errors import InputError
from ov_piano.evaluation.ground_truth import load_ground_truth, load_ground_truths
from tests.midi_files import GOLDEN_MIDI, GOLDEN_ROLLS, sorted_rows, write_tracks


@pytest.mark.parametrize("path", GOLDEN_MIDI, ids=lambda path: path.stem)
def test_notes_equal_the_golden_ones(path):
    expected = GOLDEN_ROLLS[f"{path.stem}_groundtruth"]
    np.testing.assert_allclose(sorted_rows(load_ground_truth(path)), sorted_rows(expected), rtol=0, atol=1e-9)


def test_notes_of_no_length_get_a_millisecond(tmp_path):
    messages = [
        mido.Message("note_on", note=60, velocity=50, time=1000),
        mido.Message("note_on", note=60, velocity=0, time=0),
        mido.Message("note_on", note=62, velocity=70, time=1000),
        mido.Message("note_off", note=62, velocity=9, time=1000),
    ]
    path = write_tracks(tmp_path / "a.mid", [messages], ticks_per_beat=1000)
    np.testing.assert_allclose(load_ground_truth(path), [[0.5, 0.501, 60, 50], [1.0, 1.5, 62, 70]], rtol=0, atol=1e-9)


def test_many_files_keep_their_order():
    paths = [GOLDEN_MIDI[2], GOLDEN_MIDI[0], GOLDEN_MIDI[2], GOLDEN_MIDI[1]]
    for path, notes in zip(paths, load_ground_truths(paths), strict=True):
        np.testing.assert_array_equal(notes, load_ground_truth(path))


def test_a_broken_file_among_many_is_named(tmp_path):
    broken = tmp_path / "broken.mid"
    broken.write_bytes(b"RIFFxxxx")
    with pytest.raises(InputError, match=r"broken\.mid"):
        load_ground_truths([GOLDEN_MIDI[0], broken])
