import pytest
import torch

from ov_piano.model import sparse_conv
from ov_piano.model.fast import FastNet, optimize_for_inference
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from tests.golden_weights import golden_state

needs_compiler = pytest.mark.skipif(not sparse_conv.available(), reason="no C++ compiler here")


@pytest.fixture(scope="module")
def model() -> OnsetVelocityNet:
    model = OnsetVelocityNet(init=False)
    model.load_state_dict(golden_state(model))
    return model.eval()


@needs_compiler
@pytest.mark.parametrize("shape", [(2, 250, 31), (1, 250, 500)])
@torch.inference_mode()
def test_logits_equal_those_of_the_plain_network(model, shape):
    logmel = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 20 - 40
    fast = optimize_for_inference(model)
    assert isinstance(fast, FastNet)
    onset_stages, expected_velocities = model(logmel)
    onsets, velocities = fast(logmel)
    torch.testing.assert_close(onsets, onset_stages[-1], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(velocities, expected_velocities, rtol=1e-4, atol=1e-3)
