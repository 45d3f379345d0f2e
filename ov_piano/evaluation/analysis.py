"""How much a recording's scores depend on mir_eval's velocity fit and on the timing of its labels."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ov_piano.evaluation.scoring import match_onsets, score
from ov_piano.evaluation.search import above_threshold, as_notes
from ov_piano.settings import OperatingPoint, Tolerances

COLUMNS = ["notes", "events", "F1_constant_velocity", "offset_secs", "P_aligned", "R_aligned", "F1_aligned"]
CONSTANT_VELOCITY = 64.0
OFFSET_REACH = 2  # in onset tolerances: largest distance of notes paired to estimate a recording's time offset


def analyse(
    names: Sequence[str],
    references: Sequence[np.ndarray],
    estimates: Sequence[pd.DataFrame],
    point: OperatingPoint,
    tolerances: Tolerances = Tolerances(),
) -> pd.DataFrame:
    """One row per recording, indexed by name, at one operating point.

    ``notes``, ``events``: number of reference notes and of detected events.
    ``F1_constant_velocity``: onset+velocity F1 if all detected velocities were equal. mir_eval fits
    velocities before comparing them, so this baseline is far above 0.
    ``offset_secs``: median of detected minus true onset (s) over notes paired within twice the onset
    tolerance, since labels may be off by more than the tolerance; NaN without pairs.
    ``P_aligned``, ``R_aligned``, ``F1_aligned``: onset scores after removing that offset.
    """
    rows = []
    for reference, events in zip(references, estimates, strict=True):
        estimate = as_notes(events[above_threshold(events, point.threshold)], point.shift)
        constant = estimate.copy()
        constant[:, 2] = CONSTANT_VELOCITY
        floor = score(reference, constant, tolerances).onsets_velocities.f1
        offset = median_offset(reference, estimate, OFFSET_REACH * tolerances.onset_secs)
        aligned = score(reference, estimate - [np.nan_to_num(offset), 0, 0], tolerances).onsets
        rows.append((len(reference), len(estimate), floor, offset, *aligned))
    return pd.DataFrame(rows, index=pd.Index(names, name="Filename"), columns=COLUMNS)


def median_offset(reference: np.ndarray, estimate: np.ndarray, reach_secs: float) -> float:
    """Median of estimated minus reference onset (s) over notes paired within ``reach_secs``; NaN without pairs."""
    matches = match_onsets(reference, estimate, reach_secs)
    if len(matches) == 0:
        return np.nan
    return float(np.median(estimate[matches[:, 1], 0] - reference[matches[:, 0], 0]))
