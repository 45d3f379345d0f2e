"""Streaming log-mel: equal to that of the whole recording, bit-identical for any block sizes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ov_piano.data.audio import LogMel, logmel_frames, resample
from ov_piano.data.audio_stream import Queue, StreamLogMel, StreamResampler, mono_block
from ov_piano.errors import InputError

RATES = (8000, 16_000, 22_050, 44_100, 48_000, 96_000)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def whole_logmel(wave: np.ndarray, rate: int) -> torch.Tensor:
    """The log-mel before clamping."""
    blocks = resample([torch.from_numpy(wave)], len(wave), rate)
    return torch.cat(list(LogMel().in_blocks(blocks)), dim=1)


def streamed_logmel(wave: np.ndarray, rate: int, cuts: list[int], group: int) -> torch.Tensor:
    """The streamed log-mel of the wave, cut at the given positions."""
    stream, columns = StreamLogMel(LogMel(), rate, group), []
    for block in np.split(wave, cuts):
        stream.append(block)
        while (found := stream.next_columns()) is not None:
            assert found.shape[1] == group
            columns.append(found)
    return torch.cat([*columns, stream.finish()], dim=1)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("group", [1, 4])
def test_stream_has_the_logmel_of_the_whole_recording(rate, group):
    wave = noise(rate + 1234)
    found, expected = streamed_logmel(wave, rate, [100, 5000, 5001], group), whole_logmel(wave, rate)
    assert found.shape == expected.shape == (250, logmel_frames(len(wave), rate))
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)


@given(
    rate=st.sampled_from(RATES),
    group=st.integers(1, 3),
    samples=st.integers(0, 12_000),
    cuts=st.lists(st.integers(0, 12_000), max_size=40),
)
def test_logmel_does_not_depend_on_block_sizes(rate, group, samples, cuts):
    wave = noise(samples)
    expected = streamed_logmel(wave, rate, [], group)
    assert torch.equal(streamed_logmel(wave, rate, sorted(cuts), group), expected)
    if 16_000 * samples > 1025 * rate:
        assert expected.shape[1] == logmel_frames(samples, rate)


def test_logmel_of_single_samples_equals_that_of_blocks():
    wave = noise(8000)
    one = streamed_logmel(wave, 44_100, list(range(1, 8000)), 1)
    assert torch.equal(one, streamed_logmel(wave, 44_100, [], 1))


@pytest.mark.parametrize("rate", RATES)
def test_columns_are_returned_as_soon_as_possible(rate):
    stream, wave = StreamLogMel(LogMel(), rate, 2), noise(rate)
    needed = 384 * 5 + 1024  # samples at 16 kHz up to the end of the window of column 5
    late = int(needed * rate / 16_000 + 10 * max(1, rate / 16_000))  # and those that the resampling filter looks at
    stream.append(wave[:late])
    while stream.next_columns() is not None:
        pass
    assert stream.columns == 6


def test_resampler_equals_torchaudio():
    wave = noise(9000)
    expected = torch.cat(list(resample([torch.from_numpy(wave)], len(wave), 44_100)))
    resampler = StreamResampler(44_100)
    resampler.append(wave)
    length = resampler.finish()
    assert length == len(expected)
    np.testing.assert_allclose(resampler.take(length), expected, atol=1e-6)


def test_rates_may_be_floating_point_numbers():
    wave = noise(44_100)
    assert torch.equal(streamed_logmel(wave, 44_100.0, [5000], 4), streamed_logmel(wave, 44_100, [5000], 4))


def test_queue_forgets_what_was_read():
    queue = Queue(lead=2)
    queue.append(np.arange(5, dtype=np.float32))
    assert queue.read(-1).tolist() == [0, 0, 1, 2, 3, 4]
    queue.append(np.array([9], np.float32))
    assert queue.read(3).tolist() == [3, 4, 9]
    assert (queue.end, len(queue.read(6))) == (6, 0)


def test_mono_is_the_mean_over_channels():
    assert mono_block(np.array([[1.0, 0.0], [0.5, 0.25]])).tolist() == [0.5, 0.375]
    assert mono_block(torch.ones(1, 2)).tolist() == [1.0]
    assert mono_block([0.5]).dtype == np.float32
    assert len(mono_block(np.zeros(0))) == 0


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(5, np.int16), "floating-point numbers, found int16"),
        (np.zeros((2, 128)), r"found \(2, 128\)"),
        (np.zeros((2, 2, 2)), "expected shape"),
        (np.array([0, np.nan]), "NaN"),
        (np.array([0, np.inf]), "NaN, infinite"),
        (np.array([0, 1e12]), "far beyond full scale"),
    ],
)
def test_unusable_blocks_are_refused(samples, message):
    with pytest.raises(InputError, match=message):
        mono_block(samples)


@pytest.mark.parametrize(
    ("rate", "message"), [(100, "sampling rate 100 Hz"), (44_101, "no simple ratio"), (44_100.5, "a whole number")]
)
def test_unusable_rates_are_refused(rate, message):
    with pytest.raises(InputError, match=message):
        StreamResampler(rate)
