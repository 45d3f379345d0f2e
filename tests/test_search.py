"""The search against scoring each pair of threshold and shift separately."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_piano.evaluation.analysis import analyse
from ov_piano.evaluation.scoring import Scores, score, score_offsets
from ov_piano.evaluation.search import best_row, best_timed_row, score_grid, score_recordings, search
from ov_piano.settings import OperatingPoint
from ov_piano.transcription.note_ends import end_by_next_onset

COLUMNS = ["onset_secs", "note", "velocity", "prob"]


def score_from_scratch(reference: np.ndarray, events: pd.DataFrame, threshold: float, shift: float) -> Scores:
    """The plain way: filter, shift, score."""
    kept = events[events["prob"] >= threshold]
    return score(reference, np.column_stack([kept["onset_secs"] + shift, kept["note"], kept["velocity"]]))


def random_recording(seed: int, size: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Dense notes on four keys and a noisy detection of them."""
    rng = np.random.default_rng(seed)
    onsets, notes, velocities = (
        rng.uniform(0, 0.05 * size, size),
        rng.integers(60, 64, size),
        rng.integers(1, 128, size),
    )
    events = pd.DataFrame(
        {
            "onset_secs": np.round((onsets + rng.normal(0.01, 0.02, size)).clip(0) / 0.024) * 0.024,
            "note": notes,
            "velocity": (velocities + rng.normal(0, 15, size)).clip(0, 127),
            "prob": rng.uniform(0.5, 1, size).round(2),
        }
    )
    return np.column_stack([onsets, onsets + 1, notes, velocities]), events.sort_values(["note", "onset_secs"])


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 80),
    st.lists(st.floats(0, 1), min_size=1, max_size=4),
    st.lists(st.floats(-0.2, 0.2), min_size=1, max_size=3),
)
def test_search_equals_scoring_each_point_separately(seed, size, thresholds, shifts):
    reference, events = random_recording(seed, size)
    grid = score_grid(reference, events, thresholds, shifts)
    for t, threshold in enumerate(thresholds):
        for s, shift in enumerate(shifts):
            expected = np.concatenate(score_from_scratch(reference, events, threshold, shift))
            assert grid[t, s] == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.lists(st.floats(0, 1), min_size=1, max_size=3))
def test_search_with_note_ends_equals_scoring_each_point_separately(seed, size, thresholds):
    reference, events = random_recording(seed, size)
    lengths = np.random.default_rng(seed).uniform(0.02, 1.5, size)
    events = events.assign(offset_secs=events["onset_secs"] + lengths)
    shifts = [-0.03, 0.02]
    grid = score_grid(reference, events, thresholds, shifts)
    for t, threshold in enumerate(thresholds):
        kept = end_by_next_onset(events[events["prob"] >= threshold])  # an onset below the threshold ends no note
        for s, shift in enumerate(shifts):
            notes = np.column_stack([kept["onset_secs"] + shift, kept["note"], kept["velocity"]])
            expected = score_offsets(reference, notes, kept["offset_secs"] + shift)
            assert grid[t, s, 6:] == pytest.approx(expected, abs=1e-12)
    without = score_grid(reference, events.drop(columns="offset_secs"), thresholds, shifts)
    assert np.array_equal(grid[..., :6], without)


def test_recordings_without_pairs_have_no_offset():
    silent = pd.DataFrame({name: [] for name in ("onset_secs", "note", "velocity", "prob")}, dtype=float)
    heard = pd.DataFrame({"onset_secs": [1.03], "note": [60.0], "velocity": [64.0], "prob": [0.9]})
    reference = np.array([[1.0, 1.5, 60, 64]])
    table = analyse(["silent", "heard"], [reference, reference], [silent, heard], OperatingPoint(0.5, 0.0))
    assert np.isnan(table.loc["silent", "offset_secs"])
    assert table["offset_secs"].mean() == pytest.approx(0.03)  # SEARCH_TIE uses this mean


