"""Note ends in a stream: the sounding stage over the latest frames, a few times a second.

The rule is that of ``note_ends.py``. It is applied to frames that `LAG` later ones have followed, since the stage
needs to hear that a key falls silent: a note's end is known 0.3 to 0.5 s after it.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from ov_piano.constants import FRAME_SECS, KEYS, LOWEST_NOTE
from ov_piano.model.incremental import Memory, Step
from ov_piano.settings import EndSettings
from ov_piano.transcription.note_ends import END_IN_FRAME, REACH, SHORTEST_SECS, end_peaks

KEPT_ENDS = 10_000  # for `take`
HOP = 8  # frames between two runs of the stage
LAG = 10  # frames that must follow a frame before its probabilities are final
REVISED = 16  # frames that the next run computes again
LAG_SECS = (LAG + HOP + REACH) * FRAME_SECS  # maximum time from the frame of an end until it is known


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

    :param steps: the sounding stage
    """

    def __init__(self, steps: Sequence[Step], settings: EndSettings | None = None):
        self._stage, self._settings = Memory(steps), settings or EndSettings()
        self._input: Tensor | None = None  # of the stage: frames that it will compute (again)
        self._begin, self._final = 1, 0  # the first of them; how many of them are final
        self._heard = 0  # frames, when the stage ran last
        self._maps = torch.zeros(2, KEYS, 1)  # final probabilities; 0 for frame 0
        self._first, self._searched = 0, 0  # frame of the first of them; frames before this one have been searched
        self._sounding: list[_Sounding] = []
        self._ended: deque[NoteEnd] = deque(maxlen=KEPT_ENDS)

    def strike(self, key: int, frame: int, onset_secs: float, shift: float) -> None:
        """A note begins, at ``frame``; ``onset_secs`` includes the ``shift``."""
        for note in self._sounding:
            if note.key == key and note.limit is None:
                note.limit = frame
        self._sounding.append(_Sounding(key, frame, onset_secs, shift))

    @torch.inference_mode()
    def add(self, features: Tensor, settled: int, repeated: int, last: bool = False) -> None:
        """Input of the stage (1, c, keys, t) for the latest frames.

        :param settled: how many of them, from the first, are final and will not come again
        :param repeated: how many at the end are repetitions of the latest frame
        """
        kept = features[..., :0] if self._input is None else self._input[..., : self._final]
        self._input = torch.cat([kept, features], dim=3)
        self._final += settled
        until = self._begin + self._input.shape[3] - repeated
        if until < self._heard + HOP and not last:
            return
        settled = max(0, min(self._final, self._input.shape[3] - repeated - REVISED))
        maps = self._stage(self._input, settled)[0].sigmoid().cpu()
        new = slice(self._first + self._maps.shape[2] - self._begin, until - self._begin - (0 if last else LAG))
        self._maps = torch.cat([self._maps, maps[:, :, new]], dim=2) if new.start < new.stop else self._maps
        self._input = self._input[..., settled:].clone()
        self._begin, self._final, self._heard = self._begin + settled, self._final - settled, until

    def search(self, until: int, last: bool = False) -> None:
        """Look for ends; all notes that begin before frame ``until`` have been struck."""
        reach = max(REACH, self._settings.silent_frames - 1)
        known = self._first + self._maps.shape[2]
        until = known if last else min(until, known - reach)
        if until > self._searched or last:
            ending = may_end(self._maps, self._settings, last)[:, self._searched - self._first :]
            self._sounding = [note for note in self._sounding if not self._ends(note, ending, until, last)]
            self._maps = self._maps[:, :, max(0, until - reach - self._first) :].clone()
            self._first, self._searched = known - self._maps.shape[2], until

    def take(self) -> list[NoteEnd]:
        """The ends found since the last call, in order of time; at most the latest `KEPT_ENDS`."""
        ended = sorted(self._ended, key=lambda end: (end.offset_secs, end.note))
        self._ended.clear()
        return ended

    def _ends(self, note: _Sounding, ending: Tensor, until: int, last: bool) -> bool:
        """Whether the note ends before frame ``until``; if so, its end is added to the list."""
        limit = until if note.limit is None else min(until, note.limit)
        start = max(note.frame + self._settings.shortest_frames, self._searched)
        found = ending[note.key, start - self._searched : max(start, limit) - self._searched].nonzero()
        if len(found):
            secs = (start + int(found[0]) + END_IN_FRAME) * FRAME_SECS
        elif note.limit is not None and note.limit <= until:
            secs = note.limit * FRAME_SECS
        elif last:
            secs = (max(until, note.frame + 1) + END_IN_FRAME) * FRAME_SECS
        else:
            return False
        offset = max(secs + note.shift, note.onset_secs + SHORTEST_SECS)
        self._ended.append(NoteEnd(note.onset_secs, offset, note.key + LOWEST_NOTE))
        return True


def may_end(maps: Tensor, settings: EndSettings, last: bool) -> Tensor:
    """The frames at which a note that sounds ends: (2, keys, t) probabilities -> bool (keys, t).

    :param last: the recording ends after these frames, and so does a silence that is shorter than it should be
    """
    sounding, ends = maps
    silent = (sounding < settings.sounding_threshold).float()
    width = settings.silent_frames
    padded = pad(pad(silent, (width - 1, 0)), (0, width - 1), value=float(last))
    begins = 1 - max_pool1d(1 - padded[None], width, stride=1)[0]  # whether this and the following frames are silent
    long_silence = max_pool1d(begins[None], width, stride=1)[0] > 0
    return long_silence | end_peaks(ends, settings.end_threshold)
