"""Streaming transcription: blocks of samples in, note events out.

stream = StreamingTranscriber()
for block in microphone:
    for event in stream.feed(block, sample_rate=48_000):
        print(event.onset_secs, event.note, event.velocity)
    ends = stream.take_ends()  # of notes that have ended meanwhile
rest = stream.flush()

Network, decoder and operating point are those of `Transcriber`. At each hop the network recomputes the latest frames
and reuses its state from earlier ones (`IncrementalNet`). A few frames after an onset, the look-ahead, are enough to be
certain of most events. Those with a probability near the threshold wait for more frames.
"""

from collections import deque
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ov_piano.constants import FRAME_SECS, KEYS, LOWEST_NOTE, SAMPLE_RATE, TOP_DB, WINDOW
from ov_piano.data.audio import LogMel
from ov_piano.data.audio_stream import StreamLogMel, mono_block
from ov_piano.errors import InputError
from ov_piano.model.incremental import IncrementalNet
from ov_piano.transcription.events import MAX_VELOCITY
from ov_piano.transcription.streaming_ends import NoteEnd, StreamingEnds
from ov_piano.transcription.transcriber import Transcriber

MOST_GAIN_DB = 12.0
SHOWN_COLUMNS = 250  # log-mel frames kept for `take_logmel`: 6 s
LATE_FRAMES = 1  # a peak may move by this much as more sound arrives, and is then reported late
KEPT_MAPS = 8  # decided frames that the decoder sees as context
EDGE_FRAMES = 2  # repetitions of the latest frame: the network then sees a held sound, not a sudden end
APART_FRAMES = 1  # onsets of a key no further apart than this count as one
BLOCK = 16_000  # samples of a long block to process at once


@dataclass(frozen=True)
class StreamSettings:
    """Frame counts of a stream; a frame is 24 ms.

    :param past_frames: recomputed before the frames to decide
    :param hop_frames: decided at once: the network runs once per hop
    :param look_ahead_frames: needed after a frame to decide its certain events
    :param waiting_frames: after those, to decide the others
    :param margin: how far above the threshold the probability of a certain event is; falls to 0 while an event waits
    """

    past_frames: int
    hop_frames: int
    look_ahead_frames: int
    waiting_frames: int = 6
    margin: float = 0.05

    def __post_init__(self) -> None:
        limits = (("past", 1, 5000), ("hop", 1, 500), ("look_ahead", 0, 5000), ("waiting", 0, 5000))
        for name, lowest, highest in limits:
            found = getattr(self, f"{name}_frames")
            if not (isinstance(found, int) and lowest <= found <= highest):
                raise InputError(f"{name}_frames: expected a whole number from {lowest} to {highest}, found {found}")
        if not self.margin >= 0:
            raise InputError(f"margin: expected a number of at least 0, found {self.margin}")

    @property
    def latency_secs(self) -> float:
        """Maximum time from a sound to its event if that is certain, without computing time.

        It is half the STFT window, the look-ahead, and the rest of the hop.
        """
        return WINDOW / 2 / SAMPLE_RATE + (self.look_ahead_frames + self.hop_frames - 1) * FRAME_SECS

    @property
    def longest_latency_secs(self) -> float:
        """Maximum time from a sound to its event, without computing time."""
        return self.latency_secs + self.waiting_frames * FRAME_SECS

    def early_margin(self, frame_age: int) -> float:
        """How far above the threshold an event must be with ``frame_age`` frames after it, to be reported then."""
        waited = frame_age - self.look_ahead_frames
        return self.margin * (1 - waited / self.waiting_frames) if waited < self.waiting_frames else 0.0


# Frames settled earlier keep traces of the edge, but 16 past frames lose as little as 20: see the table in README.md.
DEFAULT = StreamSettings(past_frames=16, hop_frames=3, look_ahead_frames=2)
FAST = StreamSettings(past_frames=16, hop_frames=1, look_ahead_frames=1, waiting_frames=2, margin=0.03)


class StreamEvent(NamedTuple):
    """A detected note onset."""

    onset_secs: float  # since the stream began
    note: int  # MIDI
    velocity: float  # 0-127, not rounded
    prob: float


