"""A trained network rearranged for fast inference.

:func:`optimize_for_inference` reads the weights of a given `OnsetVelocityNet`; the result computes the same
logits. Batch norms become factors of weights or of the pass that follows a convolution, convolutions run in
``sparse_conv.cpp`` (two thirds of the time) or as matrix products with Winograd's saving along time. Where the
C++ source cannot be compiled, and on other devices than the CPU, the network itself is used.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from ov_piano.model import sparse_conv
from ov_piano.model.layers import ChannelsToKeys, ContextAwareModule, FrequencyToKeys, SubSpectralNorm
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.sparse_conv import POINTWISE, Branch
from ov_piano.model.winograd import time_conv, transform_weight


def optimize_for_inference(model: OnsetVelocityNet, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A module log-mel (b, mels, t) in dB -> last-stage onset logits and velocity logits, (b, keys, t-1) each.

    It has its own copy of the weights as they are now.

    :param dtype: bfloat16 lets autocast choose it for operations that it deems safe; it changes probabilities by a
        few hundredths
    """
    if sparse_conv.available() and next(model.parameters()).device.type == "cpu" and dtype == torch.float32:
        return FastNet(model)
    return LastStage(model, dtype)


class LastStage(nn.Module):
    """The network itself, in eval mode, with its last onset stage only."""

    def __init__(self, model: OnsetVelocityNet, dtype: torch.dtype):
        super().__init__()
        self.model, self.dtype = deepcopy(model).eval(), dtype

    @torch.inference_mode()
    def forward(self, logmel: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(logmel.device.type, self.dtype, enabled=self.dtype != torch.float32):
            onset_stages, velocities = self.model(logmel)
        return onset_stages[-1].float(), velocities.float()


class FastNet(nn.Module):
    """The network's parts as sequences of steps, each a function ``(x, mean) -> (x, mean)``.

    ``mean`` (b, c) is the mean of x over frequency and time, which context-aware modules ask for.
    """

    def __init__(self, model: OnsetVelocityNet):
        super().__init__()
        with torch.no_grad():
            self.input_norm = _sub_spectral_norm(model.specnorm, model.in_bins)
            self.stem = _steps(model.stem, model.in_bins)
            keys = model.stem[6].keys
            self.onset_stages = [_steps(stage, keys) for stage in (model.first_stage, *model.refiner_stages)]
            self.velocity_stage = _steps(model.velocity_stage, keys)

    @torch.inference_mode()
    def forward(self, logmel: Tensor) -> tuple[Tensor, Tensor]:
        """log-mel (b, mels, t) in dB -> onset and velocity logits, (b, keys, t-1) each."""
        x = torch.stack([logmel[:, :, 1:], logmel.diff(dim=2)], dim=1)  # (b, 2, mels, t-1)
        features = _run([self.input_norm, *self.stem], x)  # (b, 20, keys, t-1)
        onsets = sum(_run(stage, features) for stage in self.onset_stages)  # (b, 1, keys, t-1)
        velocities = _run(self.velocity_stage, torch.cat([features, onsets], dim=1))  # (b, 1, keys, t-1)
        return onsets.squeeze(1), velocities.squeeze(1)


Step = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


def _run(steps: list[Step], x: Tensor) -> Tensor:
    mean = None
    for step in steps:
        x, mean = step(x, mean)
    return x


def _steps(module: nn.Module, bins: int) -> list[Step]:
    """Steps for the layers of ``module``, whose input has ``bins`` rows; layers that belong together become one."""
    layers = [layer for layer in _layers(module) if not isinstance(layer, nn.Dropout)]
    steps = []
    while layers:
        layer = layers.pop(0)
        if isinstance(layer, SubSpectralNorm):
            steps.append(_sub_spectral_norm(layer, bins))
            continue
        if isinstance(layer, ChannelsToKeys):
            steps.append(lambda x, mean, layer=layer: (layer(x), None))
            continue
        norm = layers.pop(0) if layers and isinstance(layers[0], nn.BatchNorm2d | SubSpectralNorm) else None
        slope = layers.pop(0).negative_slope if layers and isinstance(layers[0], nn.LeakyReLU) else None
        if isinstance(layer, ContextAwareModule):
            steps.append(_context_aware(layer, norm, slope, bins))
        elif isinstance(layer, FrequencyToKeys):
            steps.append(_frequency_to_keys(layer, norm, slope))
        elif layer.kernel_size == (3, 3):
            steps.append(_small_conv(layer, norm, slope, bins))
        elif layer.kernel_size == (1, 1):
            steps.append(_pointwise(layer, norm, slope))
        else:
            steps.append(_collapse_keys(layer, norm, slope))
    return steps


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.Sequential):
        for layer in module:
            yield from _layers(layer)
    else:
        yield module


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel that the norm applies in eval mode."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def _bin_table(norm: SubSpectralNorm | nn.BatchNorm2d, bins: int) -> Tensor:
    """Scale and shift for each channel and bin, (c, bins, 2)."""
    own = isinstance(norm, SubSpectralNorm)
    columns = [x.view(-1, bins) if own else x[:, None].expand(-1, bins) for x in _affine(norm.bn if own else norm)]
    return torch.stack(columns, dim=2).contiguous()


