"""Reference notes for scoring, from the MIDI files rather than the quantised rolls."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ov_piano.data.midi import read_notes

SHORTEST_SECS = 0.001  # duration given to notes of zero length, which mir_eval rejects


def load_ground_truth(midi_path: Path | str) -> np.ndarray:
    """Notes (n, 4) float64 of a MIDI file, extended by the sustain pedal: onset s, offset s, MIDI note, velocity."""
    notes = read_notes(midi_path, extend_sustain=True).notes
    onsets, offsets = notes[:, 0], notes[:, 1]
    notes[:, 1] = np.where(offsets > onsets, offsets, onsets + SHORTEST_SECS)
    return notes


def load_ground_truths(midi_paths: Sequence[Path | str]) -> list[np.ndarray]:
    """`load_ground_truth` of each file, in the order given, with a progress bar."""
    return [load_ground_truth(path) for path in tqdm(midi_paths, desc="ground truth", unit="file", disable=None)]
