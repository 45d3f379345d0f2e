"""Fast inference on the CPU.

:func:`optimize_for_inference` returns a module that computes the same logits as the given network. Batch norms are
folded into weights or into the pass after a convolution; convolutions run in ``sparse_conv.cpp`` (two thirds of the
time) or as matrix products with Winograd's algorithm along time. If the C++ source cannot be compiled, on devices
other than the CPU, and for networks that the kernels do not support, it returns the network in plain PyTorch.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from ov_piano.model import incremental
from ov_piano.model.base import OnsetVelocityBase, check_logmel, with_differences
from ov_piano.model.end_stage import EndStage
from ov_piano.model.fast_ends import prepare_end_stage
from ov_piano.model.incremental import EndPart, Parts, plain_parts, prior_mean, reach
from ov_piano.model.kernels import sparse_conv, winograd
from ov_piano.model.kernels.plan import UnsupportedNetworkError, plan_network, warn_once
from ov_piano.model.kernels.steps import (
    CollapseKeys,
    ContextAware,
    Dropout,
    FrequencyMap,
    Norm,
    Plan,
    Pointwise,
    SmallConv,
    Step,
    ToKeys,
)
from ov_piano.model.kernels.winograd import time_conv_leaky_relu, transform_weight
from ov_piano.model.layers import SubSpectralNorm, affine, batch_norm_of

CHECKED_FRAMES = 40  # must exceed FEW_FRAMES
LARGEST_ERROR = {torch.float32: 1e-3, torch.bfloat16: 0.2}  # maximum relative error of the logits in `_check_equal`


def optimize_for_inference(model: OnsetVelocityBase, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A module: log-mel (b, mels, t) in dB -> last-stage onset logits and velocity logits, (b, keys, t-1) each.

    With an end stage, its logits follow. The module has a method ``end_input``, too, like `OnsetVelocityBase`. It holds
    its own copy of the current weights.

    :param dtype: float32, or bfloat16 for matrix products (in plain PyTorch: bfloat16 autocast)
    """
    plain = LastStage(model, dtype)
    on_cpu = next(model.parameters()).device.type == "cpu"  # checked first: other devices need no compilation
    if not (on_cpu and sparse_conv.available() and winograd.available()):
        return plain
    try:
        fast = FastNet(plan_network(plain.model), plain.model.end_stage, model.in_bins, dtype)
        _check_equal(fast, plain, model.in_bins, dtype)
    except UnsupportedNetworkError as reason:
        warn_once(str(reason))
        return plain
    return fast


def _check_equal(fast: nn.Module, plain: nn.Module, bins: int, dtype: torch.dtype) -> None:
    """Compare both on random input, which detects modified layers and miscompiled kernels.

    :raises UnsupportedNetworkError: they differ
    """
    logmel = torch.randn(1, bins, CHECKED_FRAMES, generator=torch.Generator().manual_seed(0)) * 20 - 40
    for found, expected in zip(fast(logmel), plain(logmel), strict=True):
        if not (found - expected).norm() <= LARGEST_ERROR[dtype] * expected.norm() + 1e-4:
            raise UnsupportedNetworkError("logits for random input differ between kernels and network")


