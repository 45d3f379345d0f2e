"""Random frequency responses, as training lays them over its chunks."""

import torch

from ov_piano.training.augmentation import RandomResponse


def test_each_chunk_gets_a_smooth_response_of_its_own():
    torch.manual_seed(0)
    logmel = torch.randn(400, 250, 3)
    response = RandomResponse(4.0)(logmel) - logmel
    assert (response - response[..., :1]).abs().max() < 1e-5  # the same at all frames
    assert response.diff(dim=1).diff(dim=1).abs().gt(1e-4).sum(dim=1).max() <= 12  # lines that bend at six points
    assert 3.8 < response[:, [0, -1]].std() < 4.2
    assert response[:, 0, 0].unique().numel() == 400


def test_the_seed_decides_the_response():
    logmel = torch.zeros(2, 250, 3)
    responses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        responses.append(RandomResponse(4.0)(logmel))
    assert torch.equal(responses[0], responses[1])
    assert not torch.equal(responses[0], responses[2])


def test_none_takes_nothing_from_the_generator():
    logmel, before = torch.randn(2, 250, 3), torch.get_rng_state()
    assert torch.equal(RandomResponse(0.0)(logmel), logmel)
    assert torch.equal(torch.get_rng_state(), before)
