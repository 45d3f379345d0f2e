"""Frame scores: which keys sound in each frame, as in ``mir_eval.multipitch`` (its precision and recall)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ov_piano.constants import FRAME_SECS, KEYS, LOWEST_NOTE
from ov_piano.evaluation.scoring import PRF, prf
from ov_piano.evaluation.search import ONSET_COLUMNS, above_threshold
from ov_piano.settings import OperatingPoint
from ov_piano.transcription.note_ends import end_by_next_onset, shifted


def score_frames(reference: np.ndarray, estimate: np.ndarray, frame_secs: float = FRAME_SECS) -> PRF:
    """Scores of the sounding keys in frames of ``frame_secs``.

    :param reference, estimate: notes (n, 4): onset (s), offset (s), MIDI note, velocity
    """
    last = max((notes[:, 1].max() for notes in (reference, estimate) if len(notes)), default=0.0)
    frames = int(np.ceil(last / frame_secs)) + 1
    sounding, found = (sounding_keys(notes, frames, frame_secs) for notes in (reference, estimate))
    return prf(int((sounding & found).sum()), int(found.sum()), int(sounding.sum()))


def frame_table(
    names: Sequence[str],
    references: Sequence[np.ndarray],
    estimates: Sequence[pd.DataFrame],
    point: OperatingPoint,
    frame_secs: float = FRAME_SECS,
) -> pd.DataFrame:
    """Frame scores P, R, F1 of events with note ends at one operating point, one row per recording."""
    rows = []
    for reference, events in zip(references, estimates, strict=True):
        notes = shifted(end_by_next_onset(events[above_threshold(events, point.threshold)]), point.shift)
        columns = ["onset_secs", "offset_secs", "note", "velocity"]
        rows.append(score_frames(reference, notes[columns].to_numpy(np.float64), frame_secs))
    return pd.DataFrame(rows, index=pd.Index(names, name="Filename")).set_axis(ONSET_COLUMNS, axis=1)


def sounding_keys(notes: np.ndarray, frames: int, frame_secs: float = FRAME_SECS) -> np.ndarray:
    """Bool (keys, frames): whether a note sounds at the start of each frame; frame i starts at i * ``frame_secs``."""
    edges = np.zeros((KEYS, frames + 1), np.int64)
    keys = notes[:, 2].astype(np.intp) - LOWEST_NOTE
    on_piano = (keys >= 0) & (keys < KEYS)
    starts = np.arange(frames) * frame_secs
    for times, change in ((notes[:, 0], 1), (notes[:, 1], -1)):
        np.add.at(edges, (keys[on_piano], np.searchsorted(starts, times[on_piano])), change)
    return edges.cumsum(axis=1)[:, :-1] > 0
