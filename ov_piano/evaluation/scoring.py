"""Note scores equal to mir_eval's, in near-linear time and memory.

The measures are those of ``mir_eval.transcription`` with offsets ignored (Bay et al.,
ISMIR 2009) and of ``mir_eval.transcription_velocity`` (Hawthorne et al., arXiv 1710.11153,
section 5): an estimated note is correct if it is within the onset tolerance of a reference
note of the same pitch, each note being matched at most once, and, for the second measure, if
its velocity is close to the reference's after a linear fit over all matched notes. The third
measure, for estimates with note ends, is ``mir_eval.transcription`` with offsets.

mir_eval compares every reference with every estimate; here, sorting finds the few candidates
of each reference. The velocity fit depends on which maximum matching is chosen:
`maximum_matching` finds the same one as mir_eval. Unambiguous pairs are matched directly;
notes without common candidates do not affect each other.

Notes are float arrays, one row per note. References have four columns: onset (s), offset (s),
MIDI note, velocity. Estimates have three: onset (s), MIDI note, velocity on any scale; their
offsets (s), where known, are a separate array.
"""

from typing import NamedTuple

import numpy as np
from mir_eval.transcription import N_DECIMALS
from mir_eval.util import f_measure

from ov_piano.evaluation.matching import maximum_matching
from ov_piano.settings import Tolerances

_MARGIN_SECS = 1e-3  # candidates are collected with this margin, then tested exactly


class PRF(NamedTuple):
    """Precision, recall and F1, each from 0 to 1."""

    precision: float
    recall: float
    f1: float


class Scores(NamedTuple):
    """The two measures of one recording."""

    onsets: PRF
    onsets_velocities: PRF


def score(reference: np.ndarray, estimate: np.ndarray, tolerances: Tolerances = Tolerances()) -> Scores:
    """Scores of ``estimate`` (m, 3) against ``reference`` (n, 4), columns as in the module's docstring.

    Estimated onsets before 0 s (due to a negative shift) count as 0 s. All scores are 0 if
    either side is empty, as in mir_eval.

    :raises ValueError: wrong shape, values that are not finite, fractional notes, negative velocities.
    """
    reference, estimate = check_notes(reference, 4, "reference"), check_notes(estimate, 3, "estimate")
    matches = match_onsets(reference, estimate, tolerances.onset_secs)
    return score_matches(reference[:, 3], estimate[:, 2], matches, len(estimate), tolerances.velocity)


def check_notes(notes: np.ndarray, columns: int, what: str) -> np.ndarray:
    """Validated ``notes`` as a float array (n, columns); an empty sequence becomes (0, columns)."""
    notes = np.asarray(notes, dtype=np.float64)
    if notes.size == 0:
        return np.empty((0, columns))
    if notes.ndim != 2 or notes.shape[1] != columns:
        raise ValueError(f"{what} notes: expected shape (n, {columns}), found {notes.shape}")
    if not np.isfinite(notes).all():
        raise ValueError(f"{what} notes: expected finite numbers, found {notes[~np.isfinite(notes)][0]}")
    pitches, velocities = notes[:, -2], notes[:, -1]
    if (pitches != np.round(pitches)).any():
        raise ValueError(f"{what} notes: expected whole MIDI notes, found {pitches[pitches != np.round(pitches)][0]}")
    if velocities.min() < 0:
        raise ValueError(f"{what} notes: expected velocities of at least 0, found {velocities.min()}")
    return notes


def match_onsets(reference: np.ndarray, estimate: np.ndarray, tolerance_secs: float) -> np.ndarray:
    """Maximum matching of notes with equal pitch and close onsets: (k, 2) reference and estimate indices."""
    onsets = shifted_onsets(estimate, 0.0)
    refs, ests = candidate_pairs(reference, estimate, tolerance_secs)
    near = are_near(reference[refs, 0], onsets[ests], tolerance_secs)
    return match_pairs(refs[near], ests[near])


def score_offsets(
    reference: np.ndarray, estimate: np.ndarray, est_offsets: np.ndarray, tolerances: Tolerances = Tolerances()
) -> PRF:
    """Scores of notes whose onset and offset are both correct.

    :param est_offsets: (m,) in seconds, one per row of ``estimate``
    :raises ValueError: as for :func:`score`, or not one finite offset per note
    """
    reference, estimate = check_notes(reference, 4, "reference"), check_notes(estimate, 3, "estimate")
    est_offsets = np.asarray(est_offsets, np.float64)
    if est_offsets.shape != (len(estimate),) or not np.isfinite(est_offsets).all():
        raise ValueError(f"estimated offsets: expected {len(estimate)} finite numbers, found {est_offsets}")
    refs, ests = candidate_pairs(reference, estimate, tolerances.onset_secs)
    near = are_near(reference[refs, 0], shifted_onsets(estimate, 0.0)[ests], tolerances.onset_secs)
    near &= offsets_are_near(reference[refs], est_offsets[ests], tolerances)
    return prf(len(match_pairs(refs[near], ests[near])), len(estimate), len(reference))


