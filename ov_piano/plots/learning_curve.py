"""The learning curve: losses, learning rate and cross-validation scores over the training steps."""

import json
from array import array
from bisect import bisect_left
from math import nan
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from ov_piano.plots.style import BLUE, DARK, GREEN, LIGHT, VERMILION, new_figure, save, warn_on_error

PER_STEP = ("onset_loss", "velocity_loss", "velocity_loss_floor", "end_loss", "lr")
PER_VALIDATION = ("F1", "F1_velocities", "F1_offsets")
MOST_POINTS = 2000  # of a line; about its width in pixels
MOST_MARKERS = 150
WIDTH, HEIGHT = 9, 9  # inches


class LearningCurve:
    """Updates ``OUTPUT_DIR/learning_curve.png``, for the last time at the end of the ``with`` block.

    :param output_dir: of script 1, with the logs in ``txt_logs/*.jsonl``
    :param writer: false for processes that must not write
    """

    def __init__(self, output_dir: str | Path, writer: bool = True) -> None:
        self.path = Path(output_dir) / "learning_curve.png"
        self.writer = writer
        self._history = History(Path(output_dir) / "txt_logs")

    def refresh(self) -> None:
        """Plot the logs so far; on failure, only warn."""
        if not self.writer:
            return
        with warn_on_error(str(self.path)):
            self._history.read_on()
            if self._history.steps["step"]:
                save(draw(self._history), self.path)

    def __enter__(self) -> "LearningCurve":
        return self

    def __exit__(self, *_: object) -> None:
        self.refresh()


class History:
    """The numbers in a folder's JSON-lines logs, in the order of the file names, which is chronological.

    A record of a step replaces those of this and all later steps, since a resumed run repeats the
    steps after its last saved state, and a new run repeats all.

    ``steps``: column name -> values, ``step`` and `PER_STEP`; ``scores``: ``step`` and `PER_VALIDATION`. Values that
    were not logged are NaN.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps = {name: array("d") for name in ("step", *PER_STEP)}
        self.scores = {name: array("d") for name in ("step", *PER_VALIDATION)}
        self._read_to: dict[Path, int] = {}  # bytes

    def read_on(self) -> None:
        """Read what was logged since the last call. Skips incomplete lines."""
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read_to.get(path, 0))
                whole_lines, newline, _ = file.read().rpartition(b"\n")
            self._read_to[path] = self._read_to.get(path, 0) + len(whole_lines) + len(newline)
            for line in whole_lines.splitlines():
                self._take(json.loads(line))

    def _take(self, record: dict) -> None:
        step = record.get("step")
        if "lr" in record:
            for table in (self.steps, self.scores):
                _forget_from(table, step)
            _append(self.steps, step, record, PER_STEP)
        elif "xv" in record:
            _forget_from(self.scores, step)
            _append(self.scores, step, record["xv"], PER_VALIDATION)


def _forget_from(table: dict[str, array], step: int) -> None:
    first = bisect_left(table["step"], step)
    for column in table.values():
        del column[first:]


def _append(table: dict[str, array], step: int, record: dict, names: tuple[str, ...]) -> None:
    table["step"].append(step)
    for name in names:
        table[name].append(record.get(name, nan))


def smoothing_window(steps: int) -> int:
    """Odd number of steps to average over: a hundredth of all, but enough to smooth the noise of single batches."""
    return max(steps // 100, min(steps // 4, 25)) | 1


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving average over ``window`` (odd) values, fewer at the ends; same length as ``values``."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place, reach = np.arange(len(values)), window // 2
    begins, ends = np.maximum(place - reach, 0), np.minimum(place + reach + 1, len(values))
    return (sums[ends] - sums[begins]) / (ends - begins)


def thinned(steps: np.ndarray, values: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most ``most`` points with the same envelope: the lowest and highest value of each block of steps."""
    size = -(-2 * len(steps) // most)
    if size <= 2:
        return steps, values
    begins = np.arange(0, len(steps), size)
    lows, highs = np.minimum.reduceat(values, begins), np.maximum.reduceat(values, begins)
    return np.repeat(steps[begins], 2), np.column_stack([lows, highs]).ravel()


def draw(history: History) -> Figure:
    """The learning curve of a history with at least one step."""
    steps = {name: np.array(column) for name, column in history.steps.items()}
    figure = new_figure(WIDTH, HEIGHT)
    losses, rate, scores = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.3, 3))
    _draw_losses(losses, steps)
    rate.plot(*thinned(steps["step"], steps["lr"]), color=DARK)
    rate.set(ylabel="learning rate", ylim=(0, 1.05 * steps["lr"].max()))
    _draw_scores(scores, {name: np.array(column) for name, column in history.scores.items()})
    for axes in (losses, rate, scores):
        axes.grid(color=LIGHT)
        axes.set_axisbelow(True)
    scores.set_xlabel("step")
    scores.xaxis.set_major_locator(MaxNLocator(integer=True))
    scores.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    scores.set_xlim(0, steps["step"][-1])
    figure.suptitle(f"Training after {steps['step'][-1]:,.0f} steps")
    return figure


def _positive(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Replace values without a logarithm by NaN: the velocity loss of a batch without onsets is 0."""
    return steps, np.where(values > 0, values, np.nan)


def _draw_losses(axes: Axes, steps: dict[str, np.ndarray]) -> None:
    """Plot the losses; the velocity loss minus the entropy of its targets, if the logs contain it for all steps."""
    window = smoothing_window(len(steps["step"]))
    floor, above = steps["velocity_loss_floor"], " above the entropy of the targets"
    if np.isnan(floor).any():
        floor, above = 0, ""
    for values, label, colour, style in (
        (steps["onset_loss"], "onsets", BLUE, "-"),
        (steps["velocity_loss"] - floor, f"velocities (weighted){above}", VERMILION, "--"),
        (steps["end_loss"], "note ends", GREEN, "-."),
    ):
        if np.isnan(values).all():
            continue
        axes.plot(*_positive(*thinned(steps["step"], values)), color=colour, alpha=0.25, linewidth=0.7)
        axes.plot(*_positive(*thinned(steps["step"], smoothed(values, window))), style, color=colour, label=label)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("loss")
    _legend(axes, f"mean over {window:,} steps" if window > 1 else "each step")


def _draw_scores(axes: Axes, scores: dict[str, np.ndarray]) -> None:
    axes.set_ylabel("cross-validation F1")
    if not len(scores["step"]):
        axes.set_ylim(0, 1)
        axes.text(0.5, 0.5, "no cross-validation yet", transform=axes.transAxes, ha="center", color=DARK)
        return
    size = 4 if len(scores["step"]) <= MOST_MARKERS else 0
    for name, what, colour, style in (
        ("F1", "onsets", BLUE, "o-"),
        ("F1_velocities", "+ velocities", VERMILION, "s--"),
        ("F1_offsets", "+ offsets", GREEN, "^-."),
    ):
        if np.isnan(scores[name]).all():
            continue
        best = int(np.nanargmax(scores[name]))
        label = f"{what}: best {scores[name][best]:.4f} at step {scores['step'][best]:,.0f}"
        axes.plot(scores["step"], scores[name], style, color=colour, markersize=size, label=label, clip_on=False)
    _legend(axes, None)


def _legend(axes: Axes, title: str | None) -> None:
    """Place the legend above the axes, to not hide any line."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, title=title, alignment="left")