def _context_aware(module: ContextAwareModule, norm: nn.Module, slope: float, bins: int) -> Step:
    convs = [hdc[0] for hdc in module.hdcs]
    branches = (*(Branch(*conv.kernel_size, conv.dilation[1]) for conv in convs), *[POINTWISE] * len(convs))
    scale, shifts = (
        torch.cat(x) for x in zip(*map(_affine, [*(hdc[1] for hdc in module.hdcs), module.skip[1]]), strict=True)
    )
    weights = [conv.weight for conv in convs] + list(module.skip[0].weight.chunk(len(convs)))
    weights = [w * s[:, None, None, None] for w, s in zip(weights, scale.split(len(weights[0])), strict=True)]
    plan = sparse_conv.forward_plan(convs[0].in_channels, branches)
    packed, scales, gates = (
        sparse_conv.forward_weights(branches, weights),
        _bin_table(norm, bins),
        deepcopy(module.se.fc),
    )

    def step(x: Tensor, mean: Tensor | None) -> tuple[Tensor, Tensor]:
        mean = x.mean(dim=(2, 3)) if mean is None else mean
        return sparse_conv.convolve_and_finish(x, plan, packed, shifts, gates(mean), scales, slope)

    return step


def _small_conv(conv: nn.Conv2d, norm: nn.Module, slope: float, bins: int) -> Step:
    weights = conv.weight.split(4)
    branches = (Branch(3, 3),) * len(weights)
    plan, packed = sparse_conv.forward_plan(conv.in_channels, branches), sparse_conv.forward_weights(branches, weights)
    scales, no_shifts = _bin_table(norm, bins), torch.zeros(conv.out_channels)
    return lambda x, mean: sparse_conv.convolve_and_finish(x, plan, packed, no_shifts, None, scales, slope)


def _frequency_to_keys(module: FrequencyToKeys, norm: nn.BatchNorm2d, slope: float) -> Step:
    scale, shift = _affine(norm)
    weight = module.conv.weight.reshape(module.channels, module.keys, -1) * scale[:, None, None]  # (c, keys, bins)
    return lambda x, mean: (functional.leaky_relu_((weight @ x).add_(shift[:, None, None]), slope), None)


def _sub_spectral_norm(norm: SubSpectralNorm, bins: int) -> Step:
    scale, shift = _bin_table(norm, bins)[:, :, None].unbind(dim=3)  # (c, bins, 1) each
    return lambda x, mean: (torch.addcmul(shift, scale, x), None)


def _pointwise(conv: nn.Conv2d, norm: nn.BatchNorm2d | None, slope: float | None) -> Step:
    """A matrix product for each frame: (b, c_in, f, t) -> (b, c_out, f, t)."""
    scale, shift = (1, conv.bias) if norm is None else _affine(norm)
    weight = conv.weight.flatten(1) * (scale if norm is None else scale[:, None])  # (c_out, c_in)
    shift = shift.detach()[:, None]

    def step(x: Tensor, mean: Tensor | None) -> tuple[Tensor, None]:
        x = torch.add(weight @ x.flatten(2), shift).unflatten(2, x.shape[2:])
        return x if slope is None else functional.leaky_relu_(x, slope), None

    return step


def _collapse_keys(conv: nn.Conv2d, norm: nn.BatchNorm2d, slope: float) -> Step:
    """(b, c, keys, t) -> (b, c_out, 1, t): c * keys channels along time."""
    scale, shift = _affine(norm)
    weight = transform_weight(conv.weight.flatten(1, 2) * scale[:, None, None])
    shift = shift[:, None]
    return lambda x, mean: (
        functional.leaky_relu_(time_conv(x.flatten(1, 2), weight).add_(shift), slope).unsqueeze(2),
        None,
    )
