"""The scorer against hand-worked tables, golden numbers and mir_eval."""

import tracemalloc
import warnings
from pathlib import Path

import mir_eval
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_piano.constants import FRAME_SECS, LOWEST_NOTE
from ov_piano.evaluation.frames import score_frames
from ov_piano.evaluation.scoring import PRF, Scores, match_onsets, score, score_offsets

GOLDEN = Path(__file__).parent / "golden" / "decode.npz"


def mir_eval_scores(reference: np.ndarray, estimate: np.ndarray) -> Scores:
    """mir_eval's scores of all notes."""
    onsets = np.maximum(estimate[:, 0], 0)
    ref = reference[:, [0, 0]] + [0, 0.1], mir_eval.util.midi_to_hz(reference[:, 2]), reference[:, 3]
    est = np.column_stack([onsets, onsets + 0.1]), mir_eval.util.midi_to_hz(estimate[:, 1]), estimate[:, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a side is empty
        plain = mir_eval.transcription.precision_recall_f1_overlap(*ref[:2], *est[:2], offset_ratio=None)
        velocity = mir_eval.transcription_velocity.precision_recall_f1_overlap(*ref, *est, offset_ratio=None)
    return Scores(PRF(*plain[:3]), PRF(*velocity[:3]))


def assert_equal(ours: Scores, theirs: Scores) -> None:
    np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=0, atol=1e-9)


def reference_of(*rows: tuple) -> np.ndarray:
    """Rows of onset, note, velocity -> (n, 4)."""
    return np.array([(onset, onset + 1, note, velocity) for onset, note, velocity in rows], dtype=float)


