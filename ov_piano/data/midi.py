"""Standard MIDI files -> timed key and pedal messages -> notes.

All tracks and channels play one keyboard. Tracks of formats 0 and 1 are merged by time; tracks of format 2 are
independent sequences and are concatenated.
"""

import struct
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import mido
import numpy as np

from ov_piano.data.keyboard import SOFT, SOSTENUTO, SUSTAIN, play
from ov_piano.data.smf import CONTROL, KEY_DOWN, KEY_UP, SET_TEMPO, MidiEvents, Track, parse_midi
from ov_piano.errors import InputError

DEFAULT_TEMPO = 500_000  # microseconds a beat until the first set_tempo: 120 beats a minute
LONGEST_SECS = 12 * 3600  # a single corrupt delta time could otherwise require terabytes of piano roll
SMPTE = 0x8000  # flag in the time division: minus frames a second, then ticks a frame in the low byte, and no tempo
PEDALS = (SUSTAIN, SOSTENUTO, SOFT)


@dataclass(frozen=True)
class MidiMessages:
    """Key and pedal messages in order of time, as columns (n,); see `ov_piano.data.keyboard.play`.

    `secs` float64; `is_pedal` bool; `numbers`: note or control change; `values`: velocity (0: off) or pedal value.
    `last_secs`: the file's last timestamp.
    """

    secs: np.ndarray
    is_pedal: np.ndarray
    numbers: np.ndarray
    values: np.ndarray
    last_secs: float


@dataclass(frozen=True)
class MidiNotes:
    """Notes and pedal changes of a MIDI file.

    `notes`: (n, 4) float64 = onset s, offset s, MIDI note, velocity; ordered by onset, then note. Offsets are never
    before onsets, and notes of one key never overlap. `pedals`: control change -> (m, 2) float64 = seconds, value.
    `last_secs`: the file's last timestamp. `restruck` counts overlapping notes, `unmatched` counts unmatched note-offs.
    """

    notes: np.ndarray
    pedals: dict[int, np.ndarray]
    last_secs: float
    restruck: int
    unmatched: int


def read_notes(path: Path | str, extend_sustain: bool = True) -> MidiNotes:
    """Notes and pedal changes of a MIDI file; raises `InputError` if it cannot be read."""
    messages = read_messages(path)
    columns = (messages.secs, messages.is_pedal, messages.numbers, messages.values)
    keyboard = play(zip(*(column.tolist() for column in columns), strict=True), messages.last_secs, extend_sustain)
    notes = np.fromiter(chain.from_iterable(keyboard.notes), np.float64).reshape(-1, 4)
    pedals = {}
    for pedal in PEDALS:
        chosen = messages.is_pedal & (messages.numbers == pedal)
        pedals[pedal] = np.column_stack((messages.secs[chosen], messages.values[chosen]))
    return MidiNotes(
        notes=notes[np.lexsort((notes[:, 2], notes[:, 0]))],
        pedals=pedals,
        last_secs=messages.last_secs,
        restruck=keyboard.restruck,
        unmatched=keyboard.unmatched,
    )


def read_messages(path: Path | str) -> MidiMessages:
    """Key and pedal messages of a MIDI file; raises `InputError` if it cannot be read."""
    events = _read_events(path)
    sequences = [[track] for track in events.tracks] if events.midi_format == 2 else [events.tracks]
    rows, secs, last_secs = [], [], 0.0
    for tracks in sequences:
        sequence_rows, sequence_secs, end_secs = _timed(tracks, events.division)
        rows.append(sequence_rows)
        secs.append(last_secs + sequence_secs)
        last_secs += end_secs
    if last_secs > LONGEST_SECS:
        raise InputError(
            f"{path}: MIDI file lasts {last_secs / 3600:.0f} h, expected at most {LONGEST_SECS / 3600:.0f}"
        )
    _, kinds, numbers, values = np.concatenate(rows).T
    used = (kinds == KEY_DOWN) | (kinds == KEY_UP) | ((kinds == CONTROL) & np.isin(numbers, PEDALS))
    return MidiMessages(
        secs=np.concatenate(secs)[used],
        is_pedal=(kinds == CONTROL)[used],
        numbers=numbers[used],
        values=np.where(kinds == KEY_UP, 0, values)[used],
        last_secs=last_secs,
    )


def _read_events(path: Path | str) -> MidiEvents:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read MIDI file ({error.strerror})") from None
    try:
        events = parse_midi(data)
    except (ValueError, IndexError, struct.error):
        events = _parse_with_mido(path)
    if not events.tracks:
        raise InputError(f"{path}: MIDI file without tracks")
    ticks = events.division & 0xFF if events.division & SMPTE else events.division
    if ticks == 0 or events.midi_format not in (0, 1, 2):
        found = f"format {events.midi_format} and time division {events.division}"
        raise InputError(f"{path}: expected a MIDI file of format 0, 1 or 2 with ticks, found {found}")
    return events


def _parse_with_mido(path: Path | str) -> MidiEvents:
    """Parse a file that is not quite well-formed with mido, or raise `InputError` with mido's reason."""
    kinds = {"note_on": KEY_DOWN, "note_off": KEY_UP, "control_change": CONTROL}
    try:
        file = mido.MidiFile(path)
        tracks = []
        for messages in file.tracks:
            tick, rows = 0, []
            for message in messages:
                tick += message.time
                if message.type in kinds:
                    rows.append((tick, kinds[message.type], *message.bytes()[1:]))
                elif message.type == "set_tempo":
                    rows.append((tick, SET_TEMPO, 0, message.tempo))
            tracks.append(Track(np.array(rows, dtype=np.int64).reshape(-1, 4), tick))
        return MidiEvents(file.type, file.ticks_per_beat & 0xFFFF, tracks)
    except EOFError:
        raise InputError(f"{path}: MIDI file ends too early (truncated?)") from None
    except Exception as error:  # mido raises many types, from OSError to KeySignatureError
        raise InputError(f"{path}: not a readable MIDI file ({error})") from None


def _timed(tracks: list[Track], division: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Merge simultaneous tracks: rows (n, 4) in order of time, their times in seconds (n,), and the end in seconds.

    Times are cumulative sums of the delta times, as in the published rolls: rounding decides the frame of a time that
    falls on the boundary of two frames.
    """
    rows = np.concatenate([track.rows for track in tracks])
    rows = rows[np.argsort(rows[:, 0], kind="stable")]  # equal times keep track order
    end = max(track.last_tick for track in tracks)
    ticks = np.concatenate((rows[:, 0], [end]))
    secs = np.cumsum(np.diff(ticks, prepend=0) * _secs_per_tick(rows, division))
    return rows, secs[:-1], float(secs[-1])


def _secs_per_tick(rows: np.ndarray, division: int) -> np.ndarray | float:
    """(n + 1,): seconds per tick before each row and before the end, from the latest tempo."""
    if division & SMPTE:
        frames = 256 - (division >> 8)
        return 1 / ((29.97 if frames == 29 else frames) * (division & 0xFF))
    is_tempo = rows[:, 1] == SET_TEMPO
    tempos = np.concatenate(([DEFAULT_TEMPO], rows[is_tempo, 3]))
    tempos_so_far = np.concatenate(([0], np.cumsum(is_tempo)))
    return tempos[tempos_so_far] * 1e-6 / division