class StreamingTranscriber:
    """One audio stream. Several streams may share a `Transcriber`, each in its own thread.

    ``threshold``, ``shift`` (seconds added to onsets) and ``gain_db`` may be set at any time and take effect at the
    next hop, for all events that are not final yet. The gain then also applies to earlier sound that the network
    sees, since a step in level would look like an onset.

    :param transcriber: None: one with the default snapshot
    :param threshold, shift: None: those of the transcriber
    :param gain_db: gain applied to the input, -12 to 12
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
        self._logmel = LogMel(self._transcriber.logmel)
        self.reset()

    @property
    def threshold(self) -> float:
        """Minimum probability of an event."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise InputError(f"threshold {value}: expected a number from 0 to 1")
        self._threshold = value

    @property
    def shift(self) -> float:
        """Seconds added to onsets."""
        return self._shift

    @shift.setter
    def shift(self, value: float) -> None:
        if not isfinite(value):
            raise InputError(f"shift {value}: expected a number of seconds")
        self._shift = value

    @property
    def gain_db(self) -> float:
        """Gain applied to the input, in dB."""
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
        """Seconds of the stream whose events are final."""
        return self._done * FRAME_SECS

    def reset(self) -> None:
        """Start a new stream at 0 s, at any sampling rate; keep the settings."""
        self._input: StreamLogMel | None = None
        self._sample_rate, self._ended = None, False
        parts = self._transcriber.parts
        self._net = IncrementalNet(parts)
        self._ends = None if parts.end_stage is None else StreamingEnds(parts.end_stage)
        self._columns = torch.zeros(self._transcriber.mels, 0)  # log-mel: unsettled frames and the one before
        self._maps = torch.zeros(2, KEYS, 1)  # latest onset probabilities and velocities; 0 for frame 0
        self._edge = 0  # how many of them belong to repetitions of the latest frame
        self._maximum_db = -np.inf  # so far
        self._done = 0
        self._latest = np.full(KEYS, -APART_FRAMES - LATE_FRAMES - 1)  # frame of each key's latest event
        self._shown: deque[Tensor] = deque(maxlen=-(-SHOWN_COLUMNS // self.settings.hop_frames))

    def feed(self, samples: np.ndarray | Tensor, sample_rate: int) -> list[StreamEvent]:
        """Add a block (n,) or (n, channels) and return the events that it decides, ordered by onset.

        An event that has waited may have its onset before that of an event returned earlier, by at most
        ``waiting_frames`` and a hop. The events of one key are always in order.

        :raises InputError: invalid samples, a changed sampling rate, or a stream that has ended; the stream is
            then unchanged
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
                events += self._decide()
        return events

    def flush(self) -> list[StreamEvent]:
        """End the stream and return the remaining events."""
        if self._input is None or self._ended:
            return []
        self._append(self._input.finish(), last=True)
        self._ended = True
        events = self._decide()
        if self._ends is not None:
            self._ends.search(self._done, last=True)
        return events

    def take_ends(self) -> list[NoteEnd]:
        """Ends of events handed out before, found since the last call; empty without an end stage.

        An end is known 0.5 to 0.7 s after it. After `flush` all notes have ended.
        """
        return [] if self._ends is None else self._ends.take()

    def take_logmel(self) -> Tensor:
        """Log-mel frames since the last call, (mels, n) in dB with gain and floor; at most the last 6 s."""
        columns = [self._shown.popleft() for _ in range(len(self._shown))]
        return self._scaled(torch.cat([self._columns[:, :0], *columns], dim=1))

    def _append(self, columns: Tensor, last: bool = False) -> None:
        """Update the maps with the next log-mel frames (mels, n); n may be 0 only for the ``last`` ones."""
        self._maximum_db = max([self._maximum_db, *columns.amax(0).tolist()])
        self._columns = torch.cat([self._columns, columns], dim=1)
        self._shown.append(columns)
        frames = self._columns.shape[1] - 1
        if frames < 1:
            return
        revised = 0 if last else self.settings.past_frames + self.settings.look_ahead_frames
        settled = max(0, frames - revised)
        known = self._maps.shape[2] - self._edge - max(0, frames - columns.shape[1])  # maps that are not recomputed
        self._edge = 0 if last else EDGE_FRAMES
        scaled = self._scaled(self._columns)
        scaled = torch.cat([scaled, scaled[:, -1:].expand(-1, self._edge)], dim=1)
        logits = self._net(scaled[None].to(self._transcriber.device), settled)[0]
        kept = self._maps[:, :, max(0, known - self.settings.waiting_frames - KEPT_MAPS) : known]
        self._maps = torch.cat([kept, logits.sigmoid().cpu()], dim=2)
        if self._ends is not None:
            self._ends.add(self._net.end_input, settled, self._edge, last)
        self._columns = self._columns[:, settled:].clone()

    def _scaled(self, columns: Tensor) -> Tensor:
        """Apply the gain, and the floor below the maximum so far."""
        return columns.clamp(min=self._maximum_db - TOP_DB) + self._gain_db

    def _decide(self) -> list[StreamEvent]:
        """Events that are certain by now, and all those that have waited long enough."""
        columns = self._input.columns
        until = columns if self._ended else columns - self.settings.look_ahead_frames
        if until <= self._done:
            return []
        begin = columns + self._edge - self._maps.shape[2]  # first frame of the maps
        onsets, velocities = self._maps[:, None]  # (1, keys, t) each
        _, keys, frames, probs, vels = self._transcriber.decoder.peaks(onsets, velocities, self._threshold)
        found = zip((frames + begin).tolist(), keys.tolist(), probs.tolist(), vels.tolist(), strict=True)
        events = []
        for frame, key, prob, vel in sorted(found):
            if not (self._done - LATE_FRAMES <= frame < until and frame > self._latest[key] + APART_FRAMES):
                continue
            if self._ended or prob >= self._threshold + self.settings.early_margin(columns - 1 - frame):
                self._latest[key] = frame
                onset_secs = max(0.0, frame * FRAME_SECS + self.shift)
                events.append(StreamEvent(onset_secs, key + LOWEST_NOTE, vel * MAX_VELOCITY, prob))
                if self._ends is not None:
                    self._ends.strike(key, frame, onset_secs, self.shift)
        self._done = until if self._ended else max(0, until - self.settings.waiting_frames)
        if self._ends is not None:
            self._ends.search(self._done)
        return sorted(events)
