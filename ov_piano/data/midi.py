"""Standard MIDI files: read into timed key and pedal messages, and from there into notes.

All tracks and channels play one keyboard. Formats 0 and 1 are merged by time; the tracks of a format 2 file are
independent sequences and follow one another. Times come from ticks and the tempo map.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import mido
import numpy as np

from ov_piano.data.keyboard import SOFT, SOSTENUTO, SUSTAIN, KeyMessage, play
from ov_piano.errors import InputError

DEFAULT_TEMPO = 500_000  # microseconds a beat until the first set_tempo: 120 beats a minute
LONGEST_SECS = 12 * 3600  # a broken tick count would otherwise ask for terabytes of piano roll
PEDALS = (SUSTAIN, SOFT, SOSTENUTO)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MidiNotes:
    """What a MIDI file says about keys and pedals.

    `notes`: (n, 4) float64 = onset s, offset s, MIDI note, velocity; ordered by onset, then note. Offsets are never
    before onsets, and notes of one key never overlap. `pedals`: control change -> (n, 2) float64 = seconds, value.
    `last_secs`: the file's last timestamp. `restruck` and `unmatched` count keys struck while down and lifted while up.
    """

    notes: np.ndarray
    pedals: dict[int, np.ndarray]
    last_secs: float
    restruck: int
    unmatched: int


def read_notes(path: Path | str, extend_sustain: bool = True) -> MidiNotes:
    """Note events and pedal changes of a MIDI file; raises `InputError` if it cannot be read."""
    messages, last_secs = read_messages(path)
    keyboard = play(messages, last_secs, extend_sustain)
    notes = np.array(keyboard.notes, dtype=np.float64).reshape(-1, 4)
    pedals = {
        pedal: np.array([(m.secs, m.value) for m in messages if m.is_pedal and m.number == pedal]).reshape(-1, 2)
        for pedal in PEDALS
    }
    if keyboard.restruck or keyboard.unmatched:
        logger.debug("%s: %d keys struck while down, %d lifted while up", path, keyboard.restruck, keyboard.unmatched)
    order = np.lexsort((notes[:, 2], notes[:, 0]))
    return MidiNotes(notes[order], pedals, last_secs, keyboard.restruck, keyboard.unmatched)


def read_messages(path: Path | str) -> tuple[list[KeyMessage], float]:
    """Key and pedal messages of a MIDI file in order of time, and the file's last timestamp in seconds."""
    ticks_per_beat, tracks = _read_tracks(path)
    rows = []
    last_tick = 0
    for track in tracks:
        tick = 0
        for message in track:
            tick += message.time
            row = _tempo_or_key_message(message)
            if row is not None:
                rows.append((tick, *row))
        last_tick = max(last_tick, tick)
    rows.sort(key=lambda row: row[0])

    messages = []
    secs, previous_tick, tempo = 0.0, 0, DEFAULT_TEMPO
    for tick, is_pedal, number, value in rows:
        secs += (tick - previous_tick) * _secs_per_tick(ticks_per_beat, tempo)
        previous_tick = tick
        if is_pedal is None:
            tempo = value
        else:
            messages.append(KeyMessage(secs, is_pedal, number, value))
    last_secs = secs + (last_tick - previous_tick) * _secs_per_tick(ticks_per_beat, tempo)
    if last_secs > LONGEST_SECS:
        raise InputError(f"{path}: lasts {last_secs / 3600:.1f} h, expected at most {LONGEST_SECS / 3600:.0f} h")
    return messages, last_secs


def _read_tracks(path: Path | str):
    try:
        file = mido.MidiFile(path)
    except FileNotFoundError:
        raise InputError(f"{path}: MIDI file not found") from None
    except EOFError:
        raise InputError(f"{path}: MIDI file ends too early (truncated?)") from None
    except Exception as error:  # mido's parser lets many kinds through, from OSError to its own KeySignatureError
        raise InputError(f"{path}: not a readable MIDI file ({error})") from None
    if not file.tracks:
        raise InputError(f"{path}: MIDI file without tracks")
    if file.type == 2 and len(file.tracks) > 1:
        return file.ticks_per_beat, [mido.MidiTrack(message for track in file.tracks for message in track)]
    return file.ticks_per_beat, file.tracks


def _tempo_or_key_message(message) -> tuple | None:
    kind = message.type
    if kind == "note_on":
        return False, message.note, message.velocity
    if kind == "note_off":
        return False, message.note, 0
    if kind == "control_change" and message.control in PEDALS:
        return True, message.control, message.value
    if kind == "set_tempo":
        return None, 0, message.tempo
    return None


def _secs_per_tick(ticks_per_beat: int, tempo: int) -> float:
    return tempo * 1e-6 / ticks_per_beat
