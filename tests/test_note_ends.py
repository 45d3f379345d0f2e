"""Note ends: against a slow reference, and independent of how the map is cut into pieces."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ov_piano.constants import FRAME_SECS
from ov_piano.settings import Chunking, DecoderSettings, Tolerances
from ov_piano.transcription.decoder import Decoder
from ov_piano.transcription.events import detect_events
from ov_piano.transcription.note_ends import (
    CENTRE_SHARE,
    CENTRE_WEIGHT,
    FADING,
    LONGEST_FRAMES,
    NOT_STRUCK,
    SHARE,
    STRIKE_FRAMES,
    NoteEnds,
    end_by_next_onset,
    likely_ends,
    shifted,
)


def ends_of(
    ends: torch.Tensor, keys: list[int], onsets: list[int], cuts: tuple = (), lag: int = 0, strikes: bool = False
) -> list[int]:
    """Ends of notes that are asked for ``lag`` frames after the map; with ``strikes``, onsets end the notes before."""
    found = NoteEnds()
    keys, onsets = np.array(keys), np.array(onsets)
    asked = np.zeros(len(keys), bool)
    order, begin = [], 0
    for piece in torch.tensor_split(ends, sorted(cuts), dim=1):
        found.add(piece)
        begin += piece.shape[1]
        until = begin - lag if begin < ends.shape[1] else begin
        new = (onsets < until) & ~asked
        if strikes:
            found.strike(keys[new], onsets[new])
        found.ask(keys[new], onsets[new], until)
        order += np.flatnonzero(new).tolist()
        asked |= new
    return [end for _, end in sorted(zip(order, found.finish().tolist(), strict=True))]


def slow_end(ends: list[float], onset: int) -> int:
    """The candidate with the largest sum of the probabilities of all accepted true ends."""
    frames = len(ends)
    probability, sounds = {}, 1.0
    for frame in range(onset + 1, min(onset + LONGEST_FRAMES, frames)):
        sounds_on = sounds * (1 - ends[frame]) * (1 - FADING)
        probability[frame - onset] = sounds - sounds_on
        sounds = sounds_on
    probability[min(LONGEST_FRAMES, frames - onset)] = sounds

    def weight(candidate: int, true: int) -> float:
        tolerance = max(Tolerances.offset_secs, Tolerances.offset_ratio * true * FRAME_SECS)
        share = abs(candidate - true) * FRAME_SECS / tolerance - 1e-9
        return (share <= SHARE) + CENTRE_WEIGHT * (share <= CENTRE_SHARE)

    chances = np.array(
        [
            sum(p * weight(candidate, true) for true, p in probability.items())
            for candidate in range(1, min(frames, LONGEST_FRAMES) + 1)
        ]
    )
    best = int(np.argmax(chances >= chances.max() - 1e-9)) + 1
    return min(onset + best, frames)


def one_key(ends: list[float], key: int = 40) -> torch.Tensor:
    ends_of_all = torch.full((88, len(ends)), 0.01)
    ends_of_all[key] = torch.tensor(ends)
    return ends_of_all


def spikes(frames: int, **probabilities: float) -> list[float]:
    return [probabilities.get(f"at{frame}", 0.0) for frame in range(frames)]


@pytest.mark.parametrize(
    ("what", "ends", "onset", "end"),
    [
        ("a likely end", spikes(60, at20=0.9), 5, 20),
        ("an end before the onset is another note's", spikes(60, at4=1.0, at30=1.0), 5, 30),
        ("the better of two", spikes(60, at9=0.3, at40=0.9), 3, 40),
        ("the first takes what the second would need", spikes(60, at9=0.6, at40=0.9), 3, 9),
        ("two weak ones close together", spikes(60, at10=0.3, at12=0.4, at40=0.5), 5, 12),
        ("sounds to the end of the recording", spikes(30), 4, 30),
        ("struck in the last frame", spikes(9), 8, 9),
    ],
)
def test_a_note_ends_where_most_ends_are_accepted(what, ends, onset, end):
    (found,) = ends_of(one_key(ends), [40], [onset])
    assert found == slow_end(ends, onset), what
    assert abs(found - end) <= max(1, 0.1 * (end - onset)), what


def test_the_highest_and_lowest_key_have_their_own_ends():
    ends = torch.zeros(88, 20)
    ends[0, 5] = ends[87, 7] = ends[50, 9] = 1
    assert ends_of(ends, [0, 87, 50], [0, 0, 0]) == [5, 7, 9]


PROBABILITIES = st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.03, 0.125, 0.5]), min_size=4, max_size=90)


@given(ends=PROBABILITIES, cuts=st.lists(st.integers(0, 60), max_size=4))
def test_ends_equal_a_slow_reference_however_the_map_is_cut(ends, cuts):
    onsets = list(range(len(ends)))
    found = ends_of(one_key(ends), [40] * len(ends), onsets, tuple(cuts))
    expected = [slow_end(ends, onset) for onset in onsets]
    differing = [onset for onset in onsets if found[onset] != expected[onset]]
    assert differing == []


def test_long_notes_and_long_recordings():
    generator = torch.Generator().manual_seed(0)
    ends = torch.where(torch.rand(88, 3000, generator=generator) < 0.003, 0.7, 1e-4)
    keys, onsets = np.arange(88).repeat(3), np.tile([10, 700, 2500], 88)
    padded, strikes = np.pad(ends.numpy(), ((0, 0), (0, 1)), constant_values=1), np.full(len(keys), NOT_STRUCK)
    whole = likely_ends(padded, keys, onsets, strikes).tolist()
    assert whole == ends_of(ends, keys.tolist(), onsets.tolist(), (800, 1500, 1501, 2900))
    assert max(np.array(whole) - onsets) > 400
    some = slice(0, 30, 7)
    expected = [slow_end(ends[key].tolist(), onset) for key, onset in zip(keys[some], onsets[some], strict=True)]
    assert whole[some] == expected
    (longest,) = ends_of(torch.zeros(88, 3000), [3], [100])
    assert longest == slow_end([0.0] * 3000, 100)
    assert 3 < (longest - 100) * FRAME_SECS < 6


def test_a_note_without_an_end_fades_but_a_certain_end_counts_even_late():
    ends = torch.zeros(88, 1000)
    ends[40, 300] = 1  # 7.2 s
    (found,) = ends_of(ends, [40], [0])
    assert abs(found - 300) <= 300 * Tolerances.offset_ratio
    (missed,) = ends_of(0.05 * ends, [40], [0])
    assert missed * FRAME_SECS < 6


def test_open_notes_and_a_few_frames_are_all_that_is_kept():
    ends = NoteEnds()
    for _ in range(20):
        ends.add(torch.full((88, 1000), 0.01))
        heard = ends._begin + ends._map.shape[1]
        ends.ask(np.array([5]), np.array([heard - 1]), heard)
    assert ends._map.shape[1] < 4000


@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 2500), max_size=4), lag=st.integers(0, 9))
def test_a_strike_ends_the_note_before_however_the_map_is_cut(seed, cuts, lag):
    draws = np.random.default_rng(seed)
    ends = torch.from_numpy(draws.choice([1e-4, 0.02, 0.6], (88, 2500), p=[0.98, 0.019, 0.001]))
    onsets = np.unique(draws.integers(0, 2500, 60))
    keys = draws.integers(40, 43, len(onsets))
    found = ends_of(ends, keys.tolist(), onsets.tolist(), tuple(cuts), lag, strikes=True)
    padded = np.pad(ends.numpy(), ((0, 0), (0, 1)), constant_values=1)
    later = [onsets[(keys == key) & (onsets > onset)] for key, onset in zip(keys, onsets, strict=True)]
    strikes = np.array([min([*(new - onset), NOT_STRUCK]) for new, onset in zip(later, onsets, strict=True)])
    strikes[strikes > STRIKE_FRAMES] = NOT_STRUCK
    assert 0 < (strikes == NOT_STRUCK).sum() < len(strikes)
    assert found == likely_ends(padded, keys, onsets, strikes).tolist()
    alone = likely_ends(padded, keys, onsets, np.full(len(keys), NOT_STRUCK))
    assert (np.array(found)[strikes == NOT_STRUCK] == alone[strikes == NOT_STRUCK]).all()


def test_a_note_that_may_sound_long_lasts_until_its_key_is_struck_again():
    """Where no frame stands out, the most likely frame is early; that the key is struck again tells more."""
    ends = one_key([0.01] * 300)
    (alone,) = ends_of(ends, [40], [0])
    lasting, _ = ends_of(ends, [40, 40], [0, 50], strikes=True)
    assert alone > 50
    assert 50 * (1 - Tolerances.offset_ratio) <= lasting <= 50
    early = one_key([0.01] * 10 + [0.9] + [0.01] * 289)
    assert ends_of(early, [40, 40], [0, 50], strikes=True)[0] in (9, 10, 11)


def detect(maps: torch.Tensor, threshold: float, chunking: Chunking) -> pd.DataFrame:
    """Events from onset probabilities, velocities and ends (3, 88, t), through a network that returns its input."""
    logits = maps.clamp(1e-6, 1 - 1e-6).logit().flatten(0, 1)
    return detect_events(
        lambda chunk: tuple(chunk[:, 88 * n : 88 * (n + 1), 1:] for n in range(3)),
        Decoder(DecoderSettings(gauss_std=0.01)),
        lambda begin, end: logits[:, begin:end],
        maps.shape[2],
        threshold=threshold,
        chunking=chunking,
    )


@pytest.mark.parametrize("chunking", [Chunking(400, 0), Chunking(60, 20), Chunking(14, 12)])
def test_ends_do_not_depend_on_the_threshold_or_the_chunks(chunking):
    draws = torch.Generator().manual_seed(0)
    maps = torch.full((3, 88, 400), 0.01)
    maps[0][torch.rand(88, 400, generator=draws) < 0.02] = 0.5
    maps[0] += 0.45 * torch.rand(88, 400, generator=draws) * (maps[0] > 0.1)
    low, high = (detect(maps, threshold, chunking) for threshold in (0.3, 0.775))
    assert 100 < len(high) < len(low)
    pd.testing.assert_frame_equal(low[low["prob"] >= 0.775].reset_index(drop=True), high)
    pd.testing.assert_frame_equal(detect(maps, 0.775, Chunking(401, 0)), high)


@pytest.mark.parametrize(("prob", "ends"), [(0.5, False), (0.7, True), (0.9, True)])
def test_a_probable_onset_ends_the_note_before_whether_it_is_an_event_or_not(prob, ends):
    maps = torch.full((3, 88, 300), 0.002)
    maps[0, 40, 10], maps[0, 40, 50] = 0.95, prob
    first = detect(maps, 0.775, Chunking(400, 0)).iloc[0]
    assert first["onset_secs"] == pytest.approx(10 * FRAME_SECS)
    assert (first["offset_secs"] <= 50 * FRAME_SECS) == ends


def test_no_note_ends_after_the_recording():
    maps = torch.full((3, 88, 30), 1e-4)
    maps[0, 40, 20] = 0.95
    assert detect(maps, 0.775, Chunking(400, 0))["offset_secs"].tolist() == [30 * FRAME_SECS]


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
