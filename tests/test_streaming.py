"""Live transcription: independent of block sizes, and in agreement with the offline result."""

import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from ov_piano.constants import FRAME_SECS, LOWEST_NOTE
from ov_piano.errors import InputError
from ov_piano.model import incremental
from ov_piano.transcription.streaming import (
    DEFAULT,
    FAST,
    LATE_FRAMES,
    StreamEvent,
    StreamingTranscriber,
    StreamSettings,
)
from ov_piano.transcription.transcriber import Transcriber

SAMPLE = Path(__file__).parents[1] / "assets" / "sample" / "2008" / "bach_invention_bwv772.wav"
COARSE = StreamSettings(past_frames=8, hop_frames=12, look_ahead_frames=4)  # quick to compute


@pytest.fixture(scope="module")
def music() -> tuple[np.ndarray, int]:
    """Four seconds of the sample and their rate."""
    wave, rate = sf.read(SAMPLE, dtype="float32")
    return wave[: 4 * rate], rate


def stream_in_blocks(stream: StreamingTranscriber, wave: np.ndarray, rate: int, cuts: list[int]) -> list[StreamEvent]:
    """All events of the wave cut at the given positions."""
    return [event for block in np.split(wave, cuts) for event in stream.feed(block, rate)] + stream.flush()


@settings(max_examples=5)
@given(cuts=st.lists(st.integers(0, 3 * 16_000), max_size=20), channels=st.integers(1, 2))
def test_events_do_not_depend_on_block_sizes(transcriber, music, cuts, channels):
    wave, rate = music
    wave = np.repeat(wave[: 3 * rate, None], channels, axis=1)
    stream = StreamingTranscriber(transcriber, settings=COARSE)
    whole = stream_in_blocks(stream, wave, rate, [])
    assert len(whole) > 10
    stream.reset()
    assert stream_in_blocks(stream, wave, rate, sorted(cuts)) == whole


def test_events_of_single_samples_equal_those_of_blocks(transcriber, music):
    wave, rate = music
    wave = wave[:rate]
    stream = StreamingTranscriber(transcriber, settings=COARSE)
    one = stream_in_blocks(stream, wave, rate, list(range(1, len(wave))))
    stream.reset()
    assert one == stream_in_blocks(stream, wave, rate, []) != []


@pytest.mark.parametrize(("prior_frames", "tolerances"), [(0, (0.02, 8)), (incremental.PRIOR_FRAMES, (0.06, 16))])
def test_long_look_ahead_gives_the_offline_events(transcriber, music, prior_frames, tolerances, monkeypatch):
    """In this short recording, the prior mean of the gates matters, so that an onset may move by a frame."""
    monkeypatch.setattr(incremental, "PRIOR_FRAMES", prior_frames)
    monkeypatch.setattr(transcriber, "threshold", 0.7)  # no note is as uncertain as this
    wave, rate = music
    offline = transcriber(wave, rate)
    stream = StreamingTranscriber(transcriber, settings=StreamSettings(200, 50, 100))
    events = stream_in_blocks(stream, wave, rate, [])
    assert [event.note for event in events] == offline["note"].tolist()
    moved = np.abs([event.onset_secs for event in events] - offline["onset_secs"]) / FRAME_SECS
    assert moved.max() < 1.01
    assert (moved > 0.01).sum() <= (prior_frames > 0)
    np.testing.assert_allclose([event.prob for event in events], offline["prob"], atol=tolerances[0])
    np.testing.assert_allclose([event.velocity for event in events], offline["velocity"], atol=tolerances[1])


