"""Note ends: against a slow reference, rule by rule, and independent of how the map is cut into pieces."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ov_piano.errors import InputError
from ov_piano.settings import EndSettings
from ov_piano.transcription.note_ends import NoteEnds, end_by_next_onset, shifted

SETTINGS = EndSettings(end_threshold=0.5, sounding_threshold=0.5, silent_frames=3, shortest_frames=2)


def ends_of(maps: torch.Tensor, keys: list[int], onsets: list[int], settings=SETTINGS, cuts: tuple = ()) -> list[int]:
    ends = NoteEnds(settings)
    for piece in torch.tensor_split(maps, sorted(cuts), dim=2):
        ends.add(piece)
    return ends(np.array(keys), np.array(onsets)).tolist()


def slow_end(sounding: list[float], ends: list[float], onset: int, settings: EndSettings) -> int:
    """Word by word as in the module's docstring."""
    frames = len(sounding)
    silent = [prob < settings.sounding_threshold for prob in sounding]
    stops = [False] * frames
    for t in range(frames):
        run = silent[t : t + settings.silent_frames]
        if all(run):
            stops[t : t + len(run)] = [True] * len(run)
    smooth = [(a + 2 * b + c) / 4 for a, b, c in zip([0, *ends[:-1]], ends, [*ends[1:], 0], strict=True)]
    for t in range(frames):
        if smooth[t] >= settings.end_threshold and smooth[t] == max(smooth[max(0, t - 1) : t + 2]):
            stops[t] = True
    start = onset + settings.shortest_frames
    return next((t for t in range(start, frames) if stops[t]), max(frames, onset + 1))


def maps_of(*runs: tuple[float, int], key: int = 40, peaks: dict[int, float] | None = None) -> torch.Tensor:
    """(2, 88, t): runs of (sounding probability, frames) on one key, the others silent; end probability by frame."""
    maps = torch.zeros(2, 88, sum(frames for _, frames in runs))
    maps[0, key] = torch.cat([torch.full((frames,), prob) for prob, frames in runs])
    for frame, prob in (peaks or {}).items():
        maps[1, key, frame - 1 : frame + 2] = torch.tensor([prob / 2, prob, prob / 2])
    return maps


@pytest.mark.parametrize(
    ("what", "runs", "peaks", "onset", "end"),
    [
        ("ends with the silence after it", [(0.1, 4), (0.9, 6), (0.2, 9)], {}, 4, 10),
        ("a short dip is no end", [(0.9, 6), (0.2, 2), (0.9, 4), (0.2, 9)], {}, 1, 12),
        ("a dip of silent_frames is one", [(0.9, 6), (0.2, 3), (0.9, 4), (0.2, 9)], {}, 1, 6),
        ("exactly the threshold sounds", [(0.9, 6), (0.5, 3), (0.2, 9)], {}, 1, 9),
        ("never above the threshold: the shortest note", [(0.1, 20)], {}, 5, 7),
        ("silent too early: the shortest note", [(0.9, 6), (0.2, 9)], {}, 5, 7),
        ("sounds to the end of the recording", [(0.1, 3), (0.9, 9)], {}, 4, 12),
        ("a short silence at the end of the recording is one", [(0.9, 9), (0.1, 1)], {}, 2, 9),
        ("struck in the last frame", [(0.9, 9)], {}, 8, 9),
        ("a peak of the end probability ends a sounding note", [(0.9, 20)], {12: 0.8}, 3, 12),
        ("the first of two peaks", [(0.9, 20)], {9: 0.8, 15: 1.0}, 3, 9),
        ("a low peak ends nothing", [(0.9, 20)], {9: 0.6, 15: 1.0}, 3, 15),
        ("a peak before the shortest note is another note's", [(0.9, 20)], {4: 1.0}, 3, 20),
        ("a silence before the peak", [(0.9, 8), (0.1, 12)], {12: 1.0}, 3, 8),
    ],
)
def test_a_note_ends_where_the_rules_say(what, runs, peaks, onset, end):
    assert ends_of(maps_of(*runs, peaks=peaks), [40], [onset]) == [end], what


def test_the_highest_and_lowest_key_have_their_own_ends():
    maps = maps_of((0.9, 5), (0.1, 5), key=0) + maps_of((0.9, 9), (0.1, 1), key=87, peaks={7: 1.0})
    assert ends_of(maps, [0, 87, 50], [0, 0, 0]) == [5, 7, 2]


PROBS = st.lists(st.sampled_from([0.125, 0.375, 0.5, 0.875]), min_size=24, max_size=24)


@given(
    sounding=PROBS,
    ends=PROBS,
    cuts=st.lists(st.integers(0, 12), max_size=4),
    shortest=st.integers(1, 3),
    silent=st.integers(1, 4),
)
def test_ends_equal_a_slow_reference_however_the_maps_are_cut(sounding, ends, cuts, shortest, silent):
    settings = EndSettings(0.5, 0.5, silent, shortest)
    maps = torch.zeros(2, 88, 12)
    maps[:, [10, 11]] = torch.tensor([sounding, ends]).view(2, 2, 12)
    keys, onsets = [10] * 12 + [11] * 12, [*range(12)] * 2
    expected = [slow_end(*maps[:, key].tolist(), onset, settings) for key, onset in zip(keys, onsets, strict=True)]
    assert ends_of(maps, keys, onsets, settings, tuple(cuts)) == expected


def events_of(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["onset_secs", "offset_secs", "note", "velocity", "prob"])


def test_a_note_ends_at_the_next_onset_of_its_key_at_the_latest():
    events = events_of((1.0, 9.0, 60, 1, 1), (2.0, 9.0, 62, 1, 1), (3.0, 5.0, 60, 1, 1), (4.0, 4.5, 60, 1, 1))
    assert end_by_next_onset(events)["offset_secs"].tolist() == [3.0, 9.0, 4.0, 4.5]
    shuffled = events.iloc[[2, 0, 3, 1]]
    assert end_by_next_onset(shuffled)["offset_secs"].tolist() == [4.0, 3.0, 4.5, 9.0]
    assert end_by_next_onset(events[events["onset_secs"] != 3])["offset_secs"].tolist() == [4.0, 9.0, 4.5]
    assert len(end_by_next_onset(events[:0])) == 0


def test_shifted_notes_keep_their_length_and_stay_in_the_recording():
    moved = shifted(events_of((0.02, 0.5, 60, 1, 1), (0.0, 0.03, 62, 1, 1)), -0.05)
    assert moved["onset_secs"].tolist() == [0, 0]
    assert moved["offset_secs"].tolist() == pytest.approx([0.45, 0.001])
    assert shifted(events_of((1.0, 1.5, 60, 1, 1)), 0.25)[["onset_secs", "offset_secs"]].values.tolist() == [
        [1.25, 1.75]
    ]


@pytest.mark.parametrize("wrong", [{"end_threshold": 0}, {"sounding_threshold": 1}, {"shortest_frames": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match="expected"):
        EndSettings(**wrong)
