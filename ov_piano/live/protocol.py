"""The messages between page and server; one WebSocket carries one stream. What a client sends is checked here.

The page sends

    start     sample_rate, threshold, gain_db, look_ahead_frames: the first message
    (binary)  samples: mono, float32, little-endian, at most a second of them
    adjust    threshold, gain_db: from the next samples on
    stop      no more samples will come

and receives

    ready     the stream has a place and has begun
    notes     notes: onset_secs since the stream's first sample, note, velocity, prob of each
    progress  heard_secs: what is computed so far; core_share: time of one core per time that passes
    (binary)  log-mel: number of the first frame (uint32, little-endian), then frames of a byte a band (`encode_logmel`)
    stopped   every note of the stream is sent; the server closes the connection
    error     message: why the server is about to close it

Text messages are JSON objects whose ``type`` is the word on the left.
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

SAMPLE_RATES = (8_000, 192_000)  # Hz
GAINS_DB = (-12.0, 12.0)
LOOK_AHEADS = (1, 16)  # frames
MESSAGE_SECS = 1.0
MESSAGE_BYTES = int(MESSAGE_SECS * SAMPLE_RATES[1] * 4)
LOWEST_DB, DB_STEP = -100.0, 0.65  # of a log-mel byte: 0 is LOWEST_DB, each step DB_STEP more


class Start(NamedTuple):
    """A stream begins."""

    sample_rate: int  # Hz
    threshold: float
    gain_db: float
    look_ahead_frames: int


class Adjust(NamedTuple):
    """Settings that may change on the way."""

    threshold: float
    gain_db: float


class Stop(NamedTuple):
    """The end of the stream."""


def parse_text(text: str) -> Start | Adjust | Stop:
    """:raises InputError: anything else than a start, adjust or stop message with values in their ranges."""
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

    :raises InputError: broken, not finite or longer than a second
    """
    if len(data) % 4 or len(data) > 4 * MESSAGE_SECS * sample_rate:
        raise InputError(f"samples: expected 32-bit floats, at most {MESSAGE_SECS:g} s in a message")
    samples = np.frombuffer(data, "<f4")
    if len(samples) and not np.abs(samples).max() <= LARGEST_SAMPLE:  # false for NaN, too
        raise InputError("samples: found some that are NaN, infinite or far beyond full scale")
    return samples


def encode(kind: str, **values: Any) -> str:
    """A text message to the page."""
    return json.dumps({"type": kind, **values}, allow_nan=False)


def encode_notes(events: Sequence) -> str:
    """`StreamEvent`s as a text message."""
    columns = ("onset_secs", "note", "velocity", "prob")
    return encode("notes", notes=[{name: getattr(event, name) for name in columns} for event in events])


def encode_logmel(first_frame: int, logmel: Tensor) -> bytes:
    """Columns (mels, frames) in dB as a binary message: a byte a value is enough for a picture."""
    steps = ((logmel - LOWEST_DB) / DB_STEP).round().clamp(0, 255).byte()
    return struct.pack("<I", first_frame) + steps.T.contiguous().numpy().tobytes()
