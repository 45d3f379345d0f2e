"""A plain implementation of script 0a: the reference for its results and its speed.

Run as ``python -m tests.plain_pipeline TREE OUTPUT``.
"""

import sys
from pathlib import Path

import h5py
import mido
import numpy as np
import soundfile as sf
import torchaudio
from torch import Tensor

from ov_piano.constants import (
    FRAME_SECS,
    HOP,
    MEL_FMAX,
    MEL_FMIN,
    MELS,
    ROLL_ROWS,
    SAMPLE_RATE,
    SOFT_ROW,
    SOSTENUTO_ROW,
    SUSTAIN_ROW,
    WINDOW,
)
from ov_piano.data.hdf5 import MelName, RollName
from ov_piano.data.maestro import load_recordings

CHUNK_FRAMES = 333
MEL_NAME = str(MelName("MAESTROv3"))
ROLL_NAME = str(RollName("MAESTROv3", FRAME_SECS, True))


def preprocess_plainly(tree: Path, output: Path) -> None:
    """Process one recording at a time: torchaudio, a plain state machine, flushed appends."""
    output.mkdir(parents=True)
    sizes = {"n_fft": WINDOW, "hop_length": HOP, "f_min": MEL_FMIN, "f_max": MEL_FMAX, "n_mels": MELS}
    mel = torchaudio.transforms.MelSpectrogram(SAMPLE_RATE, **sizes)
    decibels = torchaudio.transforms.AmplitudeToDB("power", top_db=80)
    with h5py.File(output / MEL_NAME, "w") as mels, h5py.File(output / ROLL_NAME, "w") as rolls:
        for file, height in ((mels, MELS), (rolls, ROLL_ROWS)):
            storage = {"chunks": (height, CHUNK_FRAMES), "compression": "lzf"}
            file.create_dataset("data", (height, 0), "f4", maxshape=(height, None), **storage)
            file.create_dataset("metadata", (0,), h5py.string_dtype("utf-8"), maxshape=(None,))
            file.create_dataset("data_idxs", (2, 0), "i8", maxshape=(2, None))
        for recording in load_recordings(tree):
            wave, rate = torchaudio_load(recording.audio_path)
            resample = torchaudio.transforms.Resample(rate, SAMPLE_RATE)
            logmel = decibels(mel(resample(wave.mean(0)))).numpy()
            roll = np.zeros((ROLL_ROWS, logmel.shape[1]), np.float32)
            found = plain_roll(recording.midi_path)[:, : logmel.shape[1]]
            roll[:, : found.shape[1]] = found
            append_plainly(mels, logmel, recording.metadata)
            append_plainly(rolls, roll, recording.metadata)


def torchaudio_load(path: Path) -> tuple[Tensor, int]:
    """Like `torchaudio.load`: (channels, samples), rate."""
    wave, rate = sf.read(path, dtype="float32", always_2d=True)
    return Tensor(wave).T, rate


def append_plainly(file: h5py.File, array: np.ndarray, metadata: tuple) -> None:
    begin, count = file["data"].shape[1], len(file["metadata"])
    file["data"].resize(begin + array.shape[1], axis=1)
    file["metadata"].resize(count + 1, axis=0)
    file["data_idxs"].resize(count + 1, axis=1)
    file["data"][:, begin:] = array
    file["metadata"][count] = str(tuple(metadata))
    file["data_idxs"][:, count] = begin, begin + array.shape[1]
    file.flush()


def plain_roll(path: Path) -> np.ndarray:
    """Piano roll (259, frames), plainly: each message makes a new state, each note is written separately."""
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
    """The state after a message, and the notes that ended."""
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
    preprocess_plainly(Path(sys.argv[1]), Path(sys.argv[2]))
