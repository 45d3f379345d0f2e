"""Recordings, as the datasets list them for preprocessing, and a check of filters."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ov_piano.errors import InputError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Recording:
    """One performance: a wave file, its MIDI, and the tuple that describes it in the HDF5 files."""

    name: str  # unique within the dataset; used in messages and file names
    audio_path: Path
    midi_path: Path
    metadata: tuple


def require_subset(what: str, wanted: Sequence[Value] | None, known: Sequence[Value]) -> Sequence[Value]:
    """``wanted``, or ``known`` if it is None.

    :raises InputError: a value in ``wanted`` is not in ``known``; the message calls it ``what``.
    """
    for value in wanted or ():
        if value not in known:
            raise InputError(f"unknown {what} {value!r}: expected one of {', '.join(map(str, known))}")
    return known if wanted is None else wanted