def test_search_equals_a_hand_worked_table():
    """Two notes, detected 40 ms early; the second with probability 0.6."""
    reference = np.array([(1, 2, 60, 50), (2, 3, 62, 100)], dtype=float)
    events = pd.DataFrame([(0.96, 60, 50, 0.9), (1.96, 62, 100, 0.6), (3.0, 64, 90, 0.7)], columns=COLUMNS)
    found = search([reference], [events], [0.5, 0.8], [0.04, -0.04])
    assert found[["threshold", "shift"]].to_numpy().tolist() == [[0.5, 0.04], [0.5, -0.04], [0.8, 0.04], [0.8, -0.04]]
    assert found["P"].tolist() == pytest.approx([2 / 3, 0, 1, 0])
    assert found["R"].tolist() == pytest.approx([1, 0, 0.5, 0])
    assert found["F1"].tolist() == pytest.approx([0.8, 0, 2 / 3, 0])
    assert found["F1_velocities"].tolist() == pytest.approx([0.8, 0, 2 / 3, 0])


def test_means_are_over_recordings_not_over_notes():
    one = np.array([(1, 2, 60, 50)], dtype=float)
    many = np.array([(second, second + 1, 60, 50) for second in range(1, 10)], dtype=float)
    hit = pd.DataFrame([(1.0, 60, 50.0, 0.9)], columns=COLUMNS)
    found = search([one, many], [hit, hit], [0.5], [0.0])
    assert found.loc[0, "R"] == pytest.approx((1 + 1 / 9) / 2)
    each = score_recordings(["a", "b"], [one, many], [hit, hit], OperatingPoint(0.5, 0.0))
    assert each["R"].to_dict() == pytest.approx({"a": 1, "b": 1 / 9})
    assert each.mean().to_dict() == pytest.approx(found.loc[0, each.columns].to_dict())


def test_the_first_of_equally_good_points_is_chosen():
    found = pd.DataFrame(
        {"threshold": [0.8, 0.6, 0.7], "shift": 0.0, "F1": [0.5, 0.9, 0.9], "F1_velocities": [3, 2, 1]}
    )
    assert best_row(found)["threshold"] == 0.6
    assert best_row(found, by="F1_velocities")["threshold"] == 0.8


@pytest.mark.parametrize(
    ("late_secs", "tie", "shift"),
    [
        (0.012, 0.001, -0.01),
        (0.012, 0.0, 0.0),  # the best F1 and nothing else
        (0.031, 0.001, -0.01),  # -0.03 would be nearer, but costs too much F1
        (0.031, 0.1, -0.03),
        (-0.02, 0.001, 0.0),  # 0.01 is as good as the best only at the other threshold
    ],
)
def test_tie_break_chooses_the_most_accurate_shift(late_secs, tie, shift):
    rows = [
        (0.7, -0.03, 0.94),
        (0.7, -0.01, 0.9491),
        (0.7, 0.0, 0.9492),
        (0.7, 0.01, 0.93),
        (0.8, 0.01, 0.9491),
        (0.8, -0.03, 0.9491),
    ]
    best = best_timed_row(pd.DataFrame(rows, columns=["threshold", "shift", "F1"]), late_secs, tie)
    assert best[["threshold", "shift"]].tolist() == [0.7, shift]


def test_thresholds_select_the_same_events_as_the_decoder():
    """A probability equal to the threshold is an event; float64, so the float32 nearest to 0.7 (below it) is not."""
    events = pd.DataFrame([(1.0, 60, 50.0, 0.7), (2.0, 60, 50.0, float(np.float32(0.7)))], columns=COLUMNS)
    reference = np.array([(1, 2, 60, 50), (2, 3, 60, 50)], dtype=float)
    assert float(np.float32(0.7)) < 0.7
    assert score_grid(reference, events, [0.7], [0.0])[0, 0, :2] == pytest.approx([1, 0.5])


def test_no_events_score_zero():
    reference = np.array([(1, 2, 60, 50)], dtype=float)
    assert score_grid(reference, pd.DataFrame(columns=COLUMNS), [0.5], [0.0, -1.0]).tolist() == [[[0] * 6] * 2]
