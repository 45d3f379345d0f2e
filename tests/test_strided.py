import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ov_piano.errors import InputError
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.settings import Chunking
from ov_piano.transcription.strided import chunk_spans, onset_velocity_maps, onset_velocity_pieces
from tests.golden_weights import GOLDEN, golden_state


def per_frame(logmel):
    """A network whose output depends on the current frame only; like ours, it omits the first frame."""
    return logmel[:, :88, 1:], -logmel[:, 88:176, 1:]


sizes = st.integers(2, 40).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, (size - 1) // 2)))


def test_maps_equal_the_golden_ones():
    golden = np.load(GOLDEN / "strided.npz")
    model = OnsetVelocityNet(init=False)
    model.load_state_dict(golden_state(model))
    model.eval()

    def infer(logmel):
        onset_stages, velocities = model(logmel)
        return onset_stages[-1], velocities

    onsets, velocities = onset_velocity_maps(
        infer, torch.from_numpy(golden["x"][0]), Chunking(int(golden["chunk_size"]), int(golden["chunk_overlap"]))
    )
    np.testing.assert_allclose(onsets, golden["onsets"][0], atol=1e-4, rtol=0)
    np.testing.assert_allclose(velocities, golden["velocities"][0], atol=1e-4, rtol=0)
    assert not onsets.requires_grad


@given(frames=st.integers(1, 150), size=sizes)
def test_equals_whole_file_for_a_per_frame_network(frames, size):
    chunk_size, half_overlap = size
    logmel = torch.randn(250, frames, generator=torch.Generator().manual_seed(frames))
    onsets, velocities = onset_velocity_maps(per_frame, logmel, Chunking(chunk_size, 2 * half_overlap))
    assert onsets.shape == velocities.shape == (88, frames)
    assert (onsets[:, 0] == 0).all()
    assert (velocities[:, 0] == 0).all()
    torch.testing.assert_close(onsets[:, 1:], logmel[:88, 1:].sigmoid())
    torch.testing.assert_close(velocities[:, 1:], (-logmel[88:176, 1:]).sigmoid())


@given(frames=st.integers(1, 500), size=sizes)
def test_spans_keep_each_frame_once_and_are_bounded(frames, size):
    chunk_size, half_overlap = size
    spans = list(chunk_spans(frames, Chunking(chunk_size, 2 * half_overlap)))
    kept = [frame for span in spans for frame in range(span.keep_begin, span.keep_end)]
    assert kept == list(range(frames))
    for span in spans:
        read = span.end - span.begin
        assert read <= chunk_size + (half_overlap == 0)
        assert read >= 2 or frames == 1
        assert span.keep_begin > span.begin or span.begin == 0


def test_spans_equal_a_hand_worked_table():
    assert [tuple(span) for span in chunk_spans(400, Chunking(150, 40))] == [
        (0, 150, 0, 130),
        (110, 260, 130, 240),
        (220, 370, 240, 350),
        (330, 400, 350, 400),
    ]
    assert [tuple(span) for span in chunk_spans(370, Chunking(150, 40))] == [
        (0, 150, 0, 130),
        (110, 260, 130, 240),
        (220, 370, 240, 370),  # ends with the input: no chunk of overlap alone follows
    ]
    assert [tuple(span) for span in chunk_spans(100, Chunking(150, 40))] == [(0, 100, 0, 100)]
    assert [tuple(span) for span in chunk_spans(5, Chunking(3, 0))] == [(0, 3, 0, 3), (2, 5, 3, 5)]


@pytest.mark.parametrize("maps", [2, 3])
def test_one_frame_is_silent_in_every_map_of_the_network(maps):
    def infer(logmel):
        return (torch.ones(1, 88, logmel.shape[2] - 1),) * maps

    pieces = list(onset_velocity_pieces(infer, lambda begin, end: torch.zeros(250, 1), 1, Chunking(10, 4)))
    assert [piece.tolist() for piece in pieces] == [torch.zeros(maps, 88, 1).tolist()]


def test_two_frames_pass_the_network():
    model = OnsetVelocityNet(init=False).eval()
    onsets, _ = onset_velocity_maps(lambda x: (model(x)[0][-1], model(x)[1]), torch.zeros(250, 2), Chunking(10, 4))
    assert onsets.shape == (88, 2)
    torch.testing.assert_close(onsets[:, 1:], model(torch.zeros(1, 250, 2))[0][-1][0].sigmoid())


@pytest.mark.parametrize("size", [(150, 41), (150, 150), (150, -2), (1, 0), (0, 0)])
def test_chunk_sizes_out_of_range_are_refused(size):
    with pytest.raises(ValueError, match="expected a"):
        onset_velocity_maps(per_frame, torch.zeros(250, 30), Chunking(*size))


@pytest.mark.parametrize("shape", [(1, 250, 30), (250, 0), (30,)])
def test_logmels_of_unusable_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="log-mel: expected shape"):
        onset_velocity_maps(per_frame, torch.zeros(shape), Chunking(10, 4))


def test_seconds_become_frames():
    assert Chunking.from_secs(600.0, 2.5, 0.024) == Chunking(25000, 104)
    assert Chunking.from_secs(300, 11, 0.024) == Chunking(12500, 458)


@pytest.mark.parametrize(
    ("chunk_secs", "overlap_secs", "message"),
    [
        (300, 2, r"found 83; use 1.968 s or 2.016 s"),
        (1, 2.016, r"overlapping .* less than the chunk size 42, found 84$"),
        (-1, 0, r"chunk of at least 2 frames, found -42$"),
        (10, -1, r"found -42$"),
    ],
)
def test_seconds_that_do_not_fit_are_refused_with_a_hint(chunk_secs, overlap_secs, message):
    with pytest.raises(InputError, match=message):
        Chunking.from_secs(chunk_secs, overlap_secs, 0.024)
