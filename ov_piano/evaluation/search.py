"""Scores for every pair of decoding threshold and time shift, sharing work between the pairs.

Each recording is decoded once, at the lowest threshold; a higher threshold keeps the events with
sufficient probability. Candidate matches are computed once, for the largest shift, and filtered
for each pair.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ov_piano.evaluation.scoring import (
    are_near,
    candidate_pairs,
    check_notes,
    match_pairs,
    offsets_are_near,
    prf,
    score_matches,
    shifted_onsets,
)
from ov_piano.settings import OperatingPoint, Tolerances
from ov_piano.transcription.note_ends import end_by_next_onset, has_ends

ONSET_COLUMNS = ["P", "R", "F1"]
VELOCITY_COLUMNS = ["P_velocities", "R_velocities", "F1_velocities"]
OFFSET_COLUMNS = ["P_offsets", "R_offsets", "F1_offsets"]  # only for events with note ends


def search(
    references: Sequence[np.ndarray],
    estimates: Sequence[pd.DataFrame],
    thresholds: Sequence[float],
    shifts: Sequence[float],
    tolerances: Tolerances = Tolerances(),
) -> pd.DataFrame:
    """Mean scores over the recordings, one row per (threshold, shift) in the order given, thresholds outermost.

    ``references``: note arrays (n, 4); ``estimates``: event tables decoded at or below the lowest of
    ``thresholds``; ``shifts``: seconds added to the onsets.
    Columns: ``threshold``, ``shift``, `ONSET_COLUMNS`, `VELOCITY_COLUMNS`, and `OFFSET_COLUMNS` if all events
    have note ends.
    """
    grids = [
        score_grid(reference, events, thresholds, shifts, tolerances)
        for reference, events in zip(references, estimates, strict=True)
    ]
    columns = score_columns(estimates)
    means = np.mean(grids, axis=0).reshape(-1, len(columns))
    points = pd.DataFrame(itertools.product(thresholds, shifts), columns=["threshold", "shift"])
    return points.join(pd.DataFrame(means, columns=columns))


def score_columns(estimates: Sequence[pd.DataFrame]) -> list[str]:
    """The columns of a search or a score table for these event tables."""
    return ONSET_COLUMNS + VELOCITY_COLUMNS + (OFFSET_COLUMNS if all(map(has_ends, estimates)) else [])


def best_row(found: pd.DataFrame, by: str = "F1") -> pd.Series:
    """The row of a search with the highest value in column ``by``; the first if there are several."""
    return found.loc[found[by].idxmax()]


def best_timed_row(found: pd.DataFrame, late_secs: float, tie: float) -> pd.Series:
    """The row with the most accurate onset times among those with nearly the best F1.

    F1 ignores timing errors within the onset tolerance. Of the rows at the threshold of the best F1
    that are within ``tie`` of it, this chooses the shift nearest to ``-late_secs``.

    :param late_secs: mean delay of the events at that threshold without a shift (s)
    """
    best = best_row(found)
    rivals = found[(found["threshold"] == best["threshold"]) & (found["F1"] >= best["F1"] - tie)]
    return rivals.loc[(rivals["shift"] + late_secs).abs().idxmin()]


def score_recordings(
    names: Sequence[str],
    references: Sequence[np.ndarray],
    estimates: Sequence[pd.DataFrame],
    point: OperatingPoint,
    tolerances: Tolerances = Tolerances(),
) -> pd.DataFrame:
    """Scores at one operating point, one row per recording, indexed by name; columns as in :func:`search`."""
    rows = [
        score_grid(reference, events, [point.threshold], [point.shift], tolerances).ravel()
        for reference, events in zip(references, estimates, strict=True)
    ]
    return pd.DataFrame(rows, index=pd.Index(names, name="Filename"), columns=score_columns(estimates))


def score_grid(
    reference: np.ndarray,
    events: pd.DataFrame,
    thresholds: Sequence[float],
    shifts: Sequence[float],
    tolerances: Tolerances = Tolerances(),
) -> np.ndarray:
    """One recording's scores (thresholds, shifts, 6), equal to `scoring.score` at each point.

    For events with note ends, three more: those of `scoring.score_offsets`.
    """
    reference = check_notes(reference, 4, "reference")
    estimate = check_notes(as_notes(events), 3, "estimate")
    chosen = [above_threshold(events, threshold) for threshold in thresholds]  # (m,) each
    refs, ests = candidate_pairs(reference, estimate, tolerances.onset_secs + np.abs(shifts).max())
    offsets = [_offsets(events, kept) for kept in chosen] if has_ends(events) else None  # (m,) each
    scores = np.empty((len(thresholds), len(shifts), 6 if offsets is None else 9))
    for s, shift in enumerate(shifts):
        near = are_near(reference[refs, 0], shifted_onsets(estimate, shift)[ests], tolerances.onset_secs)
        near_refs, near_ests = refs[near], ests[near]
        for t, kept in enumerate(chosen):
            pairs = kept[near_ests]
            matches = match_pairs(near_refs[pairs], near_ests[pairs])
            scored = score_matches(reference[:, 3], estimate[:, 2], matches, int(kept.sum()), tolerances.velocity)
            scores[t, s, :6] = np.concatenate(scored)
            if offsets is not None:
                both = pairs.copy()
                ends = offsets[t][near_ests[pairs]] + shift
                both[pairs] = offsets_are_near(reference[near_refs[pairs]], ends, tolerances)
                matches = match_pairs(near_refs[both], near_ests[both])
                scores[t, s, 6:] = prf(len(matches), int(kept.sum()), len(reference))
    return scores


def _offsets(events: pd.DataFrame, kept: np.ndarray) -> np.ndarray:
    """Offsets (m,) in seconds; those of events that are not ``kept`` are NaN."""
    offsets = np.full(len(events), np.nan)
    offsets[kept] = end_by_next_onset(events[kept])["offset_secs"]
    return offsets


def above_threshold(events: pd.DataFrame, threshold: float) -> np.ndarray:
    """Mask (m,) of the events that the decoder finds at this threshold."""
    return events["prob"].to_numpy(np.float64) >= threshold


def as_notes(events: pd.DataFrame, shift: float = 0.0) -> np.ndarray:
    """An event table as an array (m, 3) for scoring: onset (s), MIDI note, velocity."""
    notes = events[["onset_secs", "note", "velocity"]].to_numpy(np.float64)
    return np.column_stack([shifted_onsets(notes, shift), notes[:, 1:]])