@pytest.mark.parametrize("setting", [DEFAULT, FAST])
def test_events_come_once_within_the_latency_and_most_without_waiting(transcriber, music, setting):
    wave, rate = music
    stream, events, waits = StreamingTranscriber(transcriber, settings=setting), [], []
    for number, block in enumerate(np.split(wave[: 2 * rate], range(160, 2 * rate, 160)), start=1):
        found = stream.feed(block, rate)
        heard = number * 0.01
        assert found == sorted(found)
        for event in found:
            waits.append(heard - (event.onset_secs - transcriber.shift))
            assert waits[-1] <= setting.longest_latency_secs + LATE_FRAMES * FRAME_SECS + 0.0101
        events += found
        assert stream.seconds_done >= heard - setting.longest_latency_secs - 0.0101
    assert len(waits) > 5
    assert np.mean(np.array(waits) <= setting.latency_secs + 0.0101) > 0.8
    onsets = np.array([(event.onset_secs, event.note) for event in events + stream.flush()])
    for note in np.unique(onsets[:, 1]):
        assert (np.diff(onsets[onsets[:, 1] == note, 0]) > 1.5 * FRAME_SECS).all()


def test_uncertain_events_wait(transcriber, music):
    """With a margin that no event reaches, all events wait, as with a longer look-ahead."""
    wave, rate = music[0][: 2 * music[1]], music[1]
    certain, waiting, patient = (
        stream_in_blocks(StreamingTranscriber(transcriber, settings=settings), wave, rate, [])
        for settings in (
            StreamSettings(8, 2, 3, waiting_frames=6),
            StreamSettings(8, 2, 3, waiting_frames=6, margin=100.0),
            StreamSettings(2, 2, 9, waiting_frames=0),
        )
    )
    assert waiting == patient != certain


def test_flush_ends_and_reset_starts_again(transcriber, music):
    wave, rate = music
    stream = StreamingTranscriber(transcriber, settings=COARSE)
    assert stream.flush() == []
    events = stream_in_blocks(stream, wave, rate, [rate])
    assert stream.frames_done == 1 + 4 * rate // 384
    assert stream.seconds_done == pytest.approx(4, abs=2 * FRAME_SECS)
    assert stream.flush() == []
    with pytest.raises(InputError, match="reset"):
        stream.feed(wave, rate)
    stream.reset()
    assert (stream.frames_done, stream.take_logmel().shape) == (0, (transcriber.mels, 0))
    assert stream_in_blocks(stream, wave, rate, []) == events


@pytest.mark.parametrize("samples", [0, 1, 1024, 1025, 1409])
def test_short_streams_give_no_events(transcriber, music, samples):
    wave, rate = music
    stream = StreamingTranscriber(transcriber, settings=DEFAULT)
    assert stream_in_blocks(stream, wave[:samples], rate, []) == []
    assert stream.frames_done == (1 + samples // 384 if samples > 1024 else 0)


def test_streams_share_a_network_in_threads(transcriber, music):
    wave, rate = music[0][: 2 * music[1]], music[1]
    streams = [StreamingTranscriber(transcriber, settings=COARSE, gain_db=gain) for gain in (0, 0, -6, -6)]
    found = [None] * len(streams)

    def run(index: int) -> None:
        found[index] = stream_in_blocks(streams[index], wave, rate, list(range(500, len(wave), 500)))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(streams))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = [
        stream_in_blocks(StreamingTranscriber(transcriber, settings=COARSE, gain_db=gain), wave, rate, [])
        for gain in (0, -6)
    ]
    assert found == [alone[0], alone[0], alone[1], alone[1]]
    assert alone[0] != alone[1]


def test_memory_is_constant(transcriber):
    """The stream holds no more after twenty seconds than after ten."""
    rate, stream = 48_000, StreamingTranscriber(transcriber, settings=StreamSettings(8, 40, 4))
    block = np.random.default_rng(0).normal(0, 0.05, rate // 4).astype(np.float32)
    sizes = []
    for _ in range(8):
        for _ in range(10):
            stream.feed(block, rate)
        sizes.append(held_bytes(stream))
    assert max(sizes[4:]) <= 1.1 * max(sizes[:4]) < 4e6


def held_bytes(root: object) -> int:
    """Bytes of all arrays and tensors that a stream refers to, except the shared network."""
    seen, todo, total = set(), [root], 0
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, Transcriber):
            continue
        seen.add(id(item))
        if hasattr(item, "untyped_storage"):
            total += item.untyped_storage().nbytes()
        elif isinstance(item, np.ndarray):
            total += (item.base if isinstance(item.base, np.ndarray) else item).nbytes
        elif isinstance(item, dict):
            todo += item.values()
        elif isinstance(item, str | bytes | int | float):
            total += 1
        elif hasattr(item, "__iter__"):
            todo += item
        elif hasattr(item, "__dict__"):
            todo += vars(item).values()
    return total


