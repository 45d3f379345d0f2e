import statistics

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from ov_piano.model.fast_training import fast_forward
from ov_piano.model.kernels import sparse_conv
from ov_piano.model.networks import NETWORKS
from tests.golden_weights import golden_state

needs_compiler = pytest.mark.skipif(not sparse_conv.available(), reason="no C++ compiler here")


both_networks = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


def golden_model(network):
    model = network(dropout=0, init=False)
    model.load_state_dict(golden_state(model, db_statistics=False))
    return model.train()


def losses_and_gradients(model, forward, logmel, target):
    stages, velocities = forward(logmel)
    losses = [bce(logits, target) for logits in [*stages, velocities]]
    sum(losses).backward()
    return torch.stack(losses).detach(), {name: p.grad for name, p in model.named_parameters()}


@needs_compiler
@both_networks
def test_losses_gradients_and_statistics_equal_the_plain_forward_pass(network):
    plain, fast = golden_model(network), golden_model(network)
    torch.manual_seed(0)
    logmel = torch.randn(2, plain.in_bins, 41) * 20 - 40
    target = (torch.rand(2, 88, 40) < 0.1).float()
    expected_losses, expected = losses_and_gradients(plain, plain, logmel, target)
    losses, gradients = losses_and_gradients(fast, lambda x: fast_forward(fast, x), logmel, target)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=1e-6)
    errors = {
        name: ((gradients[name] - gradient).norm() / (gradient.norm() + 1e-4)).item()
        for name, gradient in expected.items()
    }
    assert statistics.median(errors.values()) < 2e-5
    assert max(errors.values()) < 5e-3, errors  # single units of a ReLU at zero fall on the other side
    for (name, entry), expected_entry in zip(fast.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(entry, expected_entry, rtol=1e-4, atol=1e-4, msg=name)


@needs_compiler
@both_networks
def test_under_bf16_autocast_losses_change_little(network):
    model = golden_model(network)
    torch.manual_seed(0)
    logmel, target = torch.randn(2, model.in_bins, 31) * 20 - 40, torch.zeros(2, 88, 30)
    expected, _ = losses_and_gradients(model, lambda x: fast_forward(model, x), logmel, target)
    with torch.autocast("cpu", torch.bfloat16):
        losses, gradients = losses_and_gradients(model, lambda x: fast_forward(model, x), logmel, target)
    torch.testing.assert_close(losses.float(), expected, rtol=0.02, atol=0)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
