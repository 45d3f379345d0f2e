"""Shared plot style: colours, note and frequency axes, creating and saving figures.

The colours are those of Okabe and Ito ("Color Universal Design", 2008), distinguishable with any
common colour vision; lines and markers that could be confused also differ in shape.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ov_piano.constants import HIGHEST_NOTE, LOWEST_NOTE, TOP_DB
from ov_piano.machine.atomic import atomic_write
from ov_piano.transcription.events import MAX_VELOCITY

BLUE, SKY, GREEN, ORANGE, VERMILION = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00"
DARK, LIGHT = "0.25", "0.88"
VELOCITY_COLOURS = ListedColormap(matplotlib.colormaps["viridis_r"](np.linspace(0.08, 1, 256)))  # dark: loud
LEAST_VELOCITY_RANGE = 20  # between the lightest and the darkest colour
EMPTY_RANGE = (48, 72)  # MIDI notes to show if there are no notes: C3 to C5
TICKS_HZ = (200, 500, 1000, 2000, 4000, 8000)

log = logging.getLogger(__name__)


def new_figure(width: float, height: float, dpi: int = 100) -> Figure:
    """An empty figure (size in inches) that needs no display and no global state."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write ``figure`` to ``path`` as PNG, atomically."""
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png")


@contextmanager
def warn_on_error(what: str) -> Iterator[None]:
    """Turn errors in the block into a warning, so that a failed plot does not end a training or an evaluation."""
    try:
        yield
    except Exception as error:
        log.warning("%s not drawn: %s: %s", what, type(error).__name__, error)


def set_note_axis(axes: Axes, lowest: int = LOWEST_NOTE, highest: int = HIGHEST_NOTE) -> None:
    """MIDI notes on the y axis, with labels at each C (C4 is note 60)."""
    cs = [note for note in range(0, 128, 12) if lowest <= note <= highest]
    axes.set_yticks(cs, [f"C{note // 12 - 1}" for note in cs])
    axes.set_ylim(lowest - 0.5, highest + 0.5)
    axes.set_ylabel("note")


def note_range(notes: np.ndarray, margin: int = 2) -> tuple[int, int]:
    """Lowest and highest MIDI note to show: the range of ``notes`` with a margin, at least an octave."""
    if not len(notes):
        return EMPTY_RANGE
    low, high = int(notes.min()) - margin, int(notes.max()) + margin
    missing = max(0, 12 - (high - low))
    low, high = low - missing // 2, high + missing - missing // 2
    return max(low, LOWEST_NOTE), min(high, HIGHEST_NOTE)


def velocity_range(velocities: np.ndarray) -> tuple[float, float]:
    """The velocities of the lightest and the darkest colour: the range of ``velocities``, widened if small."""
    low, high = (velocities.min(), velocities.max()) if len(velocities) else (0, MAX_VELOCITY)
    missing = max(0, LEAST_VELOCITY_RANGE - (high - low))
    return low - missing / 2, high + missing / 2


def set_mel_axis(axes: Axes) -> None:
    """Labels in Hz for a y axis in `mel`."""
    axes.set_yticks([mel(hz) for hz in TICKS_HZ], [f"{hz}" for hz in TICKS_HZ])
    axes.set_ylabel("frequency (Hz)")


def draw_logmel(
    axes: Axes, logmel: np.ndarray, times: tuple[float, float], mel_range_hz: tuple[float, float], floor_db: float
) -> AxesImage:
    """Draw a log-mel (mels, t) in dB, from ``floor_db`` up; ``times``: begin and end in seconds."""
    image = axes.imshow(
        logmel,
        origin="lower",
        aspect="auto",
        cmap="magma",
        clim=(floor_db, floor_db + TOP_DB),
        extent=(*times, *map(mel, mel_range_hz)),
    )
    set_mel_axis(axes)
    return image


def mel(hz: float) -> float:
    """Hz to mel (HTK scale, like the log-mel)."""
    return 2595 * math.log10(1 + hz / 700)
