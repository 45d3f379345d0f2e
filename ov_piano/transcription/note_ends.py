"""Note ends from the map of the end stage: the probability that a note that still sounds ends in this frame.

From it follows how likely a note is to end in each frame after its onset. Of these frames, its end is the one with the
best chance to be close enough to the true end: within 50 ms or 20 % of the note's length, as in the scores (see
`Tolerances`). An onset of the same key with a probability of at least `STRIKE`, within `STRIKE_FRAMES`, counts as an
end, event or not. A note ends no later than

- the next event of its key. Events depend on the threshold, so tables hold ends without this limit, and
  :func:`end_by_next_onset` applies it;
- the end of the recording;
- `LONGEST_FRAMES` after its onset.

Strings fade: in every frame, a note ends with the probability `FADING` besides that of the map. Without it, notes whose
end the stage misses would last until the next likely one, up to 15 s.
"""

import math
from collections import deque

import numpy as np
import pandas as pd
from torch import Tensor

from ov_piano.constants import FRAME_SECS, KEYS
from ov_piano.settings import Tolerances

HORIZONS = (50, 200, 800)  # frames; most notes end within the first
LONGEST_FRAMES = HORIZONS[-1]  # of a note, 19 s
FADING = 0.005  # halves a note's chance to sound every 3.3 s; validation scores are the same without it
STRIKE = 0.65  # onset probability; of 0.1 to 0.75, all from 0.5 up score nearly the same on validation recordings
STRIKE_FRAMES = 84  # 2 s; later ones gain nothing, and stretch notes whose end is uncertain
NOT_STRUCK = 1_000_000  # frames until a strike, where there is none
END_IN_FRAME = 0.7  # where in its end frame a note ends: best on validation recordings (5 ms after the middle)
SHARE = 0.9  # of the tolerances; the rest is left to the error of the onset
CENTRE_SHARE, CENTRE_WEIGHT = 0.3, 0.05  # prefers the middle of equally good ends
SHORTEST_SECS = 0.001  # of a note that a shift moves to the beginning


class NoteEnds:
    """Finds the ends of notes while the map arrives in pieces; keeps only the frames that are still needed."""

    def __init__(self) -> None:
        self._map = np.zeros((KEYS, 0), np.float32)
        self._struck = np.zeros((KEYS, 0), bool)
        self._begin = 0  # frame at which the map starts
        self._notes: deque[tuple[np.ndarray, np.ndarray]] = deque()  # keys and onsets of those without an end
        self._ends: list[np.ndarray] = []

    def add(self, piece: Tensor) -> None:
        """The next piece of the map: probabilities (keys, t)."""
        frames = self._begin + self._map.shape[1]
        begin = max(self._begin, min([frames - LONGEST_FRAMES, *(onsets.min() for _, onsets in self._notes)]))
        self._map = np.concatenate([self._map[:, begin - self._begin :], piece.cpu().numpy()], axis=1)
        self._struck = np.concatenate([self._struck[:, begin - self._begin :], np.zeros(piece.shape, bool)], axis=1)
        self._begin = begin

    def strike(self, keys: np.ndarray, onsets: np.ndarray) -> None:
        """Onsets that end earlier notes of their keys: keys (0-87) and frames, (n,) each.

        Not after the last piece, and at most `LONGEST_FRAMES` before it. Call it before `ask` for the same frames.
        """
        self._struck[keys, onsets - self._begin] = True

    def ask(self, keys: np.ndarray, onsets: np.ndarray, until: int) -> None:
        """Notes whose ends to find: keys and onset frames, as in `strike`.

        :param until: all notes and strikes before this frame have been given
        """
        if len(keys):
            self._notes.append((keys, onsets))
        while self._notes and self._notes[0][1].max() + LONGEST_FRAMES < until:
            self._settle()

    def finish(self) -> np.ndarray:
        """End frames (n,) of all notes, in the order in which they were asked for; the recording is over."""
        self._map = np.pad(self._map, ((0, 0), (0, 1)), constant_values=1)  # ends all notes
        while self._notes:
            self._settle()
        return np.concatenate([np.empty(0, np.int64), *self._ends])

    def _settle(self) -> None:
        keys, onsets = self._notes.popleft()
        onsets = onsets - self._begin
        struck = np.pad(self._struck, ((0, 0), (0, STRIKE_FRAMES)))
        struck = struck[keys[:, None], onsets[:, None] + np.arange(1, STRIKE_FRAMES + 1)]
        strikes = np.where(struck.any(axis=1), struck.argmax(axis=1) + 1, NOT_STRUCK)
        self._ends.append(likely_ends(self._map, keys, onsets, strikes) + self._begin)