# Onset, note, velocity of reference | estimate; correct onsets, correct onsets with velocity
BY_HAND = {
    "all found, velocities on a line (20, 60, 100 -> 0, 0.5, 1)": (
        [(1.0, 60, 20), (2.0, 62, 60), (3.0, 64, 100)],
        [(1.01, 60, 0.1), (1.98, 62, 0.2), (3.0, 64, 0.3)],
        (3, 3),
    ),
    "exactly 50 ms is near, 50.1 ms is not, in either direction": (
        [(1.0, 60, 64), (2.0, 60, 64), (3.0, 60, 64), (4.0, 60, 64)],
        [(1.05, 60, 64), (1.95, 60, 64), (3.0501, 60, 64), (3.9499, 60, 64)],
        (2, 2),
    ),
    "50.04 ms counts as 50 ms: distances are rounded to 0.1 ms": ([(1.0, 60, 64)], [(1.05004, 60, 64)], (1, 1)),
    "the neighbouring key is not the same": ([(1.0, 60, 64)], [(1.0, 61, 64)], (0, 0)),
    "two estimates of one note: one is correct": ([(1.0, 60, 64)], [(1.0, 60, 64), (1.02, 60, 64)], (1, 1)),
    "two notes, one estimate between": ([(1.0, 60, 64), (1.06, 60, 64)], [(1.03, 60, 64)], (1, 1)),
    "the only full matching gives the first estimate to the second note": (
        [(1.0, 60, 0), (1.04, 60, 100)],
        [(1.03, 60, 100), (0.96, 60, 0)],
        (2, 2),
    ),
    "a note before the beginning counts as at 0 s": ([(0.04, 60, 64)], [(-0.03, 60, 64)], (1, 1)),
    "the fit of 0, 0, 0, 1 over equal velocities is 0.25: nothing within 0.1": (
        [(1.0, 60, 0), (2.0, 60, 0), (3.0, 60, 0), (4.0, 60, 100)],
        [(1.0, 60, 64), (2.0, 60, 64), (3.0, 60, 64), (4.0, 60, 64)],
        (4, 0),
    ),
    "the range of velocities is that of all references, also those not found (0, 10 -> 0, 0.1 of 100)": (
        [(1.0, 60, 0), (2.0, 60, 10), (3.0, 60, 100)],
        [(1.0, 60, 64), (2.0, 60, 64)],
        (2, 2),
    ),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_scores_equal_a_hand_worked_table(case):
    reference, estimate, (correct, correct_velocity) = BY_HAND[case]
    ours = score(reference_of(*reference), np.array(estimate, dtype=float))
    for prf, right in zip(ours, (correct, correct_velocity), strict=True):
        assert prf.precision == pytest.approx(right / len(estimate))
        assert prf.recall == pytest.approx(right / len(reference))
        assert prf.f1 == pytest.approx(2 * right / (len(estimate) + len(reference)))


def test_scores_equal_the_golden_ones():
    golden = np.load(GOLDEN)
    for threshold, shift, *expected in golden["scores"]:
        _, key, frame, prob, velocity = golden["events"].T
        estimate = np.column_stack([frame * FRAME_SECS + shift, key + LOWEST_NOTE, velocity])[prob >= threshold]
        assert np.concatenate(score(golden["groundtruth"], estimate)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("references", "estimates"), [(0, 0), (0, 2), (2, 0)])
def test_an_empty_side_scores_zero(references, estimates):
    assert score([(1, 2, 60, 64)] * references, [(1, 60, 64)] * estimates) == Scores(PRF(0, 0, 0), PRF(0, 0, 0))


@pytest.mark.parametrize(
    ("estimate", "message"),
    [
        ([(1, 2, 60, 64)], r"expected shape \(n, 3\), found \(1, 4\)"),
        ([(np.nan, 60, 64)], "expected finite numbers, found nan"),
        ([(1, 60.5, 64)], "expected whole MIDI notes, found 60.5"),
        ([(1, 60, -3)], "expected velocities of at least 0, found -3"),
    ],
)
def test_unusable_notes_are_refused(estimate, message):
    with pytest.raises(ValueError, match=f"estimate notes: {message}"):
        score([(1, 2, 60, 64)], estimate)


def notes(max_size: int) -> st.SearchStrategy:
    """Few keys, mostly on a 10 ms grid (distances of exactly 50 ms, equal times), in any order."""
    onset = st.one_of(st.integers(-2, 40).map(lambda steps: steps / 100), st.floats(0, 0.4))
    return st.lists(st.tuples(onset, st.integers(60, 61), st.integers(0, 127)), max_size=max_size)


@given(notes(20), notes(20))
def test_equals_mir_eval(reference, estimate):
    reference = reference_of(*[(max(0, onset), *rest) for onset, *rest in reference]).reshape(-1, 4)
    estimate = np.array(estimate, dtype=float).reshape(-1, 3)
    assert_equal(score(reference, estimate), mir_eval_scores(reference, estimate))


@pytest.mark.parametrize("order", ["by time", "by key", "random"])
def test_equals_mir_eval_on_a_busy_recording(order):
    rng = np.random.default_rng(0)
    onsets, pitches, velocities = rng.uniform(0, 10, 1500), rng.integers(21, 40, 1500), rng.integers(1, 128, 1500)
    reference = np.column_stack([onsets, onsets + 1, pitches, velocities])
    estimate = np.column_stack([onsets, pitches, velocities / 127])[rng.random(1500) < 0.9]
    estimate += rng.normal(0, [[0.03, 0, 0.05]], (len(estimate), 3))
    doubled = estimate[::3] + np.array([0.02, 0, 0.1])
    estimate = np.abs(np.concatenate([estimate, doubled]))
    estimate[:, 1] = np.round(estimate[:, 1])
    keys = {"by time": estimate[:, 0], "by key": estimate[:, 1], "random": rng.random(len(estimate))}
    estimate = estimate[np.argsort(keys[order])]
    ours = score(reference, estimate)
    assert_equal(ours, mir_eval_scores(reference, estimate))
    assert 0.05 < ours.onsets_velocities.f1 < ours.onsets.f1 < 0.95  # else the case would show little


def test_matches_are_near_and_each_note_is_used_once():
    rng = np.random.default_rng(1)
    reference = reference_of(*zip(rng.uniform(0, 5, 500), rng.integers(60, 64, 500), [64] * 500, strict=True))
    estimate = np.column_stack([rng.uniform(0, 5, 700), rng.integers(60, 64, 700), np.full(700, 1.0)])
    matches = match_onsets(reference, estimate, 0.05)
    refs, ests = reference[matches[:, 0]], estimate[matches[:, 1]]
    assert len(matches) > 300
    assert (np.diff(matches[:, 0]) > 0).all()
    assert len(set(matches[:, 1])) == len(matches)
    assert np.abs(refs[:, 0] - ests[:, 0]).max() <= 0.05005
    assert (refs[:, 2] == ests[:, 1]).all()


def test_scoring_300_000_events_takes_little_memory():
    rng = np.random.default_rng(2)
    frames, keys = np.arange(3410) * 2, np.arange(88)
    onsets, pitches = (grid.ravel() for grid in np.meshgrid(frames * FRAME_SECS, keys + LOWEST_NOTE))
    estimate = np.column_stack([onsets, pitches, rng.random(len(onsets))])
    times = rng.uniform(0, onsets.max(), 10_000)
    reference = np.column_stack([times, times + 1, rng.integers(21, 109, 10_000), rng.integers(1, 128, 10_000)])
    tracemalloc.start()
    ours = score(reference, estimate)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(estimate) > 300_000
    assert ours.onsets.recall > 0.99
    assert peak < 150e6


def random_notes(seed: int, n: int) -> np.ndarray:
    """Notes (n, 4) on few keys, close together, some with times in whole hundredths: many ties and ambiguities."""
    rng = np.random.default_rng(seed)
    onsets = np.round(rng.uniform(0, 4, n), rng.integers(2, 6))
    return np.column_stack(
        [onsets, onsets + np.round(rng.uniform(0.02, 1.5, n), 2), rng.integers(60, 63, n), rng.integers(1, 127, n)]
    )


@pytest.mark.parametrize("seed", range(30))
def test_scores_with_offsets_equal_mir_eval(seed):
    reference, estimate = random_notes(seed, 40), random_notes(seed + 100, 35)
    estimate[:25] = reference[:25] + np.random.default_rng(seed).normal(0, 0.03, (25, 4)) * [1, 4, 0, 0]
    estimate[:, 0] = np.maximum(estimate[:, 0], 0)
    estimate[:, 1] = np.maximum(estimate[:, 1], estimate[:, 0] + 0.01)
    sides = [(notes[:, :2], mir_eval.util.midi_to_hz(notes[:, 2])) for notes in (reference, estimate)]
    theirs = mir_eval.transcription.precision_recall_f1_overlap(*sides[0], *sides[1])[:3]
    ours = score_offsets(reference, estimate[:, [0, 2, 3]], estimate[:, 1])
    assert 0 < ours.f1 < 1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("length", "error", "correct"),
    [
        (0.1, 0.05, True),
        (0.1, 0.0502, False),
        (1.0, 0.2, True),
        (1.0, 0.2002, False),
        (1.0, -0.2, True),
        (0.1, -0.06, False),
    ],
)
def test_an_offset_may_be_off_by_50_ms_or_a_fifth_of_the_note(length, error, correct):
    reference = np.array([[1.0, 1.0 + length, 60, 64]])
    assert score_offsets(reference, reference[:, [0, 2, 3]], reference[:, 1] + error).f1 == float(correct)


@pytest.mark.parametrize("seed", range(5))
def test_frame_scores_equal_mir_eval(seed):
    reference, estimate = random_notes(seed, 20), random_notes(seed + 1, 25)
    times = np.arange(300) * FRAME_SECS

    def pitches(notes: np.ndarray) -> list[np.ndarray]:
        sounding = [np.unique(notes[(notes[:, 0] <= t) & (t < notes[:, 1]), 2]) for t in times]
        return [mir_eval.util.midi_to_hz(frame) for frame in sounding]

    theirs = mir_eval.multipitch.metrics(times, pitches(reference), times, pitches(estimate))[:2]
    np.testing.assert_allclose(score_frames(reference, estimate)[:2], theirs, rtol=0, atol=1e-9)


def test_no_offsets_score_nothing():
    notes = random_notes(0, 5)
    assert score_offsets(notes, np.empty((0, 3)), np.empty(0)) == PRF(0, 0, 0)
    assert score_frames(notes, notes[:0]) == PRF(0, 0, 0)
    with pytest.raises(ValueError, match="estimated offsets: expected 5 finite numbers"):
        score_offsets(notes, notes[:, [0, 2, 3]], notes[:2, 1])
