"""MIDI file to piano roll on 20 performances, MAESTRO's if at hand, against mido's player and a plain state machine."""

import tempfile
from pathlib import Path

import mido
import numpy as np

from ov_piano.constants import FRAME_SECS, ROLL_ROWS, SOFT_ROW, SOSTENUTO_ROW, SUSTAIN_ROW
from ov_piano.data.midi import read_notes
from ov_piano.data.pianoroll import piano_roll
from tests.benchmarks.paired import paired, seconds
from tests.conftest import random_notes, write_midi

MAESTRO = Path("datasets/maestro/maestro-v3.0.0")
FILES, MINUTES = 20, 10


def benchmarks() -> dict[str, dict]:
    """All entries of this file."""
    with tempfile.TemporaryDirectory() as folder:
        paths = performances(Path(folder))
        for path in paths:
            assert np.array_equal(piano_roll(read_notes(path))[0], plain_roll(path)), path
        entry = paired(
            lambda: [piano_roll(read_notes(path)) for path in paths], lambda: [plain_roll(path) for path in paths]
        )
        entry["files"] = "MAESTRO's" if MAESTRO.exists() else "random"
        entry["notes"] = sum(len(read_notes(path).notes) for path in paths)
        entry["mido_parsing_alone"] = seconds(lambda: [mido.MidiFile(path) for path in paths])
    return {"midi_to_roll": entry}


def performances(folder: Path) -> list[Path]:
    """Some of MAESTRO's MIDI files, or where there are none random ones, put into ``folder``."""
    if paths := sorted(MAESTRO.glob("*/*.mid*"))[:FILES]:
        return paths
    rng, seconds = np.random.default_rng(0), 60 * MINUTES
    for index in range(FILES):
        pedal = [(secs, 64, int(rng.integers(0, 128))) for secs in np.arange(0.1, seconds, 0.1)]
        write_midi(folder / f"{index}.mid", random_notes(rng, seconds), controls=pedal)
    return sorted(folder.glob("*.mid"))


def plain_roll(path: Path) -> np.ndarray:
    """Piano roll (259, frames) the obvious way: each message makes a new state, each note is written by itself."""
    notes, pedals, last_secs = plain_notes(path)
    frame_starts = np.arange(0, last_secs, FRAME_SECS)[:-1]
    roll = np.zeros((ROLL_ROWS, len(frame_starts)), dtype=np.uint8)

    def frame(secs: float) -> int:
        return np.searchsorted(frame_starts, secs, side="right") - 1

    for onset, offset, note, velocity in sorted(notes):
        roll[note, frame(onset)] = velocity
        roll[128 + note, frame(onset) : frame(offset)] = velocity
    for secs, control, value in pedals:
        roll[{64: SUSTAIN_ROW, 66: SOSTENUTO_ROW, 67: SOFT_ROW}[control], frame(secs) :] = value
    return roll


def plain_notes(path: Path) -> tuple[list, list, float]:
    """Notes (onset s, offset s, note, velocity), pedal changes (s, control, value) and the last timestamp."""
    state = {"sounding": {}, "down": set(), "caught": set(), 64: 0, 66: 0}
    notes, pedals, secs = [], [], 0.0
    for message in mido.MidiFile(path):
        secs += message.time
        if message.type in ("note_on", "note_off", "control_change"):
            state, ended = plain_step(state, message, secs)
            notes += ended
            if message.type == "control_change" and message.control in (64, 66, 67):
                pedals.append((secs, message.control, message.value))
    notes += [(onset, secs, note, velocity) for note, (onset, velocity) in state["sounding"].items()]
    return notes, pedals, secs


def plain_step(state: dict, message: mido.Message, secs: float) -> tuple[dict, list]:
    """The state after a message, and the notes that it ended."""
    state = {name: value.copy() if hasattr(value, "copy") else value for name, value in state.items()}
    sounding, ended = state["sounding"], []

    def held(note: int) -> bool:
        return state[64] > 7 or (state[66] > 0 and note in state["caught"])

    if message.type == "control_change":
        if message.control == 66 and state[66] == 0 and message.value > 0:
            state["caught"] = state["down"].copy()
        if message.control in (64, 66):
            state[message.control] = message.value
    elif message.type == "note_on" and message.velocity > 0:
        if message.note in sounding:
            onset, velocity = sounding[message.note]
            early = 0.001 if message.note in state["down"] and not held(message.note) else 0
            ended.append((onset, max(onset, secs - early), message.note, velocity))
        sounding[message.note] = (secs, message.velocity)
        state["down"].add(message.note)
    else:
        state["down"].discard(message.note)
    for note in [note for note in sounding if note not in state["down"] and not held(note)]:
        onset, velocity = sounding.pop(note)
        ended.append((onset, secs, note, velocity))
    return state, ended


if __name__ == "__main__":
    print(benchmarks())
