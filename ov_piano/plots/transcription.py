"""Plot of a transcription: log-mel above, notes coloured by velocity below, in rows like the systems of a score."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch.nn.functional import adaptive_max_pool1d

from ov_piano.constants import FRAME_SECS
from ov_piano.plots.style import (
    VELOCITY_COLOURS,
    draw_logmel,
    new_figure,
    note_range,
    set_note_axis,
    velocity_range,
)
from ov_piano.transcription.midi_writer import to_notes
from ov_piano.transcription.stream import SpooledLogMel

ROW_SECS, SPARE_SECS = 30, 1  # row length, and tolerance to avoid a short extra row; rows get longer beyond MOST_ROWS
MOST_ROWS = 10
WIDTH, ROW_HEIGHT, FRAME_HEIGHT, DPI = 9.5, 3.8, 0.6, 150  # inches; small, so that the text is large
PANEL_HEIGHTS = (1, 1.4)  # relative: spectrogram, notes
COLUMNS = 1500  # of a row's spectrogram, in pixels


def plot_transcription(logmel: SpooledLogMel, events: pd.DataFrame, note_secs: float, title: str) -> Figure:
    """Plot a recording of any length with its event table from `detect_events`."""
    rows = min(MOST_ROWS, max(1, math.ceil((logmel.seconds - SPARE_SECS) / ROW_SECS)))
    row_secs = max(logmel.seconds / rows, 1.0)
    figure = new_figure(WIDTH, ROW_HEIGHT * rows + FRAME_HEIGHT, DPI)
    axes = figure.subplots(2 * rows, 1, squeeze=False, height_ratios=PANEL_HEIGHTS * rows)[:, 0]
    notes = to_notes(events, note_secs)
    colours = velocity_range(notes[:, 3])
    for row in range(rows):
        begin, end = row * row_secs, (row + 1) * row_secs
        spectrum, roll = axes[2 * row], axes[2 * row + 1]
        image = _draw_spooled(spectrum, logmel, begin, end)
        lines = _draw_notes(roll, notes[(notes[:, 0] < end) & (notes[:, 1] > begin)], colours)
        set_note_axis(roll, *note_range(notes[:, 2]))
        for part, mapped, label in ((spectrum, image, "level (dB)"), (roll, lines, "velocity")):
            part.set_xlim(begin, end)
            figure.colorbar(mapped, ax=part, label=label, fraction=0.03, pad=0.01)
        spectrum.tick_params(labelbottom=False)
    axes[-1].set_xlabel("time (s)")
    figure.suptitle(f"{title}: {len(events)} notes in {logmel.seconds:.0f} s", fontsize="medium", parse_math=False)
    return figure


def _draw_spooled(axes: Axes, logmel: SpooledLogMel, begin_secs: float, end_secs: float) -> AxesImage:
    begin, end = round(begin_secs / FRAME_SECS), min(round(end_secs / FRAME_SECS), logmel.frames)
    levels = logmel.read(begin, end)  # (mels, t)
    if levels.shape[1] > COLUMNS:
        levels = adaptive_max_pool1d(levels, COLUMNS)
    times, settings = (begin * FRAME_SECS, end * FRAME_SECS), logmel.settings
    return draw_logmel(axes, levels.numpy(), times, (settings.fmin, settings.fmax), logmel.floor_db)


def _draw_notes(axes: Axes, notes: np.ndarray, colours: tuple[float, float]) -> LineCollection:
    """Draw notes (n, 4) as horizontal bars with a marker at the onset; ``colours``: see `velocity_range`."""
    onset, offset, note, velocity = notes.T
    segments = np.stack([np.stack([onset, note], 1), np.stack([offset, note], 1)], 1)  # (n, 2 ends, 2)
    lines = LineCollection(
        segments, array=velocity, cmap=VELOCITY_COLOURS, clim=colours, linewidths=3.2, capstyle="butt"
    )
    axes.add_collection(lines)
    axes.scatter(onset, note, s=16, c=velocity, cmap=VELOCITY_COLOURS, vmin=colours[0], vmax=colours[1], zorder=3)
    axes.set_facecolor("0.96")
    axes.grid(axis="y", color="0.85")
    axes.set_axisbelow(True)
    return lines