def test_settings_can_change_while_running(transcriber, music):
    wave, rate = music
    stream = StreamingTranscriber(transcriber, settings=COARSE, threshold=1.0)
    assert stream.feed(wave[: 2 * rate], rate) == []
    stream.threshold, stream.shift = 0.5, 1.0
    later = stream.feed(wave[2 * rate :], rate)
    assert len(later) > 5
    assert min(event.onset_secs for event in later) > 2
    assert all(LOWEST_NOTE <= event.note <= 108 and 0 <= event.velocity <= 127 and event.prob >= 0.5 for event in later)
    stream.gain_db = 12
    stream.reset()
    assert (stream.threshold, stream.shift, stream.gain_db) == (0.5, 1.0, 12)


def test_take_logmel_hands_out_each_column_once(transcriber, music):
    wave, rate = music
    stream = StreamingTranscriber(transcriber, settings=COARSE, gain_db=6)
    stream.feed(wave[:rate], rate)
    first = stream.take_logmel()
    stream.feed(wave[rate : 2 * rate], rate)
    both = first.shape[1] + stream.take_logmel().shape[1]
    assert both % 12 == 0
    assert 2 * rate - 1024 - 12 * 384 < both * 384 <= 2 * rate
    quiet = StreamingTranscriber(transcriber, settings=COARSE)
    quiet.feed(wave[:rate], rate)
    np.testing.assert_allclose(first - 6, quiet.take_logmel(), atol=1e-4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"threshold": 1.5}, "threshold 1.5: expected a number from 0 to 1"),
        ({"shift": float("nan")}, "shift nan: expected a number of seconds"),
        ({"gain_db": 13}, "gain 13 dB: expected a number from -12 to 12"),
    ],
)
def test_settings_out_of_range_are_refused(transcriber, setting, message):
    with pytest.raises(InputError, match=message):
        StreamingTranscriber(transcriber, **setting)


def test_bad_blocks_leave_the_stream_as_it_was(transcriber, music):
    wave, rate = music
    stream = StreamingTranscriber(transcriber, settings=COARSE)
    events = stream.feed(wave[:rate], rate)
    for samples, at, message in ((np.array([np.nan]), rate, "NaN"), (wave, 44_100, "44100 Hz in a stream of 16000 Hz")):
        with pytest.raises(InputError, match=message):
            stream.feed(samples, at)
    events += stream_in_blocks(stream, wave[rate:], rate, [])
    stream.reset()
    with pytest.raises(InputError, match="sampling rate 5 Hz"):
        stream.feed(wave, 5)
    assert stream_in_blocks(stream, wave, rate, []) == events


def test_stream_settings_are_checked():
    some = StreamSettings(past_frames=8, hop_frames=2, look_ahead_frames=3, waiting_frames=5, margin=0.1)
    assert some.latency_secs == pytest.approx(0.064 + 0.024 * (3 + 1))
    assert some.longest_latency_secs == pytest.approx(0.064 + 0.024 * (3 + 5 + 1))
    assert [some.early_margin(age) for age in (3, 7, 8, 20)] == pytest.approx([0.1, 0.02, 0, 0])
    for wrong in ((0, 1, 1), (1, 0, 1), (1, 1, -1), (1.5, 1, 1), (1, 1, 1, -1)):
        with pytest.raises(InputError, match="expected a whole number"):
            StreamSettings(*wrong)
    for margin in (-0.1, float("nan")):
        with pytest.raises(InputError, match="margin: expected a number of at least 0"):
            StreamSettings(1, 1, 1, margin=margin)
