"""Piano rolls: notes and pedals quantised to frames."""

import numpy as np

from ov_piano.constants import FRAME_ROWS, FRAME_SECS, ONSET_ROWS, ROLL_ROWS, SOFT_ROW, SOSTENUTO_ROW, SUSTAIN_ROW
from ov_piano.data.keyboard import SOFT, SOSTENUTO, SUSTAIN
from ov_piano.data.midi import MidiNotes

PEDAL_ROWS = {SUSTAIN: SUSTAIN_ROW, SOFT: SOFT_ROW, SOSTENUTO: SOSTENUTO_ROW}


def piano_roll(midi_notes: MidiNotes, frame_secs: float = FRAME_SECS) -> tuple[np.ndarray, int]:
    """Piano roll (259, frames) uint8, and the number of replaced notes.

    Rows 0-127 hold a note's velocity at its onset frame, rows 128-255 from the onset frame up to, not including, the
    offset frame; the last three hold the sustain, soft and sostenuto pedal's value until its next change. A time
    belongs to the last frame that starts no later. Of two notes of one key in one onset frame, the later one
    replaces the earlier.
    """
    frame_starts = frame_times(midi_notes.last_secs, frame_secs)
    roll = np.zeros((ROLL_ROWS, len(frame_starts)), dtype=np.uint8)

    keys, velocities = midi_notes.notes[:, 2:].astype(np.intp).T
    onsets, offsets = _frame_index(frame_starts, midi_notes.notes[:, :2].T)
    roll[ONSET_ROWS][keys, onsets] = velocities
    collisions = len(onsets) - np.count_nonzero(roll[ONSET_ROWS])
    sounding = roll[FRAME_ROWS]
    for key, onset, offset, velocity in zip(
        keys.tolist(), onsets.tolist(), offsets.tolist(), velocities.tolist(), strict=True
    ):
        sounding[key, onset:offset] = velocity

    for pedal, row in PEDAL_ROWS.items():
        changes = midi_notes.pedals[pedal]
        begins = _frame_index(frame_starts, changes[:, 0])
        lengths = np.diff(begins, append=len(frame_starts))
        roll[row, len(frame_starts) - lengths.sum() :] = np.repeat(changes[:, 1], lengths)
    return roll, collisions


def frame_times(last_secs: float, frame_secs: float = FRAME_SECS) -> np.ndarray:
    """Start of each frame in seconds (frames,) of a roll that ends at `last_secs`."""
    frame_starts = np.arange(0, last_secs, frame_secs)[:-1]
    return frame_starts if len(frame_starts) else np.zeros(1)  # shorter than two frames: keep one frame for the notes


def _frame_index(frame_starts: np.ndarray, secs: np.ndarray) -> np.ndarray:
    return np.searchsorted(frame_starts, secs, side="right") - 1
