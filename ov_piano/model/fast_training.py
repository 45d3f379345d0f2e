"""The network's forward pass in training, arranged for the CPU: same parameters, statistics and gradients.

:func:`fast_forward` walks through a given network and replaces the operations that PyTorch's
operators are slow at. Where the C++ sources cannot be compiled, it is the plain forward pass.
"""

import torch
from torch import Tensor, nn

from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.kernels import gated_norm, sparse_conv, winograd
from ov_piano.model.kernels.native import library
from ov_piano.model.kernels.sparse_conv import POINTWISE, Branch
from ov_piano.model.kernels.winograd import time_conv, transform_weight
from ov_piano.model.layers import ContextAwareModule, FrequencyToKeys, SubSpectralNorm, in_turn


def is_fast(model: OnsetVelocityBase, logmel: Tensor) -> bool:
    """Whether :func:`fast_forward` is more than the plain forward pass."""
    if logmel.device.type != "cpu" or not model.training or model.onsets_frozen:
        return False
    plain_norms = not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    return plain_norms and all(library(kernel.SOURCE) is not None for kernel in (sparse_conv, gated_norm, winograd))


def fast_forward(model: OnsetVelocityBase, logmel: Tensor) -> tuple[list[Tensor], Tensor]:
    """As ``model(logmel)``: (b, mels, t) in dB -> each stage's onset logits and velocity logits (b, keys, t-1)."""
    if not is_fast(model, logmel):
        return model(logmel)
    x = torch.stack([logmel[:, :, 1:], logmel.diff(dim=2)], dim=1)  # (b, 2, mels, t-1)
    features = _run(model.stem, model.specnorm(x))  # (b, c, keys, t-1)
    first, *refiners = model.onset_stages
    onset_stages = [_run(first, features)]  # (b, 1, keys, t-1)
    for refine in refiners:
        onset_stages.append(onset_stages[-1] + _run(refine, features))
    velocities = _run(model.velocity_stage, torch.cat([features, onset_stages[-1]], dim=1))
    return [onsets.squeeze(1) for onsets in onset_stages], velocities.squeeze(1)


def _run(module: nn.Module, x: Tensor) -> Tensor:
    """The layers in turn, where context-aware modules and norms come together with the leaky ReLU after them."""
    layers = list(in_turn(module))
    mean = None  # of x over f and t, where it is known
    while layers:
        layer = layers.pop(0)
        if isinstance(layer, ContextAwareModule):
            norm, leaky_relu = layers.pop(0), layers.pop(0)
            x, mean = _context_aware(layer, x, mean, norm, leaky_relu)
        elif isinstance(layer, SubSpectralNorm | nn.BatchNorm2d) and layers and isinstance(layers[0], nn.LeakyReLU):
            x, mean = gated_norm.norm_leaky_relu(x, _batch_norm(layer), layers.pop(0).negative_slope)
        elif isinstance(layer, nn.Conv2d) and layer.kernel_size in ((1, 1), (3, 3)) and x.shape[2] > 1:
            x = _small_conv(layer, x)
        elif isinstance(layer, FrequencyToKeys):
            x = _frequency_to_keys(layer, x)
        elif isinstance(layer, nn.Conv2d) and layer.kernel_size == (x.shape[2], 3):
            x = _collapse_keys(layer, x)
        else:
            x = layer(x)
    return x


def _batch_norm(norm: SubSpectralNorm | nn.BatchNorm2d) -> nn.BatchNorm2d:
    return norm.bn if isinstance(norm, SubSpectralNorm) else norm


def _context_aware(
    module: ContextAwareModule, x: Tensor, mean: Tensor, norm: nn.Module, leaky_relu: nn.LeakyReLU
) -> tuple[Tensor, Tensor]:
    """The module, ``norm`` and ``leaky_relu``: all convolutions in one go, the rest in another."""
    convs = [hdc[0] for hdc in module.hdcs]
    branches = [Branch(*conv.kernel_size, conv.dilation[1]) for conv in convs] + [POINTWISE] * len(convs)
    weights = [conv.weight for conv in convs] + list(module.skip[0].weight.chunk(len(convs)))
    maps = sparse_conv.sparse_conv(x, branches, weights)  # (b, 2 * n * channels, f, t)
    inner_norms = [hdc[1] for hdc in module.hdcs] + [module.skip[1]]
    gates = module.se.fc(mean)  # (b, n * channels)
    return gated_norm.gated_norm_leaky_relu(maps, gates, inner_norms, _batch_norm(norm), leaky_relu.negative_slope)


def _small_conv(module: nn.Conv2d, x: Tensor) -> Tensor:
    weights = module.weight.split(4 if module.out_channels % 4 == 0 else 3)
    return sparse_conv.sparse_conv(x, [Branch(*module.kernel_size)] * len(weights), weights)


def _frequency_to_keys(module: FrequencyToKeys, x: Tensor) -> Tensor:
    """The grouped convolution as a matrix product for each channel."""
    weight = module.conv.weight.reshape(module.channels, module.keys, -1)  # (c, keys, bins)
    return weight @ x


def _collapse_keys(module: nn.Conv2d, x: Tensor) -> Tensor:
    """The convolution that spans all keys, (b, c, keys, t) -> (b, c_out, 1, t): c * keys channels along time."""
    return time_conv(x.flatten(1, 2), transform_weight(module.weight.flatten(1, 2))).unsqueeze(2)
