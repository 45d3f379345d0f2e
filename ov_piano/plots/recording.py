"""A transcription compared with its reference over time: log-mel, network output, correct and wrong notes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage

from ov_piano.constants import LOWEST_NOTE, MEL_FMAX, MEL_FMIN, TOP_DB
from ov_piano.evaluation.scoring import match_onsets, velocities_are_close
from ov_piano.plots.style import (
    BLUE,
    LIGHT,
    ORANGE,
    SKY,
    VELOCITY_COLOURS,
    VERMILION,
    draw_logmel,
    new_figure,
    note_range,
    set_note_axis,
    velocity_range,
)
from ov_piano.settings import Tolerances
from ov_piano.transcription.events import MAX_VELOCITY

ROW_SECS = 30  # at most; all rows of a recording have the same length
ROWS_A_PAGE = 4
WIDTH, ROW_HEIGHT, HEAD_HEIGHT = 16, 8, 1  # inches
PANEL_HEIGHTS = (1.4, 1.8, 1.8, 2.6)  # relative
OUTLINE = "0.55"  # of reference notes
LEAST_PROB = 0.1  # velocities with a lower onset probability are meaningless and not shown
OUTCOMES = {  # name -> marker style
    "hit": {"marker": "o", "color": BLUE, "s": 16, "zorder": 4},
    "hit, velocity off": {"marker": "s", "edgecolor": SKY, "facecolor": "none", "s": 16, "linewidth": 1.4, "zorder": 4},
    "missed": {"marker": "x", "color": VERMILION, "s": 30, "linewidth": 1.6, "zorder": 3},
    "false": {"marker": "^", "edgecolor": "black", "facecolor": ORANGE, "s": 26, "linewidth": 0.6, "zorder": 2},
}


@dataclass(frozen=True)
class Transcribed:
    """A recording with everything to plot.

    :param logmel: (mels, t) in dB
    :param onset_probs: (keys, t) in 0-1
    :param velocities: (keys, t) in 0-1
    :param reference: reference notes (n, 4), as scored: onset (s), offset (s), MIDI note, velocity
    :param estimate: detected notes (m, 3), as scored: onset (s), MIDI note, velocity
    :param mel_range_hz: lower edge of the lowest and upper edge of the highest mel band
    """

    logmel: np.ndarray
    onset_probs: np.ndarray
    velocities: np.ndarray
    reference: np.ndarray
    estimate: np.ndarray
    frame_secs: float
    tolerances: Tolerances = Tolerances()
    mel_range_hz: tuple[float, float] = (MEL_FMIN, MEL_FMAX)

    @property
    def seconds(self) -> float:
        """Duration up to the last frame or note: the MIDI file may be longer than the audio."""
        onsets = [*self.reference[:, 0], *self.estimate[:, 0]]
        return max([self.logmel.shape[1] * self.frame_secs, *(onset + self.frame_secs for onset in onsets)])


def outcomes(reference: np.ndarray, estimate: np.ndarray, tolerances: Tolerances) -> dict[str, np.ndarray]:
    """The notes by scoring result: name as in `OUTCOMES` -> (k, 2) of onset (s) and MIDI note.

    A hit with a wrong velocity counts for onsets, but not for onsets with velocities. Hits have their detected
    onset, misses their reference onset.
    """
    matches = match_onsets(reference, estimate, tolerances.onset_secs)
    close = velocities_are_close(reference[:, 3], estimate[:, 2], matches, tolerances.velocity)
    missed = np.ones(len(reference), bool)
    missed[matches[:, 0]] = False
    false = np.ones(len(estimate), bool)
    false[matches[:, 1]] = False
    return {
        "hit": estimate[matches[close, 1], :2],
        "hit, velocity off": estimate[matches[~close, 1], :2],
        "missed": reference[missed][:, [0, 2]],
        "false": estimate[false, :2],
    }


def pages(recording: Transcribed, title: str) -> Iterator[Figure]:
    """Plot the recording in rows of up to `ROW_SECS`, one figure per `ROWS_A_PAGE` rows."""
    rows = _row_count(recording)
    row_secs = max(recording.seconds / rows, 1.0)
    notes = outcomes(recording.reference, recording.estimate, recording.tolerances)
    title += "\n" + "; ".join(f"{len(notes[name])} {name}" for name in OUTCOMES)
    count = page_count(recording)
    for page in range(count):
        begins = [row * row_secs for row in range(page * ROWS_A_PAGE, min(rows, (page + 1) * ROWS_A_PAGE))]
        figure = new_figure(WIDTH, ROW_HEIGHT * len(begins) + HEAD_HEIGHT)
        page_title = title + (f" (page {page + 1} of {count})" if count > 1 else "")
        figure.suptitle(page_title, parse_math=False)  # file names may contain dollar signs
        for part, begin in zip(figure.subfigures(len(begins), 1, squeeze=False)[:, 0], begins, strict=True):
            _draw_row(part, recording, notes, begin, begin + row_secs)
        yield figure


def page_count(recording: Transcribed) -> int:
    """Number of figures that `pages` yields."""
    return math.ceil(_row_count(recording) / ROWS_A_PAGE)


def _row_count(recording: Transcribed) -> int:
    return max(1, math.ceil(recording.seconds / ROW_SECS))


def _draw_row(figure: SubFigure, recording: Transcribed, notes: dict, begin: float, end: float) -> None:
    panels = figure.subplots(len(PANEL_HEIGHTS), 1, sharex=True, height_ratios=PANEL_HEIGHTS)
    spectrum, onsets, velocities, events = panels
    secs, count = recording.frame_secs, recording.logmel.shape[1]
    frames = slice(min(count - 1, math.floor(begin / secs)), min(count, math.ceil(end / secs) + 1))
    times = (frames.start - 0.5) * secs, (frames.stop - 0.5) * secs  # each frame is centred at its time
    keys = LOWEST_NOTE - 0.5, LOWEST_NOTE + len(recording.onset_probs) - 0.5
    probs = recording.onset_probs[:, frames]
    likely_velocities = np.ma.masked_where(probs < LEAST_PROB, MAX_VELOCITY * recording.velocities[:, frames])

    floor_db = recording.logmel.max() - TOP_DB
    image = draw_logmel(spectrum, recording.logmel[:, frames], times, recording.mel_range_hz, floor_db)
    _add_scale(image, "level (dB)")
    image = _draw_map(onsets, probs, (*times, *keys), "onset\nprobability")
    image.set(cmap="Greys", clim=(0, 1))
    image = _draw_map(velocities, likely_velocities, (*times, *keys), f"velocity\n(prob. ≥ {LEAST_PROB:g})")
    all_likely = MAX_VELOCITY * recording.velocities[recording.onset_probs >= LEAST_PROB]
    image.set(cmap=VELOCITY_COLOURS, clim=velocity_range(all_likely))
    _draw_events(events, notes, recording.reference, begin, end)

    for axes in panels[1:]:
        set_note_axis(axes, *note_range(np.concatenate([recording.reference[:, 2], recording.estimate[:, 1]])))
        axes.grid(axis="y", color=LIGHT)
        axes.set_axisbelow(True)
    events.set_xlim(begin, end)
    events.set_xlabel("time (s)")


def _draw_map(axes: Axes, values: np.ndarray, extent: tuple, label: str) -> AxesImage:
    image = axes.imshow(values, origin="lower", aspect="auto", interpolation="nearest", extent=extent)
    _add_scale(image, label)
    return image


def _add_scale(image: AxesImage, label: str) -> None:
    image.figure.colorbar(image, ax=image.axes, label=label, fraction=0.02, pad=0.01)


def _draw_truth(axes: Axes, reference: np.ndarray) -> None:
    """Draw reference notes (n, 4) as outlines from onset to offset."""
    onset, offset, note, _ = reference.T
    low, high = note - 0.4, note + 0.4
    corners = [onset, low], [onset, high], [offset, high], [offset, low]
    boxes = np.moveaxis(np.array(corners), 2, 0)  # (n, 4 corners, 2)
    axes.add_collection(PolyCollection(boxes, facecolor="none", edgecolor=OUTLINE, linewidth=0.8, label="true note"))


def _draw_events(axes: Axes, notes: dict[str, np.ndarray], reference: np.ndarray, begin: float, end: float) -> None:
    for name, looks in OUTCOMES.items():
        onset, note = notes[name].T
        shown = (onset >= begin) & (onset < end)
        axes.scatter(onset[shown], note[shown], label=name, **looks)
    _draw_truth(axes, reference[(reference[:, 0] < end) & (reference[:, 1] > begin)])
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, frameon=False)
