"""The YAML file beside a snapshot: how the network was made, and its operating point.

``X.yaml`` belongs to ``X.torch``. Training writes ``network``, ``leaky_relu_slope``, ``logmel`` and ``training``
(dataset, steps, commit, scores). The search on validation recordings adds ``threshold`` (probability) and ``shift``
(seconds, added to onsets). All entries are optional: a plain state dict needs no such file.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from ov_piano.errors import InputError
from ov_piano.machine.atomic import atomic_write
from ov_piano.settings import LogMelSettings, OperatingPoint

DEFAULT_SLOPE = 0.1  # of the published networks
LARGEST_WINDOW, LARGEST_MELS = 2**20, 4096


PUBLISHED = {  # published for MAESTRO v3, by network
    "OnsetVelocityNet": OperatingPoint(threshold=0.77, shift=-0.01),
    "OnsetsAndVelocities": OperatingPoint(threshold=0.74, shift=-0.01),
}


@dataclass(frozen=True)
class Sidecar:
    """The contents of the YAML file at ``path``; missing entries are None."""

    path: Path
    network: str | None = None
    leaky_relu_slope: float | None = None
    logmel: LogMelSettings | None = None
    point: OperatingPoint | None = None

    def slope(self, given: float | None) -> float:
        """The leaky ReLU slope to use: the ``given`` one, else the file's, else the published one.

        :raises InputError: the given one differs from the file's
        """
        if given is None:
            return DEFAULT_SLOPE if self.leaky_relu_slope is None else self.leaky_relu_slope
        if self.leaky_relu_slope not in (None, given):
            raise InputError(
                f"{self.path}: trained with a leaky ReLU slope of {self.leaky_relu_slope:g}, found {given:g}: "
                "omit the setting or pass the same slope"
            )
        return given

    def check(self, slope: float, logmel: LogMelSettings, logmel_source: str | Path) -> None:
        """:raises InputError: the leaky ReLU slope or the log-mels of a run differ from those of the training"""
        self.slope(slope)
        self.check_logmel(logmel, logmel_source)

    def check_network(self, network: str, mels: int) -> None:
        """:raises InputError: the snapshot is of another network or has another number of mel bands"""
        if self.network not in (None, network):
            raise InputError(f"{self.path}: expected a snapshot of {self.network}, found one of {network}")
        if self.logmel is not None and self.logmel.mels != mels:
            raise InputError(f"{self.path}: expected a snapshot for {self.logmel.mels} mel bands, found {mels}")

    def check_logmel(self, found: LogMelSettings, source: str | Path) -> None:
        """:raises InputError: the log-mels of ``source`` differ from those of the training"""
        if self.logmel is not None and self.logmel != found:
            wanted, other = asdict(self.logmel), asdict(found)
            names = [name for name in wanted if wanted[name] != other[name]]
            expected, given = (", ".join(f"{name}={x[name]:g}" for name in names) for x in (wanted, other))
            raise InputError(f"{source}: expected log-mels with {expected}, as {self.path} says, found {given}")


def sidecar_path(snapshot_path: str | Path) -> Path:
    """Path of a snapshot's YAML file."""
    return Path(snapshot_path).with_suffix(".yaml")


def write_sidecar(snapshot_path: str | Path, entries: Mapping[str, Any]) -> Path:
    """Write ``entries`` (plain values) beside the snapshot; other entries of an existing file stay.

    :raises InputError: the existing file is not a YAML mapping
    """
    path = sidecar_path(snapshot_path)
    content = {**(_read_mapping(path) if path.is_file() else {}), **entries}
    with atomic_write(path) as partial:
        partial.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def write_operating_point(snapshot_path: str | Path, point: OperatingPoint, **facts: Any) -> Path:
    """Write ``point`` beside the snapshot; ``facts`` (plain values) record its origin, other entries stay.

    :raises InputError: a point that `read_sidecar` would not accept
    """
    content = {"threshold": float(point.threshold), "shift": float(point.shift)}
    _operating_point(content, sidecar_path(snapshot_path))
    return write_sidecar(snapshot_path, content | facts)


def read_sidecar(snapshot_path: str | Path) -> Sidecar:
    """Read the YAML file beside the snapshot; without one, all entries are None.

    :raises InputError: not a YAML mapping, or an invalid entry
    """
    path = sidecar_path(snapshot_path)
    if not path.is_file():
        return Sidecar(path)
    content = _read_mapping(path)
    network, slope = content.get("network"), content.get("leaky_relu_slope")
    if network is not None and not isinstance(network, str):
        raise InputError(f"{path}: network: expected a name, found {network!r}")
    if slope is not None and not (_is_finite(slope) and slope >= 0):
        raise InputError(f"{path}: leaky_relu_slope: expected a number of at least 0, found {slope!r}")
    return Sidecar(path, network, slope, _logmel(content, path), _operating_point(content, path))


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: expected YAML with entries such as threshold, shift and leaky_relu_slope")
    return content


def _operating_point(content: dict[str, Any], path: Path) -> OperatingPoint | None:
    if "threshold" not in content and "shift" not in content:
        return None
    try:
        point = OperatingPoint(float(content["threshold"]), float(content["shift"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InputError(f"{path}: expected YAML with the numbers threshold and shift") from None
    if not (0 <= point.threshold <= 1 and abs(point.shift) < 1):
        raise InputError(f"{path}: expected a threshold from 0 to 1 and a shift below 1 s, found {tuple(point)}")
    return point


def _logmel(content: dict[str, Any], path: Path) -> LogMelSettings | None:
    found = content.get("logmel")
    if found is None:
        return None
    names = [field.name for field in fields(LogMelSettings)]
    if not isinstance(found, dict) or set(found) != set(names):
        raise InputError(f"{path}: logmel: expected {', '.join(names)}, found {str(found)[:80]!r}")
    wrong = [name for name, value in found.items() if not _is_finite(value)]
    wrong += [name for name in names[:4] if type(found[name]) is not int or found[name] < 1]
    if not wrong and (found["window"] > LARGEST_WINDOW or found["hop"] > found["window"]):
        wrong = ["window"]
    if not wrong and found["mels"] > LARGEST_MELS:
        wrong = ["mels"]
    if not wrong and not 0 <= found["fmin"] < found["fmax"]:
        wrong = ["fmin"]
    if wrong:
        raise InputError(f"{path}: logmel: no valid {wrong[0]}: {str(found[wrong[0]])[:40]!r}")
    return LogMelSettings(**found)


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a huge whole number
        return False
