"""Golden MIDI files, and helpers to write others."""

from pathlib import Path

import mido
import numpy as np

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_MIDI = sorted((GOLDEN / "midi").glob("*.mid"))
GOLDEN_ROLLS = np.load(GOLDEN / "rolls.npz")


def write_tracks(path: Path, tracks, midi_format: int | None = None, ticks_per_beat: int = 480) -> Path:
    """Write lists of mido messages as the tracks of a file; format 0 for one track, 1 for more unless given."""
    file = mido.MidiFile(type=min(len(tracks) - 1, 1) if midi_format is None else midi_format)
    file.ticks_per_beat = ticks_per_beat
    file.tracks = [mido.MidiTrack(track) for track in tracks]
    file.save(path)
    return path


def sorted_rows(rows: np.ndarray) -> np.ndarray:
    """Rows (n, 4) ordered by note, then onset (equal to the microsecond), then offset."""
    return rows[np.lexsort((rows[:, 1], rows[:, 0].round(6), rows[:, 2]))]
