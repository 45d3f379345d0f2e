"""Blocks of samples as they arrive -> note events as they become final.

stream = StreamingTranscriber()
for block in microphone:
    for event in stream.feed(block, sample_rate=48_000):
        print(event.onset_secs, event.note, event.velocity)
rest = stream.flush()

Network, decoder and operating point are those of `Transcriber`. With each hop the network computes the latest columns
anew and keeps what it knows of those before (`IncrementalNet`); an event is final when a few columns after it, the
look-ahead, have been heard.
"""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ov_piano.constants import FRAME_SECS, KEYS, LOWEST_NOTE, SAMPLE_RATE, TOP_DB, WINDOW
from ov_piano.data.audio import LogMel
from ov_piano.data.audio_stream import StreamLogMel, mono_block
from ov_piano.errors import InputError
from ov_piano.model.incremental import IncrementalNet
from ov_piano.settings import LogMelSettings
from ov_piano.transcription.events import MAX_VELOCITY
from ov_piano.transcription.transcriber import Transcriber

MOST_GAIN_DB = 12.0
SHOWN_COLUMNS = 250  # of the log-mel, kept for `take_logmel`: 6 s
LATE_FRAMES = 1  # a peak may move by so much when more is heard, and is then reported late
KEPT_MAPS = 8  # frames that the decoder looks at before those that it decides
APART_FRAMES = 1  # two onsets of a key that are no further apart are one
BLOCK = 16_000  # samples of a long block that are looked at together


@dataclass(frozen=True)
class StreamSettings:
    """In frames of 24 ms.

    :param past_frames: computed again together with the frames that are decided, of those before them
    :param hop_frames: decided together: the network runs once in this time
    :param look_ahead_frames: heard after them
    """

    past_frames: int
    hop_frames: int
    look_ahead_frames: int

    def __post_init__(self) -> None:
        for name, lowest, highest in (("past", 1, 5000), ("hop", 1, 500), ("look_ahead", 0, 5000)):
            found = getattr(self, f"{name}_frames")
            if not (isinstance(found, int) and lowest <= found <= highest):
                raise InputError(f"{name}_frames: expected a whole number from {lowest} to {highest}, found {found}")

    @property
    def latency_secs(self) -> float:
        """Longest time from a sound to its event, but for the time of computing.

        Half the spectrogram's window, the look-ahead, and the wait for the other frames of the hop.
        """
        return WINDOW / 2 / SAMPLE_RATE + (self.look_ahead_frames + self.hop_frames - 1) * FRAME_SECS


DEFAULT = StreamSettings(past_frames=12, hop_frames=2, look_ahead_frames=3)
FAST = StreamSettings(past_frames=12, hop_frames=1, look_ahead_frames=1)


class StreamEvent(NamedTuple):
    """A note that has begun."""

    onset_secs: float  # since the stream began
    note: int  # MIDI
    velocity: float  # 0-127, not rounded
    prob: float


