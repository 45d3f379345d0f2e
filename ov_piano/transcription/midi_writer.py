"""Note events -> Standard MIDI File.

A note ends at its ``offset_secs`` or, for events without note ends, after a fixed duration; at the latest at the
next onset of its key.
"""

import logging
from pathlib import Path

import mido
import numpy as np
import pandas as pd

from ov_piano.errors import InputError
from ov_piano.machine.atomic import atomic_write
from ov_piano.transcription.note_ends import end_by_next_onset, has_ends

TEMPO = 500_000  # microseconds per beat: 120 bpm, the MIDI default
TICKS_PER_BEAT = 960
TICK_SECS = TEMPO / 1e6 / TICKS_PER_BEAT  # 0.52 ms
NOTE_SECS = 0.5  # duration of a note without a known end

log = logging.getLogger(__name__)


def to_notes(events: pd.DataFrame, note_secs: float = NOTE_SECS) -> np.ndarray:
    """Events (``onset_secs``, ``note``, ``velocity``) -> (n, 4): onset s, offset s, MIDI note, velocity 1-127.

    Offsets are those of the column ``offset_secs`` or, without it, ``note_secs`` after the onset, but at the latest
    the next onset of the note. Ordered by onset, then note. Of simultaneous events of one key, the loudest is kept.

    :raises InputError: values that are not finite or that MIDI cannot hold, or ``note_secs`` is not above 0
    """
    if not 0 < note_secs < np.inf:
        raise InputError(f"note_secs {note_secs}: expected a number above 0")
    columns = ["onset_secs", "note", "velocity"] + ["offset_secs"] * has_ends(events)
    if not np.isfinite(events[columns].to_numpy(np.float64)).all():
        raise InputError(f"events: expected finite {', '.join(columns)}")
    if not events["note"].between(0, 127).all() or (events["onset_secs"] < 0).any():
        raise InputError("events: expected notes from 0 to 127 and onsets of at least 0 s")
    table = events.sort_values(["onset_secs", "note", "velocity"])
    table = table.drop_duplicates(["onset_secs", "note"], keep="last")
    if not has_ends(events):
        table = table.assign(offset_secs=table["onset_secs"] + note_secs)
    offset = end_by_next_onset(table)["offset_secs"]
    velocity = table["velocity"].round().clip(1, 127)
    return np.stack([table["onset_secs"], offset, table["note"], velocity], axis=1).astype(np.float64)


def to_midi(events: pd.DataFrame, note_secs: float = NOTE_SECS) -> mido.MidiFile:
    """A type 1 file with a tempo track and a piano track; times are rounded to ``TICK_SECS``."""
    changes = []  # (tick, is on, note, velocity): at the same tick, note-offs sort first
    dropped = 0
    for onset, offset, note, velocity in to_notes(events, note_secs):
        begin, end = round(onset / TICK_SECS), round(offset / TICK_SECS)
        if begin == end:
            dropped += 1
            continue
        changes += [(begin, True, int(note), int(velocity)), (end, False, int(note), 0)]
    if dropped:
        log.warning("dropped %d notes shorter than half a millisecond", dropped)
    piano = mido.MidiTrack([mido.MetaMessage("track_name", name="Piano"), mido.Message("program_change", program=0)])
    last = 0
    for tick, is_on, note, velocity in sorted(changes):
        kind = "note_on" if is_on else "note_off"
        piano.append(mido.Message(kind, note=note, velocity=velocity, time=tick - last))
        last = tick
    piano.append(mido.MetaMessage("end_of_track", time=1))
    tempo = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=TEMPO), mido.MetaMessage("time_signature")])
    tempo.append(mido.MetaMessage("end_of_track", time=1))
    return mido.MidiFile(type=1, ticks_per_beat=TICKS_PER_BEAT, tracks=[tempo, piano])


def write_midi(events: pd.DataFrame, path: str | Path, note_secs: float = NOTE_SECS) -> None:
    """Write :func:`to_midi` to ``path`` atomically."""
    with atomic_write(path) as partial:
        to_midi(events, note_secs).save(partial)
