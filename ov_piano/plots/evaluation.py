"""Plots of an evaluation: scores over thresholds and shifts, and the best, median and worst recording."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ov_piano.evaluation.search import ONSET_COLUMNS, VELOCITY_COLUMNS
from ov_piano.plots.recording import Transcribed, page_count, pages
from ov_piano.plots.style import BLUE, DARK, GREEN, LIGHT, VERMILION, new_figure, save
from ov_piano.settings import OperatingPoint

CURVES = (("precision", GREEN, "^:"), ("recall", VERMILION, "s--"), ("F1", BLUE, "o-"))
AXIS_LABELS = {"threshold": "threshold (onset probability)", "shift": "shift added to onsets (s)"}
WIDTH, HEIGHT = 11, 4.5  # inches, of a row of the search plot


def draw_search(found: pd.DataFrame, point: OperatingPoint, path: Path) -> None:
    """Save `search_figure`, unless there is only one threshold and shift."""
    if figure := search_figure(found, point):
        save(figure, path)


def search_figure(found: pd.DataFrame, point: OperatingPoint) -> Figure | None:
    """Precision, recall and F1 through the chosen point of a search, along each axis with several values.

    :param found: result of `search`, with a row for ``point``
    """
    varied = [name for name in ("threshold", "shift") if found[name].nunique() > 1]
    if not varied:
        return None
    best = found[(found["threshold"] == point.threshold) & (found["shift"] == point.shift)].iloc[0]
    figure = new_figure(WIDTH, HEIGHT * len(varied))
    for row, along in zip(figure.subplots(len(varied), 2, sharey=True, squeeze=False), varied, strict=True):
        (fixed,) = {"threshold", "shift"} - {along}
        line = found[found[fixed] == best[fixed]].sort_values(along)
        for axes, what, columns in zip(
            row, ("onsets", "onsets + velocities"), (ONSET_COLUMNS, VELOCITY_COLUMNS), strict=True
        ):
            _draw_curves(axes, line, along, columns, best)
            axes.set_title(f"{what} at {fixed} {best[fixed]:g}{' s' * (fixed == 'shift')}")
        row[0].set_ylabel("mean score")
    return figure


def _draw_curves(axes: Axes, line: pd.DataFrame, along: str, columns: list[str], best: pd.Series) -> None:
    axes.axvline(best[along], color=DARK, linewidth=0.8, label=f"chosen: {best[along]:g}")
    for (name, colour, style), column in zip(CURVES, columns, strict=True):
        label = f"{name}: {best[column]:.4f} there"
        axes.plot(line[along], line[column], style, color=colour, markersize=4, label=label)
    axes.set_xlabel(AXIS_LABELS[along])
    axes.grid(color=LIGHT)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.15), ncols=2, frameon=False)


def notable_recordings(f1: np.ndarray) -> list[tuple[int, str]]:
    """The recordings to plot: (index, "best" | "worst" | "median"), without duplicates.

    For an even number of recordings, the lower median; the first of equal scores is the worst.
    """
    order = np.argsort(f1, kind="stable")
    chosen: dict[int, str] = {}
    for rank, name in ((len(order) - 1, "best"), (0, "worst"), ((len(order) - 1) // 2, "median")):
        chosen.setdefault(int(order[rank]), name)
    return list(chosen.items())


def draw_recordings(
    folder: Path, scores: pd.DataFrame, transcribed: Callable[[int], Transcribed], point: OperatingPoint
) -> list[Path]:
    """Save plots of the best, worst and median recording by onset F1.

    :param folder: for ``NAME.png``, or ``NAME_01.png`` … if a recording needs several pages
    :param scores: result of `score_recordings` at ``point``
    :param transcribed: returns the recording of an index; called for one at a time
    """
    paths = []
    for index, rank in notable_recordings(scores["F1"].to_numpy()):
        name, row = str(scores.index[index]), scores.iloc[index]
        title = (
            f"{name}: {rank} of {len(scores)} by onset F1, at threshold {point.threshold:g} "
            f"and shift {point.shift:g} s\n"
            f"onsets P {row['P']:.3f}, R {row['R']:.3f}, F1 {row['F1']:.3f}; with velocities "
            f"P {row['P_velocities']:.3f}, R {row['R_velocities']:.3f}, F1 {row['F1_velocities']:.3f}"
        )
        recording = transcribed(index)
        one_page = page_count(recording) == 1
        for number, figure in enumerate(pages(recording, title), 1):
            paths.append(folder / (f"{name}.png" if one_page else f"{name}_{number:02d}.png"))
            save(figure, paths[-1])
    return paths
