"""Parts: the log-mel and piano roll of a single recording in a small HDF5 file.

Preprocessing makes one part per recording, in any order and in several processes, and joins
them at the end. A part is written atomically and stores a fingerprint of its inputs, so that
an interrupted run can resume with the parts that exist.
"""

import json
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import torch

from ov_piano.constants import ONSET_ROWS
from ov_piano.data.audio import SILENCE_DB, LogMel, audio_info, load_mono, logmel_frames
from ov_piano.data.hdf5 import create_frames
from ov_piano.data.midi import read_messages, read_notes
from ov_piano.data.pianoroll import frame_times, piano_roll
from ov_piano.data.recording import Recording
from ov_piano.data.steady_file import new_hdf5
from ov_piano.data.store_names import MelName, RollName
from ov_piano.errors import InputError
from ov_piano.machine.atomic import atomic_write
from ov_piano.settings import LogMelSettings


@dataclass(frozen=True)
class PartSettings:
    """Settings that determine a part's contents."""

    mel: MelName
    roll: RollName
    chunk_frames: int
    ignore_mel: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class Report:
    """Statistics of one recording, or sums over several."""

    recordings: int = 0
    frames: int = 0
    notes: int = 0
    collisions: int = 0  # notes replaced by a later one of the same key in the same frame
    restruck: int = 0  # overlapping notes: keys struck while down
    unmatched: int = 0  # unmatched note-offs
    cut: int = 0  # recordings whose MIDI is longer than the audio
    cut_notes: int = 0  # onsets beyond the end of the audio
    silent: int = 0  # recordings

    def __add__(self, other: "Report") -> "Report":
        return Report(**{name: value + getattr(other, name) for name, value in asdict(self).items()})

    def anomalies(self) -> str:
        """The anomalies as text; empty if there are none."""
        counts = {
            "notes replaced by a later one of the same key in the same frame": self.collisions,
            "overlapping notes": self.restruck,
            "unmatched note-offs": self.unmatched,
            "notes dropped after the end of the audio": self.cut_notes,
        }
        found = [f"{count} {what}" for what, count in counts.items() if count]
        return ", ".join(found + ["silent"] * bool(self.silent))


@dataclass(frozen=True)
class Job:
    """A part of ``frames`` frames to make, after ``lead`` empty frames that align its chunks with the store."""

    recording: Recording
    path: Path
    frames: int
    lead: int
    settings: PartSettings

    def fingerprint(self) -> str:
        """Identifies everything that determines the part's contents."""
        files = [self.recording.midi_path] + ([] if self.settings.ignore_mel else [self.recording.audio_path])
        stats = [(path.name, stat.st_size, stat.st_mtime_ns) for path in files for stat in [path.stat()]]
        return repr((replace(self.settings, device=""), self.frames, self.lead, stats))


def count_frames(recording: Recording, settings: PartSettings) -> int:
    """Number of frames of the recording in the stores. Also reads the MIDI file, to report a bad one early.

    Computed from the audio file's header; from the MIDI file if ``ignore_mel`` is set and there is no audio.

    :raises InputError: unusable MIDI or audio file.
    """
    path = recording.audio_path
    last_secs = read_messages(recording.midi_path).last_secs
    if settings.ignore_mel and not path.exists():
        return len(frame_times(last_secs, settings.roll.frame_secs))
    info = audio_info(path)
    frames = logmel_frames(info.samples, info.sample_rate, settings.mel.settings)
    if frames < 1:
        raise InputError(f"{path}: too short, {info.samples} samples at {info.sample_rate} Hz")
    return frames


def is_complete(job: Job) -> bool:
    """Whether the part exists and was made from the same files with the same settings."""
    try:
        with h5py.File(job.path, "r") as file:
            return file.attrs["fingerprint"] == job.fingerprint()
    except (OSError, KeyError):
        return False


def make_part(job: Job) -> None:
    """Compute the roll and log-mel of one recording and write them as a part.

    :raises InputError: unusable MIDI or audio file.
    :raises OSError: the part cannot be written; the error contains its path.
    """
    settings, fingerprint = job.settings, job.fingerprint()
    roll, report = _roll(job)
    logmel = None
    if not settings.ignore_mel:
        logmel = _logmel(job)
        report = replace(report, silent=int(logmel.max() <= SILENCE_DB))
    with atomic_write(job.path) as partial, new_hdf5(partial) as (file, _):
        for name, array in (("roll", roll), ("logmel", logmel)):
            if array is not None:
                data = create_frames(file, name, array.shape[0], settings.chunk_frames)
                data.resize(job.lead + array.shape[1], axis=1)
                data[:, job.lead :] = array
        file.attrs.update(fingerprint=fingerprint, report=json.dumps(asdict(report)))


def read_report(part: h5py.File) -> Report:
    return Report(**json.loads(part.attrs["report"]))


def _roll(job: Job) -> tuple[np.ndarray, Report]:
    """The roll (259, frames), padded or cut to the log-mel's length."""
    notes = read_notes(job.recording.midi_path, job.settings.roll.extend_sustain)
    roll, collisions = piano_roll(notes, job.settings.roll.frame_secs)
    frames = job.frames
    beyond = roll[:, frames:]
    report = Report(
        recordings=1,
        frames=frames,
        notes=len(notes.notes),
        collisions=int(collisions),
        restruck=notes.restruck,
        unmatched=notes.unmatched,
        cut=int(beyond.any()),
        cut_notes=int(np.count_nonzero(beyond[ONSET_ROWS])),
    )
    return np.pad(roll[:, :frames], ((0, 0), (0, max(0, frames - roll.shape[1])))), report


def _logmel(job: Job) -> np.ndarray:
    """The log-mel (mels, frames) of the recording's audio."""
    settings, path, device = job.settings.mel.settings, job.recording.audio_path, job.settings.device
    transform = _transform(settings, device)
    wave = load_mono(path, settings.sample_rate)
    try:
        with torch.inference_mode():
            logmel = transform(wave.to(device)).cpu().numpy()
    except InputError as error:
        raise InputError(f"{path}: too short: {error}") from None
    if logmel.shape[1] != job.frames:
        raise InputError(f"{path}: changed while it was read ({job.frames} frames before, {logmel.shape[1]} now)")
    return logmel


@cache  # one per process
def _transform(settings: LogMelSettings, device: str) -> LogMel:
    return LogMel(settings).to(device)
