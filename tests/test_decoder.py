import time

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ov_piano.settings import DecoderSettings
from ov_piano.transcription.decoder import COLUMNS, Decoder
from tests.golden_weights import GOLDEN


def maps(*rows):
    return torch.tensor(rows, dtype=torch.float32)[None]


def slow_decode(probs, velocities, threshold, std=1.0, ksize=11):
    """The decoder's definition, frame by frame in float64."""
    half = ksize // 2
    weights = [np.exp(-0.5 * (i / std) ** 2) for i in range(-half, half + 1)]
    events = []
    for b, batch in enumerate(probs):
        for key, row in enumerate(batch):
            last = len(row) - 1
            padded = np.concatenate([np.zeros(half), row, np.zeros(half)])
            blurred = [np.dot(weights, padded[t : t + ksize]) / sum(weights) for t in range(len(row))]
            for t, prob in enumerate(blurred):
                if prob >= threshold and prob == max(blurred[max(0, t - 1) : t + 2]):
                    before = t - 1 if t > 0 else min(1, last)
                    after = t + 1 if t < last else max(last - 1, 0)
                    velocity = np.mean([velocities[b][key][i] for i in (before, t, after)])
                    events.append((b, key, t, prob, velocity))
    return np.array(events).reshape(-1, 5)


def test_events_equal_the_golden_ones():
    golden = np.load(GOLDEN / "decode.npz")
    events = Decoder()(torch.from_numpy(golden["probs"]), torch.from_numpy(golden["velmap"]), 0.3)
    np.testing.assert_allclose(events.to_numpy(), golden["events"], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("std", "ksize"), [(1, 11), (2.5, 7), (0.3, 1)])
def test_events_equal_an_obvious_implementation(std, ksize):
    draw = np.random.default_rng(0)
    probs, velocities = draw.uniform(size=(2, 3, 4, 50)).astype(np.float32)
    events = Decoder(DecoderSettings(std, ksize))(torch.from_numpy(probs), torch.from_numpy(velocities), 0.4)
    expected = slow_decode(probs, velocities, 0.4, std, ksize)
    assert len(expected) > 50
    np.testing.assert_array_equal(events.to_numpy()[:, :3], expected[:, :3])
    np.testing.assert_allclose(events.to_numpy()[:, 3:], expected[:, 3:], atol=1e-6)


def test_blur_pads_with_zeros_at_both_ends():
    row = [1.0] + [0.0] * 20 + [1.0]
    events = Decoder()(maps(row), maps(row), 0.3)
    assert events.t_idx.tolist() == [0, 21]
    centre = 1 / sum(np.exp(-0.5 * np.arange(-5, 6) ** 2.0))  # of the kernel; nothing is added beyond the end
    np.testing.assert_allclose(events.prob, [centre, centre], rtol=1e-6)
    np.testing.assert_allclose(events.vel, [1 / 3, 1 / 3], rtol=1e-6)  # frames 1, 0, 1 and 20, 21, 20


def test_every_frame_of_a_tie_is_an_event():
    row = [0.0] * 10 + [0.7, 0.7] + [0.0] * 10
    events = Decoder()(maps(row), maps(row), 0.3)
    assert events.t_idx.tolist() == [10, 11]
    assert events.prob.nunique() == 1


@given(
    width=st.integers(2, 30),
    before=st.integers(5, 30),
    after=st.integers(5, 30),
    level=st.sampled_from([0.125, 0.7, 1]),
)
def test_plateaus_give_the_same_events_reversed_in_time(width, before, after, level):
    row = [0.0] * before + [level] * width + [0.0] * after
    frames = Decoder()(maps(row), maps(row), 0.05).t_idx.to_numpy()
    mirrored = Decoder()(maps(row[::-1]), maps(row[::-1]), 0.05).t_idx.to_numpy()
    assert len(frames) > 0
    np.testing.assert_array_equal(frames, len(row) - 1 - mirrored[::-1])


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_maps_shorter_than_the_blur_are_decoded(frames):
    velocities = torch.arange(1.0, frames + 1) / 4
    row = torch.tensor([0.1, 0.9, 0.1])[:frames]
    events = Decoder(DecoderSettings(gauss_ksize=1))(row[None, None], velocities[None, None], 0.05)
    expected = slow_decode(row[None, None].numpy(), velocities[None, None].numpy(), 0.05, ksize=1)
    np.testing.assert_allclose(events.to_numpy(), expected, atol=1e-6)


def test_a_table_without_events_has_the_same_columns_and_types():
    empty = Decoder()(torch.zeros(2, 88, 30), torch.zeros(2, 88, 30), 0.5)
    some = Decoder()(torch.ones(2, 88, 30), torch.zeros(2, 88, 30), 0.5)
    assert len(empty) == 0
    assert tuple(empty.columns) == COLUMNS == ("batch_idx", "key", "t_idx", "prob", "vel")
    assert [str(kind) for kind in empty.dtypes] == ["int64", "int64", "int64", "float64", "float64"]
    assert (empty.dtypes == some.dtypes).all()


@given(seed=st.integers(0, 10**6), threshold=st.floats(0, 1))
def test_filtering_equals_decoding_at_each_threshold(seed, threshold):
    draw = torch.Generator().manual_seed(seed)
    probs, velocities = torch.rand(2, 1, 5, 40, generator=draw).round(decimals=1)
    at_lowest = Decoder()(probs, velocities, 0.0)
    on_an_event = float(at_lowest.prob.iloc[seed % len(at_lowest)])
    for t in (threshold, on_an_event, np.nextafter(on_an_event, 1)):
        filtered = at_lowest[at_lowest.prob >= t].reset_index(drop=True)
        pd.testing.assert_frame_equal(filtered, Decoder()(probs, velocities, t), check_exact=True)


def test_batch_equals_item_by_item():
    probs, velocities = torch.rand(2, 3, 88, 100, generator=torch.Generator().manual_seed(1))
    together = Decoder()(probs, velocities, 0.4)
    one_by_one = [Decoder()(probs[i : i + 1], velocities[i : i + 1], 0.4).assign(batch_idx=i) for i in range(3)]
    pd.testing.assert_frame_equal(together, pd.concat(one_by_one, ignore_index=True))


def test_dense_events_over_twenty_minutes_are_decoded():
    draw = torch.Generator().manual_seed(2)
    probs, velocities = torch.rand(2, 1, 88, 50_000, generator=draw)
    begin = time.perf_counter()
    events = Decoder()(probs, velocities, 0.53)
    assert time.perf_counter() - begin < 5  # measured: 0.06 s
    assert len(events) > 300_000


@pytest.mark.parametrize(
    ("shape", "other"), [((88, 30), (88, 30)), ((1, 88, 30), (1, 88, 29)), ((1, 88, 0), (1, 88, 0))]
)
def test_maps_of_unusable_shapes_are_refused(shape, other):
    with pytest.raises(ValueError, match="maps to decode"):
        Decoder()(torch.zeros(shape), torch.zeros(other), 0.5)


@pytest.mark.parametrize("parameters", [(0, 11), (-1, 11), (1, 10), (1, 0), (1, -3)])
def test_parameters_out_of_range_are_refused(parameters):
    with pytest.raises(ValueError, match="gauss_"):
        DecoderSettings(*parameters)
