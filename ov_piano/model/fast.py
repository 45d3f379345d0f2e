"""A trained network rearranged for fast inference.

:func:`optimize_for_inference` reads the weights of a given network; the result computes the same
logits. Batch norms become factors of weights or of the pass that follows a convolution, convolutions run in
``sparse_conv.cpp`` (two thirds of the time) or as matrix products with Winograd's saving along time. Where the
C++ source cannot be compiled, and on other devices than the CPU, the network itself is used.
"""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.incremental import Parts, Step, plain_parts, reach
from ov_piano.model.kernels import sparse_conv, winograd
from ov_piano.model.kernels.sparse_conv import POINTWISE, Branch
from ov_piano.model.kernels.winograd import time_conv_leaky_relu, transform_weight
from ov_piano.model.layers import ChannelsToKeys, ContextAwareModule, FrequencyToKeys, SubSpectralNorm, in_turn


def optimize_for_inference(model: OnsetVelocityBase, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A module log-mel (b, mels, t) in dB -> last-stage onset logits and velocity logits, (b, keys, t-1) each.

    It has its own copy of the weights as they are now.

    :param dtype: float32, or bfloat16 for matrix products (in the network itself: what autocast deems safe)
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    if on_cpu and sparse_conv.available() and winograd.available():
        return FastNet(model, dtype)
    return LastStage(model, dtype)


class LastStage(nn.Module):
    """The network itself, in eval mode, with its last onset stage only."""

    def __init__(self, model: OnsetVelocityBase, dtype: torch.dtype):
        super().__init__()
        self.model, self.dtype = deepcopy(model).eval(), dtype
        self.parts = plain_parts(self.model)

    @torch.inference_mode()
    def forward(self, logmel: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(logmel.device.type, self.dtype, enabled=self.dtype != torch.float32):
            onset_stages, velocities = self.model(logmel)
        return onset_stages[-1].float(), velocities.float()


PIECE, HALO = 2048, 4  # frames
FEW_FRAMES = 32  # up to here reading the weights takes longest, and Winograd's are twice as many


class FastNet(nn.Module):
    """The network's parts as sequences of steps."""

    def __init__(self, model: OnsetVelocityBase, dtype: torch.dtype):
        super().__init__()
        with torch.no_grad():
            keys = model.stem[6].keys
            self.parts = Parts(
                _steps(nn.Sequential(model.specnorm, model.stem), model.in_bins, dtype),
                [_steps(stage, keys, dtype) for stage in model.onset_stages],
                _steps(model.velocity_stage, keys, dtype),
            )

    @torch.inference_mode()
    def forward(self, logmel: Tensor) -> tuple[Tensor, Tensor]:
        """log-mel (b, mels, t) in dB -> onset and velocity logits, (b, keys, t-1) each."""
        x = torch.stack([logmel[:, :, 1:], logmel.diff(dim=2)], dim=1)  # (b, 2, mels, t-1)
        features = _run(self.parts.stem, x)  # (b, c, keys, t-1)
        onsets = sum(_run(stage, features) for stage in self.parts.onset_stages)  # (b, 1, keys, t-1)
        velocities = _run(self.parts.velocity_stage, torch.cat([features, onsets], dim=1))  # (b, 1, keys, t-1)
        return onsets.squeeze(1), velocities.squeeze(1)


LocalStep = Callable[[Tensor], Tensor]  # looks no more than HALO frames ahead or back


def _run(steps: list[Step], x: Tensor) -> Tensor:
    mean = None
    for step in steps:
        x, mean = step.run(x, mean)
    return x


def _steps(module: nn.Module, bins: int, dtype: torch.dtype) -> list[Step]:
    """Steps for the layers of ``module``, whose input has ``bins`` rows; layers that belong together become one."""
    layers = [layer for layer in in_turn(module) if not isinstance(layer, nn.Dropout)]
    steps, local_steps, local_reach = [], [], 0
    while layers:
        layer = layers.pop(0)
        if isinstance(layer, SubSpectralNorm):
            local_steps.append(_sub_spectral_norm(layer, bins))
            continue
        if isinstance(layer, ChannelsToKeys):
            local_steps.append(layer)
            bins = layers[0].bn.num_features if layers else 1
            continue
        norm = layers.pop(0) if layers and isinstance(layers[0], nn.BatchNorm2d | SubSpectralNorm) else None
        slope = layers.pop(0).negative_slope if layers and isinstance(layers[0], nn.LeakyReLU) else None
        if isinstance(layer, FrequencyToKeys):
            local_steps.append(_frequency_to_keys(layer, norm, slope, dtype))
        elif isinstance(layer, nn.Conv2d) and layer.kernel_size == (bins, 3):
            local_steps.append(_collapse_keys(layer, norm, slope, dtype))
            bins, local_reach = 1, reach(layer)
        elif isinstance(layer, nn.Conv2d) and bins == 1:
            local_steps.append(_pointwise(layer, norm, slope, dtype))
        else:
            steps += [_in_pieces(local_steps, local_reach)] if local_steps else []
            local_steps, local_reach = [], 0
            convolve = _context_aware if isinstance(layer, ContextAwareModule) else _small_conv
            steps.append(Step(convolve(layer, norm, slope, bins), reach(layer), isinstance(layer, ContextAwareModule)))
    return steps + ([_in_pieces(local_steps, local_reach)] if local_steps else [])


def _in_pieces(local_steps: list[LocalStep], frames: int) -> Step:
    """The steps one after the other for pieces that the processor's cache holds, ``frames``: their reach together."""

    def run(x: Tensor, mean: Tensor | None) -> tuple[Tensor, None]:
        t = x.shape[-1]
        pieces = []
        for begin in range(0, t, PIECE):
            end, low = min(begin + PIECE, t), max(0, begin - HALO)
            piece = x[..., low : end + HALO]
            for local_step in local_steps:
                piece = local_step(piece)
            pieces.append(piece[..., begin - low : end - low])
        return torch.cat(pieces, dim=-1), None

    return Step(run, frames)


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
    inner_norms = [*(hdc[1] for hdc in module.hdcs), module.skip[1]]
    scale, shifts = (torch.cat(x) for x in zip(*map(_affine, inner_norms), strict=True))
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
    weights = conv.weight.split(4 if conv.out_channels % 4 == 0 else 3)
    branches = (Branch(*conv.kernel_size),) * len(weights)
    plan, packed = sparse_conv.forward_plan(conv.in_channels, branches), sparse_conv.forward_weights(branches, weights)
    scales, no_shifts = _bin_table(norm, bins), torch.zeros(conv.out_channels)
    return lambda x, mean: sparse_conv.convolve_and_finish(x, plan, packed, no_shifts, None, scales, slope)


def _frequency_to_keys(module: FrequencyToKeys, norm: nn.BatchNorm2d, slope: float, dtype: torch.dtype) -> LocalStep:
    scale, shift = _affine(norm)
    weight = module.conv.weight.reshape(module.channels, module.keys, -1) * scale[:, None, None]  # (c, keys, bins)
    weight, shift = weight.to(dtype), shift[:, None, None]
    return lambda x: functional.leaky_relu_((weight @ x.to(dtype)).float().add_(shift), slope)


def _sub_spectral_norm(norm: SubSpectralNorm, bins: int) -> LocalStep:
    scale, shift = _bin_table(norm, bins)[:, :, None].unbind(dim=3)  # (c, bins, 1) each
    return lambda x: torch.addcmul(shift, scale, x)


def _pointwise(conv: nn.Conv2d, norm: nn.BatchNorm2d | None, slope: float | None, dtype: torch.dtype) -> LocalStep:
    """A matrix product for each frame: (b, c_in, f, t) -> (b, c_out, f, t)."""
    scale, shift = (torch.ones(conv.out_channels), conv.bias.clone()) if norm is None else _affine(norm)
    weight, shift = (conv.weight.flatten(1) * scale[:, None]).to(dtype), shift[:, None]  # (c_out, c_in)

    def step(x: Tensor) -> Tensor:
        y = (weight @ x.flatten(2).to(dtype)).float().add_(shift).unflatten(2, x.shape[2:])
        return y if slope is None else functional.leaky_relu_(y, slope)

    return step


def _collapse_keys(conv: nn.Conv2d, norm: nn.BatchNorm2d, slope: float, dtype: torch.dtype) -> LocalStep:
    """(b, c, keys, t) -> (b, c_out, 1, t): c * keys channels along time."""
    scale, shift = _affine(norm)
    taps = conv.weight.flatten(1, 2) * scale[:, None, None]  # (c_out, c * keys, 3)
    weight, direct = transform_weight(taps).to(dtype), taps.permute(0, 2, 1).flatten(1).contiguous().to(dtype)

    def step(x: Tensor) -> Tensor:
        x = x.flatten(1, 2)
        if x.shape[-1] > FEW_FRAMES:
            return time_conv_leaky_relu(x, weight, shift, slope).unsqueeze(2)
        before, after = functional.pad(x, (1, 0))[..., :-1], functional.pad(x, (0, 1))[..., 1:]
        y = (direct @ torch.cat([before, x, after], dim=1).to(dtype)).float().add_(shift[:, None])
        return functional.leaky_relu_(y, slope).unsqueeze(2)

    return step
