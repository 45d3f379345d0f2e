"""What a dataset supplies and the preprocessing consumes: recordings, all of them or a part."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ov_piano.errors import InputError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Recording:
    """One performance: a wave file, its MIDI, and the tuple that describes it in the HDF5 files."""

    name: str  # unique within the dataset; names the recording in messages and files
    audio_path: Path
    midi_path: Path
    metadata: tuple


def require_subset(what: str, wanted: Sequence[Value] | None, known: Sequence[Value]) -> Sequence[Value]:
    """``wanted``, or all that is ``known`` for None.

    :raises InputError: one of ``wanted`` is not known; ``what`` they are is for the message.
    """
    for value in wanted or ():
        if value not in known:
            raise InputError(f"unknown {what} {value!r}: expected one of {', '.join(map(str, known))}")
    return known if wanted is None else wanted