def likely_ends(ends: np.ndarray, keys: np.ndarray, onsets: np.ndarray, strikes: np.ndarray) -> np.ndarray:
    """End frames (n,) of the notes with these keys and onset frames (n,) each, from probabilities (keys, t).

    No note ends after the last frame.

    :param strikes: frames from each onset to the next of its key, (n,), or `NOT_STRUCK`
    """
    lengths = np.ones(len(keys), np.int64)
    left = np.arange(len(keys))
    for horizon in HORIZONS:
        sounding = survival(ends, keys[left], onsets[left], horizon, strikes[left])
        if horizon == LONGEST_FRAMES:
            sounding[:, -1] = 0
        first, last = accepted_lengths(horizon, SHARE)
        first_centre, last_centre = (x[: len(first)] for x in accepted_lengths(horizon, CENTRE_SHARE))
        chances = sounding[:, first - 1] - sounding[:, last]  # (notes, lengths)
        chances += CENTRE_WEIGHT * (sounding[:, first_centre - 1] - sounding[:, last_centre])
        lengths[left] = chances.argmax(axis=1) + 1
        later = (1 + CENTRE_WEIGHT) * sounding[:, first[-1] - 1]  # at least that of every later end
        left = left[chances.max(axis=1) < later]
        if not len(left):
            break
    return np.minimum(onsets + lengths, ends.shape[1] - 1)


def survival(
    ends: np.ndarray,
    keys: np.ndarray,
    onsets: np.ndarray,
    frames: int,
    strikes: np.ndarray,
    fading: float = FADING,
) -> np.ndarray:
    """Probability that each note still sounds after its onset frame and the next 1, 2, ... ``frames`` frames.

    A note ends in a frame with the probability of the map or, besides, with the probability ``fading``.

    Shape (n, ``frames`` + 1); 0 from the frame before a strike on, else constant after the last frame of ``ends``
    (keys, t). See `likely_ends` for the other parameters.
    """
    log_survival = (np.log1p(-np.minimum(ends, 1 - 1e-7, dtype=np.float64)) + math.log1p(-fading)).cumsum(axis=1)
    found = log_survival[keys[:, None], np.minimum(onsets[:, None] + np.arange(frames + 1), ends.shape[1] - 1)]
    sounding = np.exp(found - found[:, :1])
    sounding[np.arange(frames + 1) >= np.maximum(strikes - 1, 1)[:, None]] = 0
    return sounding


def accepted_lengths(horizon: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Shortest and longest length of the notes for which each length, 1, 2, ... frames, is within the tolerances.

    Up to the last length that depends on no frame beyond ``horizon``; up to ``horizon`` if it is the longest.

    :param share: factor of the tolerances
    """
    ratio, frames = share * Tolerances.offset_ratio, share * Tolerances.offset_secs / FRAME_SECS
    lengths = np.arange(1, horizon + 1)
    first = np.maximum(1, np.ceil(np.minimum(lengths / (1 + ratio), lengths - frames)).astype(np.int64))
    last = np.floor(np.maximum(lengths / (1 - ratio), lengths + frames)).astype(np.int64)
    if horizon < LONGEST_FRAMES:
        return first[last <= horizon], last[last <= horizon]
    return first, last.clip(max=horizon)


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
