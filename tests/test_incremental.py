"""Incremental inference equals inference on the whole input."""

import pytest
import torch
from torch import Tensor

from ov_piano.model import incremental
from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.fast import optimize_for_inference
from ov_piano.model.incremental import IncrementalNet, Parts, plain_parts
from ov_piano.model.layers import ContextAwareModule
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.onsets_and_velocities import OnsetsAndVelocities
from tests.golden_weights import golden_state

FRAMES = 60


@pytest.fixture(scope="module", params=[OnsetVelocityNet, OnsetsAndVelocities], ids=lambda network: network.__name__)
def model(request) -> OnsetVelocityBase:
    """A network with the golden weights and input statistics that suit decibels."""
    model = request.param(init=False).eval()
    model.load_state_dict(golden_state(model))
    bins = model.in_bins
    with torch.no_grad():
        model.specnorm.bn.running_mean[:bins] = -40
        model.specnorm.bn.running_var[:bins] = 400
        model.specnorm.bn.running_var[bins:] = 800
    return model


@pytest.fixture(scope="module")
def logmel(model) -> Tensor:
    """(1, mels, 1 + FRAMES) in dB."""
    return torch.randn(1, model.in_bins, 1 + FRAMES, generator=torch.Generator().manual_seed(0)) * 20 - 40


@pytest.fixture(params=["fast", "plain"])
def parts(request, model) -> Parts:
    """The network's steps: optimised kernels or plain PyTorch."""
    return plain_parts(model) if request.param == "plain" else optimize_for_inference(model).parts


@torch.no_grad()
def whole(model: OnsetVelocityBase, logmel: Tensor) -> Tensor:
    return torch.stack(model.infer(logmel), dim=1)  # (1, 2, keys, t)


def test_nothing_settled_is_the_network_itself(model, parts, logmel):
    net, expected = IncrementalNet(parts), whole(model, logmel)
    for _ in range(2):
        torch.testing.assert_close(net(logmel, settled=0), expected, atol=2e-3, rtol=1e-4)


def test_beginning_grows_to_the_whole(model, parts, logmel):
    net = IncrementalNet(parts)
    for end in (2, 9, 10, 33, 1 + FRAMES):
        maps = net(logmel[:, :, :end], settled=0)
    torch.testing.assert_close(maps, whole(model, logmel), atol=2e-3, rtol=1e-4)


def test_what_is_kept_replaces_the_past(model, logmel, monkeypatch):
    """The gates do not depend on the input here."""
    for module in model.modules():
        if isinstance(module, ContextAwareModule):
            gates = torch.full((1, module.se.fc[2].out_features), 0.5)
            monkeypatch.setattr(module.se.fc, "forward", lambda mean, gates=gates: gates)
    net, expected = IncrementalNet(plain_parts(model)), whole(model, logmel)
    net(logmel, settled=25)
    maps = net(logmel[:, :, 25:], settled=10)
    torch.testing.assert_close(maps, expected[..., 25:], atol=2e-3, rtol=1e-4)
    maps = net(logmel[:, :, 35:], settled=0)
    torch.testing.assert_close(maps, expected[..., 35:], atol=2e-3, rtol=1e-4)


def test_gates_see_the_mean_over_all_that_was_heard(monkeypatch):
    monkeypatch.setattr(incremental, "GATE_FRAMES", 40)
    running, x = incremental._RunningMean(), torch.randn(1, 3, 5, 30, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(running(x[..., :10], settled=4), x[..., :10].mean(dim=(2, 3)))
    torch.testing.assert_close(running(x[..., 4:20], settled=16), x[..., :20].mean(dim=(2, 3)))
    torch.testing.assert_close(running(x[..., 20:], settled=10), x.mean(dim=(2, 3)))
    for _ in range(20):
        mean = running(torch.ones(1, 3, 5, 30), settled=30)
    torch.testing.assert_close(mean, torch.ones(1, 3), atol=1e-3, rtol=0)  # what is long ago is forgotten
