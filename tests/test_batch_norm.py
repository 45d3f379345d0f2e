"""Batch-norm statistics averaged over batches."""

import pytest
import torch
from torch import nn

from ov_piano.training.batch_norm import reestimate_statistics


def two_norms():
    """A norm of the input, followed by another norm."""
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(3, momentum=0.85), nn.Dropout(0.5), nn.BatchNorm2d(3, momentum=0.85)).eval()


def test_all_batches_have_equal_weight():
    model, batches = two_norms(), [torch.randn(4, 3, 5, 7) * scale + scale for scale in (1.0, 2.0, 5.0)]
    reestimate_statistics(model, iter(batches))
    means = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in batches])
    variances = torch.stack([batch.transpose(0, 1).flatten(1).var(dim=1) for batch in batches])
    torch.testing.assert_close(model[0].running_mean, means.mean(dim=0))
    torch.testing.assert_close(model[0].running_var, variances.mean(dim=0))
    # what reaches the second norm was normalised batch by batch, and nothing of it dropped
    torch.testing.assert_close(model[2].running_mean, torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(model[2].running_var, torch.ones(3), atol=1e-2, rtol=0)


def test_momentum_is_restored_and_frozen_norms_are_unchanged():
    model = two_norms()
    model[0].requires_grad_(False)
    before = model[0].running_mean.clone()
    reestimate_statistics(model, [torch.randn(4, 3, 5, 7) + 3])
    assert torch.equal(model[0].running_mean, before)
    assert not torch.equal(model[2].running_mean, before)
    assert [model[i].momentum for i in (0, 2)] == [pytest.approx(0.85)] * 2
    assert not any(module.training for module in model.modules())
