"""Score transcriptions: MIDI files against reference MIDI files.

1. Read the notes of both files as script 2 reads its references: the sustain pedal extends notes.
2. Match onsets within TOLERANCE_SECS on the same key, each note at most once, as mir_eval does.
3. Print the tables ONSETS, ONSETS+VELOCITIES, ONSETS+OFFSETS (offset within 50 ms or 20 % of the note), FRAMES (which
   keys sound in each frame) and ANALYSIS, with one row per pair and the averages last.

    ov-piano score REFERENCE ESTIMATE [KEY=value …]

REFERENCE and ESTIMATE are two MIDI files or two folders. Files in the folders and their subfolders are paired by
name without the extension (.mid or .midi). If ov_piano is not installed, run python -m ov_piano.score.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ov_piano.cli import run
from ov_piano.config import REQUIRED, SHIFT, TOLERANCE, option
from ov_piano.constants import MIDI_SUFFIXES
from ov_piano.errors import InputError
from ov_piano.evaluation.analysis import analyse
from ov_piano.evaluation.frames import frame_table
from ov_piano.evaluation.ground_truth import load_ground_truths
from ov_piano.evaluation.report import (
    format_table,
    offset_table,
    onset_table,
    velocity_table,
    with_last_row,
    write_tables,
)
from ov_piano.evaluation.search import score_recordings
from ov_piano.machine.atomic import atomic_folder
from ov_piano.settings import OperatingPoint, Tolerances

log = logging.getLogger(__name__)


@dataclass
class ConfDef:
    """Settings of the command."""

    REFERENCE: str = option(REQUIRED, "reference MIDI file or folder", positional=True)
    ESTIMATE: str = option(REQUIRED, "MIDI file or folder to score", positional=True)
    OUT: str | None = option(None, "new folder for the tables as CSV files; null: print only")
    SHIFT: float = option(0.0, "time shift of the estimated onsets in seconds", SHIFT)
    TOLERANCE_SECS: float = option(0.05, "onset tolerance in seconds", TOLERANCE)
    TOLERANCE_VEL: float = option(0.1, "velocity tolerance on a scale of 0-1, after rescaling", TOLERANCE)
    VERBOSE: bool = option(False, "print the configuration first")


def find_pairs(reference: Path, estimate: Path) -> dict[str, tuple[Path, Path]]:
    """Reference and estimate by name without extension. Warns about files without a partner and skips them.

    :raises InputError: a file and a folder, a missing path, duplicate names in a folder, or no pairs
    """
    for path in (reference, estimate):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
    if reference.is_file() and estimate.is_file():
        return {reference.stem: (reference, estimate)}
    if reference.is_file() or estimate.is_file():
        raise InputError(f"{reference} and {estimate}: expected two MIDI files or two folders")
    references, estimates = _by_name(reference), _by_name(estimate)
    for name in sorted(references.keys() ^ estimates.keys()):
        path, other = (references[name], estimate) if name in references else (estimates[name], reference)
        log.warning("skipped: %s has no counterpart in %s", path, other)
    pairs = {name: (references[name], estimates[name]) for name in references if name in estimates}
    if not pairs:
        raise InputError(f"{reference} and {estimate}: no MIDI files of the same name")
    return pairs


def _by_name(folder: Path) -> dict[str, Path]:
    """The MIDI files in a folder and its subfolders, by name without extension."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in MIDI_SUFFIXES and path.is_file():
            if path.stem in found:
                raise InputError(f"{found[path.stem]} and {path}: expected each name once in {folder}")
            found[path.stem] = path
    return found


def as_events(notes: np.ndarray) -> pd.DataFrame:
    """Notes (n, 4) of a MIDI file as an event table, like a transcription's."""
    table = pd.DataFrame(notes, columns=["onset_secs", "offset_secs", "note", "velocity"])
    return table.assign(prob=1.0)


def main(conf: ConfDef) -> None:
    """Score all pairs; print the tables and write them to OUT."""
    pairs = find_pairs(Path(conf.REFERENCE), Path(conf.ESTIMATE))
    if conf.OUT is not None and Path(conf.OUT).exists():
        raise InputError(f"OUT={conf.OUT}: exists already")
    references = load_ground_truths([reference for reference, _ in pairs.values()])
    estimates = [as_events(notes) for notes in load_ground_truths([estimate for _, estimate in pairs.values()])]
    tolerances = Tolerances(conf.TOLERANCE_SECS, conf.TOLERANCE_VEL)
    point = OperatingPoint(threshold=0.0, shift=conf.SHIFT)  # keeps all events
    scored = (list(pairs), references, estimates, point, tolerances)
    scores = score_recordings(*scored)
    tables = {
        "onsets": onset_table(scores),
        "onsets_velocities": velocity_table(scores),
        "onsets_offsets": offset_table(scores),
        "frames": frame_table(*scored[:-1]),
        "analysis": analyse(*scored),
    }
    tables = {name: with_last_row(table, f"AVERAGES ({len(pairs)})") for name, table in tables.items()}
    for name, table in tables.items():
        print(format_table(name.upper().replace("_", "+"), table))
    if conf.OUT is not None:
        with atomic_folder(Path(conf.OUT)) as folder:
            write_tables(folder, **tables)


if __name__ == "__main__":
    run(main, ConfDef)
