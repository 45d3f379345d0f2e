"""Note ends in a stream: the end stage over the latest frames, a few times a second.

An end is known as soon as the note has more likely ended than not, by the stage alone. It is then chosen as in
``note_ends.py``, among the frames that `LAG` later ones have followed, since the stage needs to hear what comes after
an end. Here the onsets that count as ends are the events of the stream.
"""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ov_piano.constants import FRAME_SECS, KEYS, LOWEST_NOTE
from ov_piano.model.end_stage import REACH, STEP
from ov_piano.model.incremental import EndPart, RunningMean
from ov_piano.transcription.note_ends import (
    END_IN_FRAME,
    LONGEST_FRAMES,
    NOT_STRUCK,
    SHORTEST_SECS,
    STRIKE_FRAMES,
    likely_ends,
    survival,
)

KEPT_ENDS = 10_000  # for `take`
HOP = 8  # frames between two runs of the stage
LAG = 20  # frames that must follow a frame before its probabilities are final
LAG_SECS = (LAG + HOP) * FRAME_SECS  # from the frame in which an end becomes likely until it is known
ENDED = 0.5  # a note has ended if it sounds with less than this probability


class NoteEnd(NamedTuple):
    """The end of a note that began before."""

    onset_secs: float  # as in its `StreamEvent`
    offset_secs: float
    note: int  # MIDI


@dataclass
class _Sounding:
    """A note whose end is not known yet; ``limit`` is the frame of the next onset of its key."""

    key: int
    frame: int
    onset_secs: float
    shift: float
    limit: int | None = None


class StreamingEnds:
    """Ends of the notes of one stream.

    :param stage: of the network's `Parts`; its logits are (1, keys, t)
    """

    def __init__(self, stage: EndPart):
        self._run, self._mean = stage.run, RunningMean(stage.prior)
        self._input: list[Tensor] | None = None  # of the stage: onset logits and log-mel, latest frames
        self._begin, self._final = 1, 0  # the first of them; how many of them are final
        self._heard = 0  # frames, when the stage ran last
        self._map = np.zeros((KEYS, 1), np.float32)  # final probabilities of the latest frames; 0 for frame 0
        self._first, self._searched = 0, 0  # frame of the first of them; frames before this one have been searched
        self._notes: list[_Sounding] = []
        self._ended: deque[NoteEnd] = deque(maxlen=KEPT_ENDS)

    def strike(self, key: int, frame: int, onset_secs: float, shift: float) -> None:
        """A note begins, at ``frame``; ``onset_secs`` includes the ``shift``."""
        for note in self._notes:
            if note.key == key and note.limit is None:
                note.limit = frame
        self._notes.append(_Sounding(key, frame, onset_secs, shift))

    @torch.inference_mode()
    def add(self, latest: tuple[Tensor, Tensor], settled: int, repeated: int, last: bool = False) -> None:
        """Input of the stage for the latest frames, (1, keys, t) and (1, mels, t).

        :param settled: how many of them, from the first, are final and will not come again
        :param repeated: how many at the end are repetitions of the latest frame
        """
        kept = [x[..., :0] for x in latest] if self._input is None else [x[..., : self._final] for x in self._input]
        self._input = [torch.cat(parts, dim=-1) for parts in zip(kept, latest, strict=True)]
        self._final += settled
        until = self._begin + self._input[0].shape[-1] - repeated
        if until < self._heard + HOP and not last:
            return
        known = self._first + self._map.shape[1]
        new = slice(known - self._begin, until - self._begin - (0 if last else LAG))
        if new.start < new.stop:
            first, final, end = (frame // STEP for frame in (new.start, new.stop, until - self._begin))

            def mean(heard: Tensor) -> Tensor:
                """Over the stream so far, of features (1, c, 1, t / STEP)."""
                return self._mean(heard[..., first:end], final - first)

            found = self._run(*self._input, mean=mean)[0].sigmoid()[:, new].cpu().numpy()
            self._map = np.concatenate([self._map, found], axis=1)
        unneeded = max(0, min(self._final, new.stop - REACH)) // STEP * STEP
        self._input = [x[..., unneeded:].clone() for x in self._input]
        self._begin, self._final, self._heard = self._begin + unneeded, self._final - unneeded, until

    def search(self, until: int, last: bool = False) -> None:
        """Look for ends; all notes that begin before frame ``until`` have been struck."""
        known = self._first + self._map.shape[1]
        until = known if last else min(until, known)
        notes = [note for note in self._notes if last or note.frame < until]
        if notes and (until > self._searched or last):
            self._searched = until
            probabilities = self._map[[note.key for note in notes], : until - self._first]  # (n, t)
            if last:
                probabilities = np.pad(probabilities, ((0, 0), (0, 1)), constant_values=1)
            onsets = np.array([note.frame - self._first for note in notes])
            struck_again = np.array([note.limit is not None and note.limit <= until for note in notes])
            lengths = np.array([NOT_STRUCK if note.limit is None else note.limit - note.frame for note in notes])
            strikes = np.where(struck_again & (lengths <= STRIKE_FRAMES), lengths, NOT_STRUCK)
            rows = np.arange(len(notes))
            sounds = survival(probabilities, rows, onsets, probabilities.shape[1], strikes, fading=0)[:, -1]
            too_long = onsets + LONGEST_FRAMES < until - self._first
            ended = np.flatnonzero((sounds < ENDED) | struck_again | too_long)
            frames = likely_ends(probabilities, ended, onsets[ended], strikes[ended]) + self._first
            for index, frame in zip(ended.tolist(), frames.tolist(), strict=True):
                self._end(notes[index], min(frame + END_IN_FRAME, known))
        needed = max(self._first, min([known - LONGEST_FRAMES, *(note.frame for note in self._notes)]))
        self._map, self._first = self._map[:, needed - self._first :], needed

    def take(self) -> list[NoteEnd]:
        """The ends found since the last call, in order of time; at most the latest `KEPT_ENDS`."""
        ended = sorted(self._ended, key=lambda end: (end.offset_secs, end.note))
        self._ended.clear()
        return ended

    def _end(self, note: _Sounding, end: float) -> None:
        """The note ends at ``end`` in frames, at the latest when its key is struck again."""
        if note.limit is not None:
            end = min(end, note.limit)
        offset = max(end * FRAME_SECS + note.shift, note.onset_secs + SHORTEST_SECS)
        self._ended.append(NoteEnd(note.onset_secs, offset, note.key + LOWEST_NOTE))
        self._notes.remove(note)