def offsets_are_near(references: np.ndarray, est_offsets: np.ndarray, tolerances: Tolerances) -> np.ndarray:
    """mir_eval's test for each pair of a reference (pairs, 4) and an estimate's offset (pairs,) in seconds."""
    ref_onsets, ref_offsets = references[:, 0], references[:, 1]
    allowed = np.maximum(tolerances.offset_ratio * np.abs(ref_offsets - ref_onsets), tolerances.offset_secs)
    return np.around(np.abs(ref_offsets - est_offsets), N_DECIMALS) <= allowed


def shifted_onsets(estimate: np.ndarray, shift_secs: float) -> np.ndarray:
    """Onsets (m,) in seconds after adding the shift, clipped at 0."""
    return np.maximum(estimate[:, 0] + shift_secs, 0.0)


def are_near(ref_onsets: np.ndarray, est_onsets: np.ndarray, tolerance_secs: float) -> np.ndarray:
    """mir_eval's test for each pair: the rounded distance is at most the tolerance."""
    return np.around(np.abs(ref_onsets - est_onsets), N_DECIMALS) <= tolerance_secs


def candidate_pairs(reference: np.ndarray, estimate: np.ndarray, reach_secs: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices (pairs,) of references and estimates with equal pitch, including all within ``reach_secs``.

    Sorted by reference, then by estimate, like mir_eval's.
    """
    if len(reference) == 0 or len(estimate) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    reach = reach_secs + _MARGIN_SECS
    ref_onsets, est_onsets = reference[:, 0], shifted_onsets(estimate, 0.0)
    # One axis for all pitches, spaced so that different pitches are out of reach of each other.
    pitch_step = np.ptp(np.concatenate([ref_onsets, est_onsets])) + 2 * reach + 1
    ref_places = reference[:, 2] * pitch_step + ref_onsets
    est_places = estimate[:, 1] * pitch_step + est_onsets
    by_place = np.argsort(est_places, kind="stable")
    begins = np.searchsorted(est_places[by_place], ref_places - reach, side="left")
    counts = np.searchsorted(est_places[by_place], ref_places + reach, side="right") - begins
    refs = np.repeat(np.arange(len(reference)), counts)
    rank_in_window = np.arange(len(refs)) - np.repeat(np.cumsum(counts) - counts, counts)
    ests = by_place[np.repeat(begins, counts) + rank_in_window]
    in_order = np.lexsort((ests, refs))
    return refs[in_order], ests[in_order]


def match_pairs(refs: np.ndarray, ests: np.ndarray) -> np.ndarray:
    """Maximum matching (k, 2) of candidate pairs, sorted by reference; the same as mir_eval's.

    ``refs`` and ``ests`` are indices (pairs,), sorted as by :func:`candidate_pairs`.
    """
    if len(refs) == 0:
        return np.empty((0, 2), np.int64)
    alone = (np.bincount(refs)[refs] == 1) & (np.bincount(ests)[ests] == 1)
    graph: dict[int, list[int]] = {}
    for ref, est in zip(refs[~alone].tolist(), ests[~alone].tolist(), strict=True):
        graph.setdefault(est, []).append(ref)
    est_of_ref = np.full(refs[-1] + 1, -1)
    est_of_ref[refs[alone]] = ests[alone]
    for ref, est in maximum_matching(graph).items():
        est_of_ref[ref] = est
    matched = np.flatnonzero(est_of_ref >= 0)
    return np.column_stack([matched, est_of_ref[matched]])


def score_matches(
    ref_velocities: np.ndarray,
    est_velocities: np.ndarray,
    matches: np.ndarray,
    num_estimates: int,
    tolerance_vel: float,
) -> Scores:
    """Both measures from the matches (k, 2).

    ``num_estimates``: number of estimates above the threshold, at most ``len(est_velocities)``.
    """
    close = velocities_are_close(ref_velocities, est_velocities, matches, tolerance_vel)
    totals = num_estimates, len(ref_velocities)
    return Scores(prf(len(matches), *totals), prf(int(close.sum()), *totals))


def velocities_are_close(
    ref_velocities: np.ndarray, est_velocities: np.ndarray, matches: np.ndarray, tolerance_vel: float
) -> np.ndarray:
    """Whether the velocities of each match (k, 2) agree after mir_eval's fit over all matches: bool (k,)."""
    if len(matches) == 0:
        return np.zeros(0, bool)
    lowest, highest = ref_velocities.min(), ref_velocities.max()
    target = ((ref_velocities - lowest) / max(1, highest - lowest))[matches[:, 0]]
    # Same call on the same rows as in mir_eval, for equal rounding of differences at the tolerance.
    predictors = np.vstack([est_velocities[matches[:, 1]], np.ones(len(matches))]).T
    slope, intercept = np.linalg.lstsq(predictors, target, rcond=None)[0]
    return np.abs(slope * predictors[:, 0] + intercept - target) < tolerance_vel


def prf(correct: int, estimated: int, reference: int) -> PRF:
    """Scores from numbers of notes; all 0 if there are no estimates or no references."""
    if estimated == 0 or reference == 0:
        return PRF(0.0, 0.0, 0.0)
    precision, recall = correct / estimated, correct / reference
    return PRF(precision, recall, f_measure(precision, recall))
