"""Fast inference of the end stage on the CPU: norms folded into weights, layouts that suit PyTorch's operators."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu_, pad

from ov_piano.model.end_stage import LEVELS, EndStage, Residual, Strided, mean_over_time, whole_steps
from ov_piano.model.layers import affine


def prepare_end_stage(stage: EndStage) -> Callable[..., Tensor]:
    """Same as ``stage`` in eval mode, with a copy of its current weights."""
    key_input, *key_path = (_channels_last(layer) for layer in (stage.key_input, *stage.key_path))
    spectrum_input, *spectrum_path = (_product(layer) for layer in stage.spectrum_path)
    to_levels, to_keys, readout = (_copy(x) for x in (stage.key_levels, stage.to_keys, stage.readout))
    (weight, bias), slope = _folded(*stage.listen[:2]), stage.listen[2].negative_slope
    listen, adapt = (weight.flatten(1), bias), deepcopy(stage.adapt).requires_grad_(False)

    def run(onsets: Tensor, spectrum: Tensor, mean: Callable[[Tensor], Tensor] = mean_over_time) -> Tensor:
        t = spectrum.shape[2]
        onsets, spectrum = whole_steps(onsets, spectrum)
        levels = _pointwise(to_levels, spectrum).unflatten(1, (LEVELS, -1))  # (b, LEVELS, keys, t)
        common = spectrum_input(torch.cat([spectrum, onsets], dim=1))  # (b, channels, t / STEP)
        for residual in spectrum_path:
            common += residual(common)
        context = mean(leaky_relu_(_pointwise(listen, common), slope).unsqueeze(2))  # (b, CONTEXT)
        scale, shift = adapt(context)[..., None, None].chunk(2, dim=1)
        common = _pointwise(to_keys, common).unsqueeze(2)
        x = torch.cat([onsets[:, None], levels], dim=1).contiguous(memory_format=torch.channels_last)
        scale += 1
        x = key_input(x).mul_(scale).add_(common * scale + shift)  # (b, channels, keys, t / STEP)
        for residual in key_path:
            x += residual(x)
        x = conv2d(x, readout[0][..., None, None], readout[1])  # (b, STEP, keys, t / STEP)
        return x.permute(0, 2, 3, 1).flatten(2)[..., :t]

    return run


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of convolution and norm."""
    scale, shift = affine(norm)
    return (conv.weight * scale[:, None, None, None]).detach(), shift.detach()


def _channels_last(layer: Strided | Residual) -> Callable[[Tensor], Tensor]:
    """Convolution, norm and activation for (b, c, keys, t) with the channels last in memory."""
    (weight, bias), conv, slope = _folded(layer.conv, layer.norm), layer.conv, layer.slope
    weight = weight.contiguous(memory_format=torch.channels_last)
    return lambda x: leaky_relu_(conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation), slope)


def _product(layer: Strided | Residual) -> Callable[[Tensor], Tensor]:
    """Convolution, norm and activation for (b, c, t), as a matrix product of few wide rows."""
    (weight, bias), conv, slope = _folded(layer.conv, layer.norm), layer.conv, layer.slope
    (_, taps), (_, stride), (_, padding), (_, dilation) = conv.kernel_size, conv.stride, conv.padding, conv.dilation
    matrix = weight.squeeze(2).permute(0, 2, 1).flatten(1).contiguous()  # (c_out, taps * c)

    def function(x: Tensor) -> Tensor:
        frames = x.shape[2] // stride
        padded = pad(x, (padding, padding))
        shifted = [padded[..., tap * dilation :: stride][..., :frames] for tap in range(taps)]
        return leaky_relu_(_pointwise((matrix, bias), torch.cat(shifted, dim=1)), slope)

    return function


def _pointwise(layer: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    """(b, c, t) -> (b, c_out, t)"""
    matrix, bias = layer
    return torch.baddbmm(bias[:, None], matrix.expand(len(x), -1, -1), x)


def _copy(conv: nn.Conv1d | nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Matrix and bias of a pointwise convolution."""
    return conv.weight.detach().flatten(1).clone(), conv.bias.detach().clone()
