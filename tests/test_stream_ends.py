"""Training chunks that end as live streams do."""

import pytest
import torch

from ov_piano.constants import KEYS
from ov_piano.training.step import TrainingStep
from ov_piano.training.stream_ends import HEAVY_FRAMES, frame_weights, with_stream_end
from ov_piano.transcription.streaming import EDGE_FRAMES

FRAMES = 30


def losses_of(edge_weight, velocities, logits, heard=None):
    """Losses of a step whose network puts out ``logits`` (b, keys, t-1); ``heard`` collects its inputs."""

    def forward(logmel):
        if heard is not None:
            heard.append(logmel)
        return [logits], logits

    step = TrainingStep(forward, None, None, positives_weight=8.0, velocity_weight=10.0, edge_weight=edge_weight)
    return step.losses(torch.randn(len(velocities), 4, FRAMES), velocities)


def test_every_second_chunk_ends_with_repetitions_of_the_last_frame_heard():
    chunks = torch.randn(3, 4, FRAMES)
    ended = with_stream_end(chunks)
    torch.testing.assert_close(ended[1], chunks[1], rtol=0, atol=0)
    ended, chunk = ended[::2], chunks[::2]
    torch.testing.assert_close(ended[..., :-EDGE_FRAMES], chunk[..., :-EDGE_FRAMES], rtol=0, atol=0)
    for frame in range(1, EDGE_FRAMES + 1):
        torch.testing.assert_close(ended[..., -frame], chunk[..., -EDGE_FRAMES - 1], rtol=0, atol=0)
    torch.testing.assert_close(with_stream_end(chunk[..., :EDGE_FRAMES]), chunk[..., :EDGE_FRAMES])  # nothing to repeat


def test_about_half_of_the_chunks_that_come_alone_end_as_streams_do():
    chunk = torch.randn(1, 4, FRAMES)
    torch.manual_seed(0)
    assert 30 < sum(not torch.equal(with_stream_end(chunk), chunk) for _ in range(100)) < 70


def test_the_last_frames_heard_weigh_more_and_the_mean_weight_is_one():
    weights = frame_weights(FRAMES, 4.0)
    plain, heavy = weights[0], weights[-EDGE_FRAMES - 1]
    assert (weights[-EDGE_FRAMES:] == plain).all()
    assert heavy.item() == pytest.approx(4 * plain.item())
    assert (weights == heavy).sum() == HEAVY_FRAMES
    assert weights.mean().item() == pytest.approx(1.0)


def test_only_with_a_weight_does_the_network_see_a_stream_end():
    velocities, logits = torch.zeros(2, KEYS, FRAMES), torch.randn(2, KEYS, FRAMES - 1)
    for weight in (0.0, 4.0):
        heard = []
        losses_of(weight, velocities, logits, heard)
        last = heard[0][0, :, -EDGE_FRAMES - 1 :]
        assert (last == last[..., :1]).all() == (weight > 0)


@pytest.mark.parametrize("frame", [-1, -EDGE_FRAMES - 1, 5])
def test_a_wrong_frame_counts_with_its_weight_in_both_losses(frame):
    velocities = torch.zeros(1, KEYS, FRAMES)
    velocities[..., frame] = 64
    logits = torch.zeros(1, KEYS, FRAMES - 1)
    wrong = logits.clone()
    wrong[..., frame] = -3.0
    weight = frame_weights(FRAMES - 1, 4.0)[frame].item()
    for name in ("onset", "velocity"):
        rise, plain_rise = (
            getattr(losses_of(edge, velocities, wrong), name) - getattr(losses_of(edge, velocities, logits), name)
            for edge in (4.0, 0.0)
        )
        assert rise.item() == pytest.approx(weight * plain_rise.item(), rel=1e-4, abs=1e-6)


def test_perfect_velocities_reach_the_floor():
    velocities = torch.zeros(1, KEYS, FRAMES)
    velocities[:, 40, -EDGE_FRAMES - 3] = 64
    losses = losses_of(4.0, velocities, torch.logit(torch.full((1, KEYS, FRAMES - 1), 64 / 127)))
    assert losses.velocity.item() == pytest.approx(losses.velocity_floor.item(), rel=1e-5)
    assert losses.velocity_floor > 0