class LastStage(nn.Module):
    """The plain network in eval mode; returns only the last onset stage."""

    def __init__(self, model: OnsetVelocityBase, dtype: torch.dtype):
        super().__init__()
        self.model, self.dtype = deepcopy(model).eval(), dtype
        self.parts = plain_parts(self.model)

    @torch.inference_mode()
    def forward(self, logmel: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(logmel.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return tuple(logits.float() for logits in self.model.infer(logmel))

    @torch.inference_mode()
    def end_input(self, logmel: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(logmel.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return tuple(x.float() for x in self.model.end_input(logmel))


PIECE, HALO = 2048, 4  # frames
FEW_FRAMES = 32  # up to here reading the weights dominates, and Winograd's algorithm has twice as many


class FastNet(nn.Module):
    """The network as sequences of prepared steps."""

    def __init__(self, plan: Plan, end_stage: EndStage | None, in_bins: int, dtype: torch.dtype):
        super().__init__()
        self.in_bins = in_bins
        with torch.no_grad():
            self.parts = Parts(
                _prepare(plan.stem, dtype),
                [_prepare(stage, dtype) for stage in plan.onset_stages],
                _prepare(plan.velocity_stage, dtype),
                end_stage and EndPart.of(end_stage, prepare_end_stage(end_stage)),
            )

    @torch.inference_mode()
    def forward(self, logmel: Tensor) -> tuple[Tensor, ...]:
        """See `OnsetVelocityBase.infer`."""
        shared = self._stage_input(logmel)
        onsets, velocities = shared[:, -1], _apply(self.parts.velocity_stage, shared).squeeze(1)
        if self.parts.end_stage is None:
            return onsets, velocities
        return onsets, velocities, self.parts.end_stage.run(onsets, self._spectrum(logmel))

    @torch.inference_mode()
    def end_input(self, logmel: Tensor) -> tuple[Tensor, Tensor]:
        """See `OnsetVelocityBase`."""
        return self._stage_input(logmel)[:, -1], self._spectrum(logmel)

    def _stage_input(self, logmel: Tensor) -> Tensor:
        """The input of the velocity stage: features and the last onset logits, (b, c+1, keys, t-1)."""
        check_logmel(logmel, self.in_bins)
        features = _apply(self.parts.stem, with_differences(logmel))  # (b, c, keys, t-1)
        onsets = sum(_apply(stage, features) for stage in self.parts.onset_stages)  # (b, 1, keys, t-1)
        return torch.cat([features, onsets], dim=1)

    def _spectrum(self, logmel: Tensor) -> Tensor:
        """The normalised log-mel (b, mels, t-1)."""
        normalise = self.parts.stem[0]
        return normalise.run(with_differences(logmel), None, 0)[0][:, 0]


LocalFunction = Callable[[Tensor], Tensor]  # depends on at most HALO frames to either side


def _apply(prepared: Sequence[incremental.Step], x: Tensor) -> Tensor:
    mean = None
    for step in prepared:
        x, mean = step.run(x, mean, 0)
    return x


def _prepare(steps: list[Step], dtype: torch.dtype) -> list[incremental.Step]:
    """Functions that compute the steps of a part in eval mode."""
    prepared, local, local_reach = [], [], 0
    for before, step in zip([None, *steps], steps, strict=False):
        match step:
            case ContextAware() | SmallConv():
                prepared += [_in_pieces(local, local_reach)] if local else []
                local, local_reach = [], 0
                prepared.append(_context_aware(step, before) if isinstance(step, ContextAware) else _small_conv(step))
            case Norm(layer):
                local.append(_norm(layer))
            case FrequencyMap():
                local.append(_frequency_map(step, dtype))
            case CollapseKeys():
                local.append(_collapse_keys(step, dtype))
                local_reach += reach(step.conv)
            case Pointwise():
                local.append(_pointwise(step, dtype))
            case ToKeys(layer):
                local.append(layer)
            case Dropout():
                pass
    return prepared + ([_in_pieces(local, local_reach)] if local else [])


def _in_pieces(local: list[LocalFunction], frames: int) -> incremental.Step:
    """Apply all functions to one piece at a time, so that it stays in the cache; ``frames``: their total reach."""

    def run(x: Tensor, mean: Tensor | None, lead: int) -> tuple[Tensor, None]:
        t = x.shape[-1]
        pieces = []
        for begin in range(lead, t, PIECE):
            end, low = min(begin + PIECE, t), max(0, begin - HALO)
            piece = x[..., low : end + HALO]
            for local_function in local:
                piece = local_function(piece)
            pieces.append(piece[..., begin - low : end - low])
        return torch.cat(pieces, dim=-1), None

    return incremental.Step(run, frames)


def _bin_table(norm: SubSpectralNorm | nn.BatchNorm2d, channels: int) -> Tensor:
    """Scale and shift per channel and bin, (c, bins, 2); bins is 1 for a plain batch norm."""
    columns = [x.view(channels, -1) for x in affine(batch_norm_of(norm))]
    return torch.stack(columns, dim=2).contiguous()


def _context_aware(step: ContextAware, before: Step | None) -> incremental.Step:
    branches = tuple(step.branches)
    scale, shifts = (torch.cat(x) for x in zip(*map(affine, step.inner_norms), strict=True))
    weights = step.weights
    weights = [w * s[:, None, None, None] for w, s in zip(weights, scale.split(len(weights[0])), strict=True)]
    plan = sparse_conv.forward_plan(weights[0].shape[1], branches)
    packed, gates = sparse_conv.forward_weights(branches, weights), _gates(step.module.se.fc)
    scales, slope = _bin_table(step.norm, len(scale) // 2), step.slope

    def run(x: Tensor, mean: Tensor | None, lead: int) -> tuple[Tensor, Tensor]:
        mean = x.mean(dim=(2, 3)) if mean is None else mean
        bins = scales.expand(-1, x.shape[2], -1)
        return sparse_conv.convolve_and_finish(x, plan, packed, shifts, gates(mean), bins, slope, lead)

    prior = prior_mean(getattr(before, "norm", None), getattr(before, "slope", None), weights[0].shape[1])
    return incremental.Step(run, reach(step.module), prior)


def _gates(fc: nn.Module) -> Callable[[Tensor], Tensor]:
    """A module's gates (b, c_out) from its input's mean (b, c_in), without the cost of module calls if possible."""
    if [type(layer) for layer in (fc, *fc.children())] != [nn.Sequential, nn.Linear, nn.ReLU, nn.Linear, nn.Sigmoid]:
        return deepcopy(fc).eval()
    squeeze, _, excite, _ = deepcopy(fc)
    first, second = ((layer.weight, layer.bias) for layer in (squeeze, excite))
    return lambda mean: functional.linear(functional.linear(mean, *first).relu_(), *second).sigmoid_()


def _small_conv(step: SmallConv) -> incremental.Step:
    conv, slope, branches = step.conv, step.slope, tuple(step.branches)
    plan = sparse_conv.forward_plan(conv.in_channels, branches)
    packed = sparse_conv.forward_weights(branches, step.weights)
    scales, no_shifts = _bin_table(step.norm, conv.out_channels), torch.zeros(conv.out_channels)

    def run(x: Tensor, mean: Tensor | None, lead: int) -> tuple[Tensor, Tensor]:
        bins = scales.expand(-1, x.shape[2], -1)
        return sparse_conv.convolve_and_finish(x, plan, packed, no_shifts, None, bins, slope, lead)

    return incremental.Step(run, reach(conv))


def _frequency_map(step: FrequencyMap, dtype: torch.dtype) -> LocalFunction:
    scale, shift = affine(step.norm)
    weight, shift, slope = (step.weight * scale[:, None, None]).to(dtype), shift[:, None, None], step.slope
    return lambda x: functional.leaky_relu_((weight @ x.to(dtype)).float().add_(shift), slope)


def _norm(norm: SubSpectralNorm | nn.BatchNorm2d) -> LocalFunction:
    scale, shift = affine(batch_norm_of(norm))
    return lambda x: torch.addcmul(shift.view(x.shape[1], -1, 1), scale.view(x.shape[1], -1, 1), x)


def _pointwise(step: Pointwise, dtype: torch.dtype) -> LocalFunction:
    """A matrix product per frame: (b, c_in, 1, t) -> (b, c_out, 1, t)."""
    conv, slope = step.conv, step.slope
    is_last = step.norm is None
    scale, shift = (torch.ones(conv.out_channels), conv.bias.clone()) if is_last else affine(step.norm)
    weight, shift = (conv.weight.flatten(1) * scale[:, None]).to(dtype), shift[:, None]  # (c_out, c_in)

    def function(x: Tensor) -> Tensor:
        y = (weight @ x.flatten(2).to(dtype)).float().add_(shift).unflatten(2, x.shape[2:])
        return y if is_last else functional.leaky_relu_(y, slope)

    return function


def _collapse_keys(step: CollapseKeys, dtype: torch.dtype) -> LocalFunction:
    """(b, c, keys, t) -> (b, c_out, 1, t): a convolution along time with c * keys input channels."""
    scale, shift = affine(step.norm)
    taps, slope = step.conv.weight.flatten(1, 2) * scale[:, None, None], step.slope  # (c_out, c * keys, 3)
    weight, direct = transform_weight(taps).to(dtype), taps.permute(0, 2, 1).flatten(1).contiguous().to(dtype)

    def function(x: Tensor) -> Tensor:
        x = x.flatten(1, 2)
        if x.shape[-1] > FEW_FRAMES:
            return time_conv_leaky_relu(x, weight, shift, slope).unsqueeze(2)
        padded = functional.pad(x.mT, (0, 0, 1, 1)).contiguous()  # (b, t + 2, c * keys): faster than frames as columns
        neighbours = torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=2)
        y = functional.linear(neighbours.to(dtype), direct).float().mT.contiguous().add_(shift[:, None])
        return functional.leaky_relu_(y, slope).unsqueeze(2)

    return function
