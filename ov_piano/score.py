"""Scores of transcriptions: MIDI files against reference MIDI files.

1. The notes of both files are read as script 2 reads its references: a sustain pedal in the file prolongs notes.
2. Onsets within TOLERANCE_SECS on the same key are matched, each note once, as mir_eval does; offsets are ignored.
3. The tables ONSETS, ONSETS+VELOCITIES and ANALYSIS have a row for each pair and the averages last.

    ov-piano score REFERENCE ESTIMATE [KEY=value …]

REFERENCE and ESTIMATE are two MIDI files, or two folders whose files are paired by name, wherever they are below
them and whether they end in .mid or .midi. Without an installation the command is python -m ov_piano.score.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ov_piano.atomic import atomic_folder
from ov_piano.cli import run
from ov_piano.config import POSITIVE, REQUIRED, option
from ov_piano.errors import InputError
from ov_piano.evaluation.analysis import analyse
from ov_piano.evaluation.ground_truth import load_ground_truths
from ov_piano.evaluation.report import (
    format_table,
    onset_table,
    velocity_table,
    with_last_row,
    write_tables,
)
from ov_piano.evaluation.search import score_recordings
from ov_piano.settings import Tolerances

MIDI_SUFFIXES = (".mid", ".midi")

log = logging.getLogger(__name__)


@dataclass
class ConfDef:
    """Settings of the command."""

    REFERENCE: str = option(REQUIRED, "MIDI file or folder that is right", positional=True)
    ESTIMATE: str = option(REQUIRED, "MIDI file or folder to score", positional=True)
    OUT: str | None = option(None, "new folder for the tables as CSV files; null: none")
    SHIFT: float = option(0.0, "seconds added to the estimated onsets")
    TOLERANCE_SECS: float = option(0.05, "largest difference of matching onsets, in seconds", POSITIVE)
    TOLERANCE_VEL: float = option(0.1, "largest difference of matching velocities after rescaling, of 0-1", POSITIVE)
    VERBOSE: bool = option(False, "print the configuration first")


def find_pairs(reference: Path, estimate: Path) -> dict[str, tuple[Path, Path]]:
    """Reference and estimate by name (no suffix). Files of a folder without a partner are named and left out.

    :raises InputError: a file and a folder, no such path, two files of one name in a folder, no pair
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
        log.warning("left out: %s has no partner in %s", path, other)
    pairs = {name: (references[name], estimates[name]) for name in references if name in estimates}
    if not pairs:
        raise InputError(f"{reference} and {estimate}: no MIDI files of the same name")
    return pairs


def _by_name(folder: Path) -> dict[str, Path]:
    """The MIDI files in a folder and below."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in MIDI_SUFFIXES and path.is_file():
            if path.stem in found:
                raise InputError(f"{found[path.stem]} and {path}: expected each name once in {folder}")
            found[path.stem] = path
    return found


def as_events(notes: np.ndarray) -> pd.DataFrame:
    """Notes (n, 4) of a MIDI file as the table of events that a transcription gives."""
    table = pd.DataFrame({"onset_secs": notes[:, 0], "note": notes[:, 2], "velocity": notes[:, 3]})
    return table.assign(prob=1.0)


def main(conf: ConfDef) -> None:
    """Print the tables."""
    pairs = find_pairs(Path(conf.REFERENCE), Path(conf.ESTIMATE))
    if conf.OUT is not None and Path(conf.OUT).exists():
        raise InputError(f"OUT={conf.OUT}: exists already")
    references = load_ground_truths([reference for reference, _ in pairs.values()])
    estimates = [as_events(notes) for notes in load_ground_truths([estimate for _, estimate in pairs.values()])]
    tolerances = Tolerances(conf.TOLERANCE_SECS, conf.TOLERANCE_VEL)
    scored = (list(pairs), references, estimates, 0.0, conf.SHIFT, tolerances)  # 0: the threshold, which all reach
    scores = score_recordings(*scored)
    tables = {"onsets": onset_table(scores), "onsets_velocities": velocity_table(scores), "analysis": analyse(*scored)}
    tables = {name: with_last_row(table, f"AVERAGES ({len(pairs)})") for name, table in tables.items()}
    for name, table in tables.items():
        print(format_table(name.upper().replace("_", "+"), table))
    if conf.OUT is not None:
        with atomic_folder(Path(conf.OUT)) as folder:
            write_tables(folder, **tables)


if __name__ == "__main__":
    run(main, ConfDef)
