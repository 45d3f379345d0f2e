"""Evaluation results as printed tables and as files.

A report's folder contains ``config.yaml``, ``onsets.csv``, ``onsets_velocities.csv``, with note ends
``onsets_offsets.csv`` and ``frames.csv``, and ``analysis.csv`` (one row per recording, averages last),
``search.csv`` (one row per threshold and shift), and ``events/RECORDING.csv`` (detected notes).
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ov_piano.evaluation.search import OFFSET_COLUMNS, ONSET_COLUMNS, VELOCITY_COLUMNS, above_threshold
from ov_piano.log import timestamp
from ov_piano.machine.atomic import remove_partials
from ov_piano.settings import OperatingPoint
from ov_piano.transcription.note_ends import end_by_next_onset, has_ends, shifted


def new_report_path(output_dir: str | Path) -> Path:
    """``output_dir/eval/TIMESTAMP``, not created yet; deletes unfinished reports of killed runs."""
    remove_partials(Path(output_dir) / "eval")
    return Path(output_dir) / "eval" / timestamp()


def with_averages(table: pd.DataFrame, point: OperatingPoint) -> pd.DataFrame:
    """``table`` (one row per recording) plus a last row with the averages at ``point``."""
    return with_last_row(table, f"AVERAGES (t={point.threshold:g}, s={point.shift:g})")


def with_last_row(table: pd.DataFrame, label: str) -> pd.DataFrame:
    """``table`` (one row per recording) plus a row ``label`` with each column's mean (rounded for counts)."""
    averages = pd.DataFrame([table.mean()], index=[label])
    for column in table.select_dtypes("integer"):
        averages[column] = averages[column].round().astype(int)
    return pd.concat([table, averages]).rename_axis(table.index.name)


def onset_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Columns P, R, F1 of the onsets, from the result of `score_recordings`."""
    return scores[ONSET_COLUMNS]


def velocity_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Columns P, R, F1 of the onsets with velocities, from the result of `score_recordings`."""
    return scores[VELOCITY_COLUMNS].set_axis(ONSET_COLUMNS, axis=1)


def offset_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Columns P, R, F1 of onsets with offsets, from the result of `score_recordings` for events with note ends."""
    return scores[OFFSET_COLUMNS].set_axis(ONSET_COLUMNS, axis=1)


def format_table(title: str, table: pd.DataFrame) -> str:
    """``table`` as text below its title, with six decimals; shows the index if it has a name."""
    has_names = table.index.name is not None
    named = table.rename_axis(index=None, columns=table.index.name)
    return f"{title}\n{named.to_string(index=has_names, float_format='{:.6f}'.format)}\n"


def write_config(folder: Path, yaml: str, **results: str | float) -> None:
    """The resolved settings, followed by ``results`` in lower-case keys: commit, chosen threshold and shift."""
    lines = [f"{key}: {value}" for key, value in results.items()]
    (folder / "config.yaml").write_text("\n".join([yaml, *lines, ""]), encoding="utf-8")


def write_tables(folder: Path, **tables: pd.DataFrame) -> None:
    """Write each table to ``NAME.csv``, with the index if it has a name."""
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=table.index.name is not None)


def write_events(folder: Path, names: Sequence[str], estimates: Sequence[pd.DataFrame], point: OperatingPoint) -> None:
    """Write ``events/NAME.csv`` for each recording: the events at the threshold, shifted and in order of time.

    Columns: ``onset_secs`` (s, shifted), ``offset_secs`` with note ends, ``note`` (MIDI), ``velocity`` (0-127),
    ``prob``.
    """
    (folder / "events").mkdir()
    for name, events in zip(names, estimates, strict=True):
        found = events[above_threshold(events, point.threshold)]
        found = shifted(end_by_next_onset(found) if has_ends(found) else found, point.shift)
        found = found.sort_values(["onset_secs", "note"], kind="stable")
        found.to_csv(folder / "events" / f"{name}.csv", index=False, float_format="%.6f")
