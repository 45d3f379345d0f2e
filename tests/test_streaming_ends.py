"""Note ends of streams: the rule of whole recordings, and the offline ends."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ov_piano.constants import FRAME_SECS, KEYS, LOWEST_NOTE
from ov_piano.model import incremental
from ov_piano.model.end_stage import STEP
from ov_piano.model.incremental import EndPart
from ov_piano.transcription.note_ends import END_IN_FRAME, LONGEST_FRAMES, NoteEnds
from ov_piano.transcription.streaming import DEFAULT, StreamingTranscriber, StreamSettings
from ov_piano.transcription.streaming_ends import LAG_SECS, StreamingEnds

SAMPLE = Path(__file__).parents[1] / "assets" / "sample" / "2008" / "bach_invention_bwv772.wav"
FIRST_INPUT = EndPart(lambda onsets, spectrum, mean: onsets, torch.zeros(()))


@pytest.fixture(scope="module")
def music() -> tuple[np.ndarray, int]:
    """Five seconds of the sample and their rate."""
    wave, rate = sf.read(SAMPLE, dtype="float32")
    return wave[: 5 * rate], rate


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), hop=st.integers(1, 30), frames=st.integers(2, 200))
def test_clear_ends_are_those_of_a_whole_recording(seed, hop, frames):
    """A stage that returns its first input, in which each frame either ends a note or does not."""
    draws = np.random.default_rng(seed)
    logits = torch.tensor(np.where(draws.random((KEYS, frames)) < 0.05, 12.0, -12.0)).float()
    logits[:, 0] = -100  # frame 0 has no probabilities
    onsets = np.argwhere(draws.random((frames, KEYS)) < 0.03)  # (n, 2) frame and key
    whole = NoteEnds()
    whole.add(logits.sigmoid())
    whole.strike(onsets[:, 1], onsets[:, 0])
    whole.ask(onsets[:, 1], onsets[:, 0], frames)
    expected = np.minimum(whole.finish() + END_IN_FRAME, frames) * FRAME_SECS

    ends, struck, kept = StreamingEnds(FIRST_INPUT), 0, 0
    for until in [*range(hop, frames - 1, hop), frames - 1]:
        last = until == frames - 1
        repeated = 0 if last else 3
        x = torch.cat([logits[None, :, 1 + kept : 1 + until], torch.zeros(1, KEYS, repeated)], dim=2)
        settled = 0 if last else max(0, x.shape[2] - 3 - 13)
        ends.add((x, x), settled, repeated, last)
        kept += settled
        while struck < len(onsets) and (last or onsets[struck, 0] < until - 4):
            frame, key = onsets[struck].tolist()
            ends.strike(key, frame, frame * FRAME_SECS, 0.0)
            struck += 1
        ends.search(until - 4)
    ends.search(frames, last=True)
    found = {(round(end.onset_secs / FRAME_SECS), end.note - LOWEST_NOTE): end.offset_secs for end in ends.take()}
    for (frame, key), end in zip(onsets.tolist(), expected, strict=True):
        following = onsets[(onsets[:, 1] == key) & (onsets[:, 0] > frame), 0] * FRAME_SECS
        secs = min(end, *following) if len(following) else end
        assert abs(found.pop((frame, key)) - secs) <= max(2 * FRAME_SECS, 0.1 * (secs - frame * FRAME_SECS))
    assert found == {}


@pytest.mark.parametrize("block", [1, 7, 20])
def test_the_context_is_the_mean_over_all_frames_so_far(block, monkeypatch):
    monkeypatch.setattr(incremental, "PRIOR_FRAMES", 0)
    means, repeated, revised = [], 3, 13

    def run(onsets, spectrum, mean):
        means.append(mean(spectrum[:, :1, None, ::STEP]).item())
        return onsets

    ends, kept, expected = StreamingEnds(EndPart(run, torch.zeros(()))), 0, []
    for until in range(block, 400, block):
        frames = torch.arange(kept, until + repeated).float().clamp(max=until - 1)
        settled = max(0, until - kept - revised)
        before = len(means)
        ends.add((torch.zeros(1, KEYS, len(frames)), frames.expand(1, 4, -1)), settled, repeated)
        expected += [(until - 1) / 2] * (len(means) - before)
        kept += settled
    assert len(means) > 10
    np.testing.assert_allclose(means, expected, atol=STEP)


def test_a_note_that_never_ends_is_ended_and_forgotten():
    logits = torch.full((1, KEYS, 2000), -12.0)
    ends = StreamingEnds(FIRST_INPUT)
    ends.strike(40, 5, 5 * FRAME_SECS, 0.0)
    widest = 0
    for begin in range(1, 2000, 50):
        piece = logits[:, :, begin : begin + 50]
        ends.add((piece, piece), piece.shape[2], 0)
        ends.search(begin + 40)
        widest = max(widest, ends._map.shape[1])
    (end,) = ends.take()
    assert 3 < end.offset_secs - 5 * FRAME_SECS < 6  # it fades
    assert widest < LONGEST_FRAMES + 200


def test_every_note_ends_once_and_within_the_latency(transcriber, music):
    wave, rate = music
    stream, events, ends = StreamingTranscriber(transcriber), [], []
    for number, block in enumerate(np.split(wave, range(480, len(wave), 480)), start=1):
        events += stream.feed(block, rate)
        found = stream.take_ends()
        heard = number * 480 / rate
        assert all(heard - DEFAULT.longest_latency_secs - LAG_SECS < end.offset_secs <= heard for end in found)
        ends += found
    assert len(ends) > 10
    events += stream.flush()
    ends += stream.take_ends()
    assert sorted((event.onset_secs, event.note) for event in events) == sorted((e.onset_secs, e.note) for e in ends)
    assert all(end.offset_secs > end.onset_secs for end in ends)
    assert stream.take_ends() == []


def test_long_look_ahead_gives_the_offline_ends(transcriber, music, monkeypatch):
    """Without the prior mean of the gates, which matters in this short recording, the onsets are the same, too."""
    monkeypatch.setattr(incremental, "PRIOR_FRAMES", 0)
    offline = transcriber(*music)
    stream = StreamingTranscriber(transcriber, settings=StreamSettings(200, 50, 100))
    stream.feed(*music)
    stream.flush()
    ends = {(round(end.onset_secs, 4), end.note): end.offset_secs for end in stream.take_ends()}
    found = [ends[key] for key in zip(offline["onset_secs"].round(4), offline["note"], strict=True)]
    late = np.abs(np.array(found) - offline["offset_secs"])
    assert (late < 2 * FRAME_SECS).mean() > 0.8


def test_snapshots_without_note_ends_give_none(transcriber, music, monkeypatch):
    monkeypatch.setattr(transcriber, "parts", transcriber.parts._replace(end_stage=None))
    stream = StreamingTranscriber(transcriber, settings=StreamSettings(8, 12, 4))
    assert len(stream.feed(*music) + stream.flush()) > 10
    assert stream.take_ends() == []
