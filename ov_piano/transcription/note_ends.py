"""Note ends from two maps of the sounding stage: whether a key sounds, and whether it falls silent.

A note ends with the first of these after its onset:

- a peak of the end probability, smoothed over three frames, that reaches ``end_threshold``;
- the begin of a silence: ``silent_frames`` or more in a row with a sounding probability below ``sounding_threshold``
  (fewer at the end of the recording). Within a silence it ends at once;
- the next onset of its key. This depends on which onsets are kept, so tables contain the ends without it, and
  :func:`end_by_next_onset` applies it;
- the end of the recording.

It lasts at least ``shortest_frames``, unless its key is struck again.
"""

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from ov_piano.constants import KEYS
from ov_piano.settings import EndSettings

REACH = 2  # frames to either side that a peak depends on
END_IN_FRAME = 0.5  # a note ends within its end frame, on average in the middle
SHORTEST_SECS = 0.001  # of a note that a shift moves to the beginning


class NoteEnds:
    """Collects the peaks and silences of all keys from consecutive pieces of the maps, in little memory."""

    def __init__(self, settings: EndSettings | None = None):
        self.settings = settings or EndSettings()
        self._maps = torch.zeros(2, KEYS, 0)  # the last frames
        self._frames = 0  # so far
        self._settled = 0  # frames before this one are in the lists
        self._was_silent = np.zeros((KEYS, 1), bool)
        self._changes: list[np.ndarray] = []  # (n, 2) key and frame at which a silence begins or ends
        self._peaks: list[np.ndarray] = []  # (n, 2) key and frame

    def add(self, maps: Tensor) -> None:
        """The next piece: probabilities (2, keys, t) of sounding keys and of note ends."""
        self._maps = torch.cat([self._maps, maps.cpu()], dim=2)
        self._frames += maps.shape[2]
        self._settle(self._frames - REACH)

    def __call__(self, keys: np.ndarray, onsets: np.ndarray) -> np.ndarray:
        """End frames (n,) of the notes with these keys (0-87) and onset frames, (n,) each."""
        self._settle(self._frames)
        starts = onsets + self.settings.shortest_frames
        first, never = self._place(keys, 0), self._place(KEYS, 0)
        begins, silence_ends = self._silences()
        following = np.searchsorted(silence_ends, first + starts, side="right")
        silence = np.maximum(np.append(begins, never)[following] - first, starts)
        peaks = np.sort(self._place(*_joined(self._peaks).T))
        peak = np.append(peaks, never)[np.searchsorted(peaks, first + starts)] - first
        found = np.minimum(silence, peak)  # beyond all frames: there is none on this key
        return np.minimum(found, np.maximum(self._frames, onsets + 1))

    def _settle(self, until: int) -> None:
        """Move the peaks and silences of the frames before ``until`` to the lists."""
        if until <= self._settled:
            return
        begin = self._frames - self._maps.shape[2]
        new = slice(self._settled - begin, until - begin)
        sounding, ends = self._maps
        peaks = end_peaks(ends, self.settings.end_threshold)[:, new].numpy()
        silent = (sounding[:, new] < self.settings.sounding_threshold).numpy()
        offset = np.array([0, self._settled])
        self._peaks.append(np.argwhere(peaks) + offset)
        self._changes.append(np.argwhere(np.diff(silent, axis=1, prepend=self._was_silent)) + offset)
        self._was_silent = silent[:, -1:]
        self._settled = until
        self._maps = self._maps[:, :, max(0, until - REACH - begin) :].clone()

    def _silences(self) -> tuple[np.ndarray, np.ndarray]:
        """Where silences begin and end (exclusive), as places of all keys one after the other, in order."""
        unfinished = np.flatnonzero(self._was_silent[:, 0])
        last = np.column_stack([unfinished, np.full(len(unfinished), self._frames)])
        places = np.sort(self._place(*_joined([*self._changes, last]).T))
        begins, ends = places[::2], places[1::2]  # each key's changes alternate
        counts = (ends - begins >= self.settings.silent_frames) | (ends % self._stride == self._frames)
        return begins[counts], ends[counts]

    @property
    def _stride(self) -> int:
        return self._frames + 2 * self.settings.shortest_frames + 2  # more than any frame asked for

    def _place(self, keys: np.ndarray | int, frames: np.ndarray | int) -> np.ndarray:
        return keys * self._stride + frames


def end_peaks(ends: Tensor, threshold: float) -> Tensor:
    """Where the smoothed end probability (keys, t) has a peak of at least ``threshold``: bool (keys, t)."""
    padded = pad(ends, (1, 1))
    smooth = (padded[:, :-2] + 2 * ends + padded[:, 2:]) / 4
    return (smooth >= threshold) & (smooth == max_pool1d(smooth[None], 3, stride=1, padding=1)[0])


def _joined(rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty((0, 2), np.int64), *rows])


def has_ends(events: pd.DataFrame) -> bool:
    """Whether a table of events has note ends."""
    return "offset_secs" in events


def end_by_next_onset(events: pd.DataFrame) -> pd.DataFrame:
    """``events`` with each ``offset_secs`` no later than the next onset of the same note; rows keep their order."""
    onsets, notes, offsets = (events[name].to_numpy(np.float64) for name in ("onset_secs", "note", "offset_secs"))
    by_note = np.lexsort((onsets, notes))
    now, following = by_note[:-1], by_note[1:]
    limits = np.full(len(events), np.inf)
    limits[now] = np.where(notes[now] == notes[following], onsets[following], np.inf)
    return events.assign(offset_secs=np.minimum(offsets, limits))


def shifted(events: pd.DataFrame, shift_secs: float) -> pd.DataFrame:
    """``events`` with all times moved by ``shift_secs``, but not before 0 s; notes keep at least `SHORTEST_SECS`."""
    onsets = (events["onset_secs"] + shift_secs).clip(lower=0.0)
    moved = events.assign(onset_secs=onsets)
    if has_ends(events):
        moved["offset_secs"] = np.maximum(events["offset_secs"] + shift_secs, onsets + SHORTEST_SECS)
    return moved
