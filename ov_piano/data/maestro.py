"""MAESTRO v1, v2, v3: a CSV table and year folders -> recordings (Hawthorne et al., ICLR 2019)."""

import csv
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ov_piano.data.recording import Recording, require_subset
from ov_piano.errors import InputError

SPLITS = ("train", "validation", "test")
PUBLISHED_ROWS = {1: 1184, 2: 1282, 3: 1276}  # by version
COLUMNS = (
    "canonical_composer",
    "canonical_title",
    "split",
    "year",
    "midi_filename",
    "audio_filename",
    "duration",
)

log = logging.getLogger(__name__)


class MaestroMetadata(NamedTuple):
    """One recording as the HDF5 files describe it; ``basename`` has no folder and no suffix."""

    basename: str
    year: int
    split: str
    duration: float  # s
    composer: str
    title: str


def dataset_name(version: int) -> str:
    """The name in the HDF5 file names."""
    if version not in PUBLISHED_ROWS:
        raise InputError(f"MAESTRO version {version}: expected one of {', '.join(map(str, PUBLISHED_ROWS))}")
    return f"MAESTROv{version}"


def load_recordings(
    root: str | Path,
    version: int = 3,
    splits: Sequence[str] | None = None,
    years: Sequence[int] | None = None,
    need_audio: bool = True,
) -> list[Recording]:
    """The recordings under ``root``, in the order of its CSV, of the given splits and years (None: all).

    Missing year folders are allowed, since users may download a subset; a missing file in an
    existing folder is an error.

    :raises InputError: missing or invalid CSV, unknown split or year, missing file, no recordings.
    """
    root = Path(root)
    csv_path = root / f"maestro-v{version}.0.0.csv"
    rows = _read_csv(csv_path, version)
    wanted_splits = require_subset("split", splits, SPLITS)
    wanted_years = require_subset("year", years, sorted({row["year"] for row in rows}))
    recordings, absent = [], set()
    for row in rows:
        if row["split"] not in wanted_splits or row["year"] not in wanted_years:
            continue
        audio, midi = root / row["audio_filename"], root / row["midi_filename"]
        if not midi.parent.is_dir():
            absent.add(midi.parent.name)
            continue
        for path in (midi, audio) if need_audio else (midi,):
            if not path.is_file():
                raise InputError(f"{path}: no such file, although {csv_path.name} lists it")
        described = ("year", "split", "duration", "canonical_composer", "canonical_title")
        metadata = MaestroMetadata(midi.stem, *(row[column] for column in described))
        recordings.append(Recording(midi.stem, audio, midi, metadata))
    if absent:
        log.warning("%s: no folder %s: skipping their recordings", root, ", ".join(sorted(absent)))
    if not recordings:
        raise InputError(f"{root}: no recording left (splits {list(wanted_splits)}, years {list(wanted_years)})")
    names = [recording.name for recording in recordings]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{csv_path}: lists {twice} more than once")
    return recordings


def _read_csv(path: Path, version: int) -> list[dict]:
    """The validated rows as dicts by column; years and durations are numbers."""
    dataset_name(version)
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder: expected MAESTRO v{version} (its CSV and year folders)")
    if not path.is_file():
        others = sorted(other.name for other in path.parent.glob("*.csv"))
        raise InputError(f"{path}: no such file (found {', '.join(others) or 'no CSV'} there)")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.reader(file)
            header = next(table, [])
            lines = [(table.line_num, fields) for fields in table if fields]
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV table: {error}") from None
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise InputError(
            f"{path}: expected the columns {', '.join(COLUMNS)}, separated by commas; {', '.join(missing)} missing"
        )
    if not lines:
        raise InputError(f"{path}: no rows")
    if len(lines) != PUBLISHED_ROWS[version]:
        log.info("%s: %d rows, the published table has %d", path, len(lines), PUBLISHED_ROWS[version])
    return [_row(header, fields, f"{path}: line {number}") for number, fields in lines]


def _row(header: list[str], fields: list[str], where: str) -> dict:
    """A validated row as a dict by column; ``where`` locates it in error messages."""
    if len(fields) != len(header):
        raise InputError(f"{where}: expected {len(header)} fields, found {len(fields)}")
    row = dict(zip(header, fields, strict=True))
    if row["split"] not in SPLITS:
        raise InputError(f"{where}: column split: expected {', '.join(SPLITS)}, found {row['split']!r}")
    for column, kind in (("year", int), ("duration", float)):
        try:
            row[column] = kind(row[column])
        except ValueError:
            raise InputError(f"{where}: column {column}: expected a number, found {row[column]!r}") from None
    if not math.isfinite(row["duration"]):
        raise InputError(f"{where}: column duration: expected a number, found {row['duration']}")
    return row
