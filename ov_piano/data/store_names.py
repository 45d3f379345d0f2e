"""Names of the HDF5 files: they encode the parameters, and are parsed to read them back."""

import math
import os
from dataclasses import asdict, astuple
from pathlib import Path
from typing import NamedTuple

import parse

from ov_piano.constants import MIDI_VALUES, ROLL_ROWS
from ov_piano.data.maestro import MaestroMetadata
from ov_piano.data.maps import MapsMetadata
from ov_piano.errors import InputError
from ov_piano.settings import LogMelSettings

METADATA_CLASSES = {
    "MAESTROv1": MaestroMetadata,
    "MAESTROv2": MaestroMetadata,
    "MAESTROv3": MaestroMetadata,
    "MAPS": MapsMetadata,
}
_MEL_NAME = "{dataset}_logmel_sr={sample_rate:d}_stft={window:d}w{hop:d}h_mel={mels:d}({fmin:d}-{fmax:d}).h5"
_ROLL_NAME = "{dataset}_roll_quant={frame_secs:g}_midivals={midi_values:d}_extendsus={extend_sustain}.h5"


class MelName(NamedTuple):
    """Parameters of a log-mel store."""

    dataset: str
    settings: LogMelSettings = LogMelSettings()

    @property
    def frame_secs(self) -> float:
        return self.settings.frame_secs

    @property
    def height(self) -> int:
        return self.settings.mels

    def __str__(self) -> str:
        return _MEL_NAME.replace(":d}", "}").format(dataset=self.dataset, **asdict(self.settings))


class RollName(NamedTuple):
    """Parameters of a piano-roll store."""

    dataset: str
    frame_secs: float
    extend_sustain: bool

    @property
    def height(self) -> int:
        return ROLL_ROWS

    def __str__(self) -> str:
        pattern = _ROLL_NAME.replace(":d}", "}").replace(":g}", "}")
        return pattern.format(midi_values=MIDI_VALUES, **self._asdict())


def parse_mel_name(path: str | os.PathLike) -> MelName:
    """:raises InputError: not the file name of a log-mel store."""
    name = Path(path).name
    found = parse.parse(_MEL_NAME, name, case_sensitive=True)
    parsed = found and MelName(found.named.pop("dataset"), LogMelSettings(**found.named))
    return _validated(parsed, path, MelName("MAESTROv3"), parsed and astuple(parsed.settings))


def parse_roll_name(path: str | os.PathLike) -> RollName:
    """:raises InputError: not the file name of a piano-roll store."""
    name = Path(path).name
    found = parse.parse(_ROLL_NAME, name, case_sensitive=True)
    parsed = found and RollName(found["dataset"], found["frame_secs"], found["extend_sustain"] == "True")
    return _validated(parsed, path, RollName("MAESTROv3", 0.024, True), parsed and (parsed.frame_secs,))


def _validated(parsed, path, example, numbers):
    """``parsed`` if it is plausible and formats back to the name of ``path``: stricter than the pattern."""
    is_ours = parsed and str(parsed) == Path(path).name and parsed.dataset in METADATA_CLASSES
    if is_ours and min(numbers) >= 0 and 0 < parsed.frame_secs < math.inf:
        return parsed
    raise InputError(f"{path}: expected a file name like {example} (MAESTROv1, v2, v3 or MAPS)")