class StreamingTranscriber:
    """One stream of audio. Many may share a `Transcriber`, each in a thread of its own.

    ``threshold``, ``shift`` (seconds added to onsets) and ``gain_db`` may be set at any time. They hold from the
    next computation on, for all that is not final yet; the gain then applies to all that the network hears,
    earlier sound included, so that turning it makes no step that would look like an onset.

    :param transcriber: None: with the snapshot that ships
    :param threshold, shift: None: the transcriber's
    :param gain_db: added to the input, -12 to 12
    :raises InputError: a value out of range
    """

    def __init__(
        self,
        transcriber: Transcriber | None = None,
        *,
        settings: StreamSettings = DEFAULT,
        threshold: float | None = None,
        shift: float | None = None,
        gain_db: float = 0.0,
    ):
        self._transcriber = transcriber or Transcriber()
        self.settings = settings
        self.threshold = self._transcriber.threshold if threshold is None else threshold
        self.shift = self._transcriber.shift if shift is None else shift
        self.gain_db = gain_db
        self._logmel = LogMel(LogMelSettings(mels=self._transcriber.mels))
        self.reset()

    @property
    def threshold(self) -> float:
        """Probability from which on a peak is an event."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise InputError(f"threshold {value}: expected a number from 0 to 1")
        self._threshold = value

    @property
    def gain_db(self) -> float:
        """Added to the input."""
        return self._gain_db

    @gain_db.setter
    def gain_db(self, value: float) -> None:
        if not -MOST_GAIN_DB <= value <= MOST_GAIN_DB:
            raise InputError(f"gain {value} dB: expected a number from {-MOST_GAIN_DB:g} to {MOST_GAIN_DB:g}")
        self._gain_db = value

    @property
    def frames_done(self) -> int:
        """Frames whose events are final."""
        return self._done

    @property
    def seconds_done(self) -> float:
        """The same in seconds of the stream."""
        return self._done * FRAME_SECS

    def reset(self) -> None:
        """Start a new stream, at 0 s and at any sampling rate; the settings stay."""
        self._input: StreamLogMel | None = None
        self._sample_rate, self._ended = None, False
        self._net = IncrementalNet(self._transcriber.parts)
        self._columns = torch.zeros(self._transcriber.mels, 0)  # of the log-mel: those not settled and one before
        self._maps = torch.zeros(2, KEYS, 1)  # onset probabilities and velocities, the latest; frame 0 has none
        self._maximum_db = -np.inf  # so far
        self._done = 0
        self._latest = np.full(KEYS, -APART_FRAMES - LATE_FRAMES - 1)  # frame of each key's latest event
        self._shown: deque[Tensor] = deque(maxlen=-(-SHOWN_COLUMNS // self.settings.hop_frames))

    def feed(self, samples: np.ndarray | Tensor, sample_rate: int) -> list[StreamEvent]:
        """The events that became final with this block (n,) or (n, channels), ordered by onset.

        :raises InputError: samples that cannot be used, another rate than before, a stream that was flushed; the
            stream is then as it was before
        """
        if self._ended:
            raise InputError("the stream has ended: call reset() to start another")
        block = mono_block(samples)
        if self._input is None:
            self._input, self._sample_rate = (
                StreamLogMel(self._logmel, sample_rate, self.settings.hop_frames),
                sample_rate,
            )
        if sample_rate != self._sample_rate:
            raise InputError(f"sampling rate {sample_rate} Hz in a stream of {self._sample_rate} Hz")
        events = []
        for begin in range(0, len(block), BLOCK):
            self._input.append(block[begin : begin + BLOCK])
            while (columns := self._input.next_columns()) is not None:
                self._append(columns)
                events += self._decide(self._input.columns - self.settings.look_ahead_frames)
        return events

    def flush(self) -> list[StreamEvent]:
        """The remaining events: no more samples follow."""
        if self._input is None or self._ended:
            return []
        self._append(self._input.finish(), last=True)
        self._ended = True
        return self._decide(self._input.columns)

    def take_logmel(self) -> Tensor:
        """The log-mel's columns since the last call, (mels, n) in dB with gain and floor; at most the last 6 s."""
        columns = [self._shown.popleft() for _ in range(len(self._shown))]
        return self._scaled(torch.cat([self._columns[:, :0], *columns], dim=1))

    def _append(self, columns: Tensor, last: bool = False) -> None:
        """Renew the maps with columns (mels, n) that follow those before; n is 0 at most for the ``last`` ones."""
        self._maximum_db = max([self._maximum_db, *columns.amax(0).tolist()])
        self._columns = torch.cat([self._columns, columns], dim=1)
        self._shown.append(columns)
        frames = self._columns.shape[1] - 1
        if frames < 1:
            return
        revised = 0 if last else self.settings.past_frames + self.settings.look_ahead_frames
        settled = max(0, frames - revised)
        logits = self._net(self._scaled(self._columns)[None].to(self._transcriber.device), settled)[0]
        known = self._maps.shape[2] - max(0, frames - columns.shape[1])  # maps of frames before those computed now
        self._maps = torch.cat([self._maps[:, :, max(0, known - KEPT_MAPS) : known], logits.sigmoid().cpu()], dim=2)
        self._columns = self._columns[:, settled:].clone()

    def _scaled(self, columns: Tensor) -> Tensor:
        """With gain, and the floor below the maximum so far."""
        return columns.clamp(min=self._maximum_db - TOP_DB) + self._gain_db

    def _decide(self, until: int) -> list[StreamEvent]:
        """Events of the frames that are not final yet and before ``until``."""
        if until <= self._done:
            return []
        begin = self._input.columns - self._maps.shape[2]  # frame at which the maps begin
        onsets, velocities = self._maps[:, None]  # (1, keys, t) each
        _, keys, frames, probs, vels = self._transcriber.decoder.peaks(onsets, velocities, self._threshold)
        found = zip((frames + begin).tolist(), keys.tolist(), probs.tolist(), vels.tolist(), strict=True)
        events = []
        for frame, key, prob, vel in sorted(found):
            if self._done - LATE_FRAMES <= frame < until and frame > self._latest[key] + APART_FRAMES:
                frame = max(frame, self._done)  # noqa: PLW2901 -- in order, also where one comes late
                self._latest[key] = frame
                onset_secs = max(0.0, frame * FRAME_SECS + self.shift)
                events.append(StreamEvent(onset_secs, key + LOWEST_NOTE, vel * MAX_VELOCITY, prob))
        self._done = until
        return sorted(events)
