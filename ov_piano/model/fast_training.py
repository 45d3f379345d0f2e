"""The network's forward pass in training, arranged for the CPU: same parameters, statistics and gradients.

:func:`fast_forward` walks through a given `OnsetVelocityNet` and replaces the operations that PyTorch's
operators are slow at. Where the C++ source cannot be compiled, it is the plain forward pass.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ov_piano.model import sparse_conv
from ov_piano.model.layers import ContextAwareModule, FrequencyToKeys
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.sparse_conv import POINTWISE, Branch
from ov_piano.model.winograd import time_conv, transform_weight


def is_fast(model: OnsetVelocityNet, logmel: Tensor) -> bool:
    """Whether :func:`fast_forward` is more than the plain forward pass."""
    plain_norms = not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    return logmel.device.type == "cpu" and not model.onsets_frozen and plain_norms and sparse_conv.available()


def fast_forward(model: OnsetVelocityNet, logmel: Tensor) -> tuple[list[Tensor], Tensor]:
    """As ``model(logmel)``: (b, mels, t) in dB -> four stages of onset logits and velocity logits (b, keys, t-1)."""
    if not is_fast(model, logmel):
        return model(logmel)
    x = torch.stack([logmel[:, :, 1:], logmel.diff(dim=2)], dim=1)  # (b, 2, mels, t-1)
    features = _run(model.stem, model.specnorm(x))  # (b, 20, keys, t-1)
    onset_stages = [_run(model.first_stage, features)]  # (b, 1, keys, t-1)
    for refine in model.refiner_stages:
        onset_stages.append(onset_stages[-1] + _run(refine, features))
    velocities = _run(model.velocity_stage, torch.cat([features, onset_stages[-1]], dim=1))
    return [onsets.squeeze(1) for onsets in onset_stages], velocities.squeeze(1)


def _run(module: nn.Module, x: Tensor) -> Tensor:
    if isinstance(module, nn.Sequential):
        for layer in module:
            x = _run(layer, x)
        return x
    if isinstance(module, ContextAwareModule):
        return _context_aware(module, x)
    if isinstance(module, FrequencyToKeys):
        return _frequency_to_keys(module, x)
    if isinstance(module, nn.Conv2d) and module.kernel_size == (x.shape[2], 3) and module.padding == (0, 1):
        return _collapse_keys(module, x)
    return module(x)


def _context_aware(module: ContextAwareModule, x: Tensor) -> Tensor:
    """All convolutions of the module in one pass; its batch norms as a single one."""
    hdcs = [hdc[0] for hdc in module.hdcs]
    branches = [Branch(*conv.kernel_size, conv.dilation[1]) for conv in hdcs] + [POINTWISE] * len(hdcs)
    weights = [conv.weight for conv in hdcs] + list(module.skip[0].weight.chunk(len(hdcs)))
    y = sparse_conv.sparse_conv(x, branches, weights)  # (b, 2 * n * channels, f, t)
    y = _batch_norms([hdc[1] for hdc in module.hdcs] + [module.skip[1]], y).relu_()
    context, skip = y.chunk(2, dim=1)
    return torch.addcmul(skip, module.se(x), context)


def _batch_norms(norms: list[nn.BatchNorm2d], x: Tensor) -> Tensor:
    """The batch norms of consecutive groups of channels; their statistics are updated as by themselves."""
    mean = torch.cat([norm.running_mean for norm in norms])
    var = torch.cat([norm.running_var for norm in norms])
    weight = torch.cat([norm.weight for norm in norms])
    bias = torch.cat([norm.bias for norm in norms])
    training, momentum = norms[0].training, norms[0].momentum
    if training:
        for norm in norms:
            norm.num_batches_tracked += 1
        if momentum is None:  # cumulative average
            momentum = 1 / norms[0].num_batches_tracked.item()
    x = functional.batch_norm(x, mean, var, weight, bias, training, momentum, norms[0].eps)
    if training:
        sizes = [norm.num_features for norm in norms]
        for norm, norm_mean, norm_var in zip(norms, mean.split(sizes), var.split(sizes), strict=True):
            norm.running_mean.copy_(norm_mean)
            norm.running_var.copy_(norm_var)
    return x


def _frequency_to_keys(module: FrequencyToKeys, x: Tensor) -> Tensor:
    """The grouped convolution as a matrix product for each channel."""
    weight = module.conv.weight.reshape(module.channels, module.keys, -1)  # (c, keys, bins)
    return weight @ x


def _collapse_keys(module: nn.Conv2d, x: Tensor) -> Tensor:
    """The convolution that spans all keys, (b, c, keys, t) -> (b, c_out, 1, t): c * keys channels along time."""
    return time_conv(x.flatten(1, 2), transform_weight(module.weight.flatten(1, 2))).unsqueeze(2)
