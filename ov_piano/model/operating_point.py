"""The operating point of a snapshot, its threshold and onset shift, in a YAML file beside it.

``X.yaml`` belongs to ``X.torch``. It contains ``threshold`` (probability) and ``shift`` (seconds, added to onsets),
found on validation recordings, and records their origin (commit, data, scores …).
"""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ov_piano.errors import InputError
from ov_piano.machine.atomic import atomic_write


class OperatingPoint(NamedTuple):
    """Minimum probability of an event, and seconds to add to its onset."""

    threshold: float
    shift: float


PUBLISHED = {  # published for MAESTRO v3, by network
    "OnsetVelocityNet": OperatingPoint(threshold=0.77, shift=-0.01),
    "OnsetsAndVelocities": OperatingPoint(threshold=0.74, shift=-0.01),
}


def operating_point_path(snapshot_path: str | Path) -> Path:
    """Path of a snapshot's operating point."""
    return Path(snapshot_path).with_suffix(".yaml")


def write_operating_point(snapshot_path: str | Path, point: OperatingPoint, **facts: Any) -> Path:
    """Write ``point`` beside the snapshot; ``facts`` (plain values) record its origin."""
    path = operating_point_path(snapshot_path)
    with atomic_write(path) as partial:
        content = {"threshold": float(point.threshold), "shift": float(point.shift), **facts}
        partial.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def read_operating_point(snapshot_path: str | Path) -> OperatingPoint | None:
    """Read the operating point beside the snapshot; None if there is no such file.

    :raises InputError: the file contains no valid threshold and shift
    """
    path = operating_point_path(snapshot_path)
    if not path.is_file():
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        point = OperatingPoint(float(content["threshold"]), float(content["shift"]))
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError):
        raise InputError(f"{path}: expected YAML with the numbers threshold and shift") from None
    if not (0 <= point.threshold <= 1 and abs(point.shift) < 1):
        raise InputError(f"{path}: expected a threshold from 0 to 1 and a shift below 1 s, found {tuple(point)}")
    return point
