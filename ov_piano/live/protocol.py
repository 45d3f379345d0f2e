"""Messages between page and server, and their validation. One WebSocket carries one stream.

The page sends

    start     sample_rate, threshold, gain_db, look_ahead_frames: the first message
    (binary)  samples: mono, float32, little-endian, at most one second
    adjust    threshold, gain_db: effective from the next samples on
    stop      end of the stream

and receives

    ready     the stream has begun
    notes     notes: a list of onset_secs (since the first sample), note, velocity, prob
    ends      ends: a list of onset_secs, offset_secs, note: ends of notes sent before, if the network detects them
    progress  heard_secs: audio processed so far; core_share: CPU time per elapsed time
    (binary)  log-mel: index of the first frame (uint32, little-endian), then one byte per band and frame
    stopped   all notes have been sent; the server closes the connection
    error     message: why the server is about to close the connection

Text messages are JSON objects whose ``type`` is the word in the left column.
"""

import json
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ov_piano.data.audio import LARGEST_SAMPLE
from ov_piano.errors import InputError
from ov_piano.transcription.streaming import MOST_GAIN_DB, StreamEvent
from ov_piano.transcription.streaming_ends import NoteEnd

SAMPLE_RATES = (8_000, 192_000)  # Hz
GAINS_DB = (-MOST_GAIN_DB, MOST_GAIN_DB)
LOOK_AHEADS = (1, 16)  # frames
MESSAGE_SECS = 1.0
MESSAGE_BYTES = int(MESSAGE_SECS * SAMPLE_RATES[1] * 4)
LOWEST_DB, DB_STEP = -100.0, 0.65  # log-mel byte n means LOWEST_DB + n * DB_STEP


class Start(NamedTuple):
    """The start of a stream."""

    sample_rate: int  # Hz
    threshold: float
    gain_db: float
    look_ahead_frames: int


class Adjust(NamedTuple):
    """Settings that may change during a stream."""

    threshold: float
    gain_db: float


class Stop(NamedTuple):
    """The end of the stream."""


def parse_text(text: str) -> Start | Adjust | Stop:
    """:raises InputError: not a valid start, adjust or stop message"""
    try:
        message = json.loads(text)
        kind = message["type"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError("message: expected a JSON object with a type") from None
    if kind == "start":
        return Start(
            _whole_number(message, "sample_rate", *SAMPLE_RATES),
            _number(message, "threshold", 0, 1),
            _number(message, "gain_db", *GAINS_DB),
            _whole_number(message, "look_ahead_frames", *LOOK_AHEADS),
        )
    if kind == "adjust":
        return Adjust(_number(message, "threshold", 0, 1), _number(message, "gain_db", *GAINS_DB))
    if kind == "stop":
        return Stop()
    raise InputError("message: expected the type start, adjust or stop")


def _number(message: dict, key: str, lowest: float, highest: float) -> float:
    value = message.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
        raise InputError(f"message: {key}: expected a number from {lowest:g} to {highest:g}")
    return value


def _whole_number(message: dict, key: str, lowest: int, highest: int) -> int:
    value = _number(message, key, lowest, highest)
    if value != math.floor(value):
        raise InputError(f"message: {key}: expected a whole number")
    return int(value)


def parse_samples(data: bytes, sample_rate: int) -> np.ndarray:
    """(samples,) float32.

    :raises InputError: not float32, not finite or longer than a second
    """
    if len(data) % 4 or len(data) > 4 * MESSAGE_SECS * sample_rate:
        raise InputError(f"samples: expected 32-bit floats, at most {MESSAGE_SECS:g} s per message")
    samples = np.frombuffer(data, "<f4")
    if len(samples) and not np.abs(samples).max() <= LARGEST_SAMPLE:  # also catches NaN
        raise InputError("samples: found NaN, infinite or far beyond full scale")
    return samples


def encode(kind: str, **values: Any) -> str:
    """A text message to the page."""
    return json.dumps({"type": kind, **values}, allow_nan=False)


def encode_notes(events: Sequence[StreamEvent]) -> str:
    return encode("notes", notes=[event._asdict() for event in events])


def encode_ends(ends: Sequence[NoteEnd]) -> str:
    return encode("ends", ends=[end._asdict() for end in ends])


def encode_logmel(first_frame: int, logmel: Tensor) -> bytes:
    """Log-mel frames (mels, frames) in dB as a binary message with one byte per value, for display."""
    steps = ((logmel - LOWEST_DB) / DB_STEP).round().clamp(0, 255).byte()
    return struct.pack("<I", first_frame) + steps.T.contiguous().numpy().tobytes()
