"""Incremental inference equals inference on the whole input."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from ov_piano.model import incremental
from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.fast import optimize_for_inference
from ov_piano.model.incremental import IncrementalNet, Parts, plain_parts, prior_mean
from ov_piano.model.layers import ContextAwareModule, SubSpectralNorm, batch_norm_of, in_turn
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


@pytest.fixture(autouse=True)
def no_prior(monkeypatch):
    """The gates see what was heard, and nothing else."""
    monkeypatch.setattr(incremental, "PRIOR_FRAMES", 0)


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
    running, x = (
        incremental.RunningMean(torch.zeros(3)),
        torch.randn(1, 3, 5, 30, generator=torch.Generator().manual_seed(1)),
    )
    torch.testing.assert_close(running(x[..., :10], settled=4), x[..., :10].mean(dim=(2, 3)))
    torch.testing.assert_close(running(x[..., 4:20], settled=16), x[..., :20].mean(dim=(2, 3)))
    torch.testing.assert_close(running(x[..., 20:], settled=10), x.mean(dim=(2, 3)))
    for _ in range(20):
        mean = running(torch.ones(1, 3, 5, 30), settled=30)
    torch.testing.assert_close(mean, torch.ones(1, 3), atol=1e-3, rtol=0)  # what is long ago is forgotten


def test_prior_mean_is_that_of_the_batch_norms_outputs(model):
    """Against the mean over many draws; both kinds of parts have the same priors."""
    norm = next(layer for layer in in_turn(model.stem) if isinstance(layer, SubSpectralNorm | nn.BatchNorm2d))
    bias, weight = (x.detach().view(-1, 1) for x in (batch_norm_of(norm).bias, batch_norm_of(norm).weight))
    drawn = torch.randn(len(bias), 20_000, generator=torch.Generator().manual_seed(0)) * weight + bias
    expected = leaky_relu(drawn, 0.1).mean(dim=1).view(len(prior_mean(norm, 0.1, model.features)), -1).mean(dim=1)
    torch.testing.assert_close(prior_mean(norm, 0.1, model.features), expected, atol=0.02, rtol=0.02)
    plain, fast = (
        [
            step.prior
            for part in (parts.stem, *parts.onset_stages, parts.velocity_stage)
            for step in part
            if step.prior is not None
        ]
        for parts in (plain_parts(model), optimize_for_inference(model).parts)
    )
    assert len(plain) > 3
    assert all(len(prior) > 1 for prior in plain)
    torch.testing.assert_close(fast, plain)


def test_prior_counts_at_first_and_not_in_the_end(monkeypatch):
    monkeypatch.setattr(incremental, "PRIOR_FRAMES", 20)
    monkeypatch.setattr(incremental, "PRIOR_FADES_FRAMES", 40)
    running, heard = incremental.RunningMean(torch.ones(3)), torch.zeros(1, 3, 5, 20)
    torch.testing.assert_close(running(heard, settled=20), torch.full((1, 3), 10 / 30))
    torch.testing.assert_close(running(heard, settled=20), torch.zeros(1, 3))
