"""Fast training on the CPU: a forward pass with the same parameters, statistics and gradients.

:func:`fast_forward` runs the network with optimised kernels where PyTorch's operators are slow. If the C++ sources
cannot be compiled, and for networks that the kernels do not support, it is the plain forward pass.
"""

import copy
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ov_piano.model.base import OnsetVelocityBase, with_differences
from ov_piano.model.kernels import gated_norm, sparse_conv, winograd
from ov_piano.model.kernels.native import library
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
from ov_piano.model.kernels.winograd import time_conv, transform_weight
from ov_piano.model.layers import batch_norm_of

CHECKED_FRAMES = 10
LARGEST_ERRORS = (1e-3, 0.2)  # relative, of logits and gradients; gradients jump where a ReLU's input is near zero

_checked: WeakKeyDictionary[OnsetVelocityBase, bool] = WeakKeyDictionary()


def fast_forward(model: OnsetVelocityBase, logmel: Tensor) -> tuple[list[Tensor], Tensor]:
    """Same as ``model(logmel)``: (b, mels, t) in dB -> onset logits per stage and velocity logits (b, keys, t-1)."""
    plan = _plan(model, logmel)
    return model(logmel) if plan is None else _forward(plan, logmel)


def _plan(model: OnsetVelocityBase, logmel: Tensor) -> Plan | None:
    """The plan for the kernels; None: use the plain forward pass."""
    if logmel.device.type != "cpu" or not model.training or model.onsets_frozen:
        return None
    usual_input = logmel.ndim == 3 and logmel.shape[1] == model.in_bins and logmel.dtype == torch.float32
    several_values = usual_input and len(logmel) * (logmel.shape[2] - 1) > 1  # batch norms need two per channel
    if not (
        several_values and all(library(kernel.SOURCE) is not None for kernel in (sparse_conv, gated_norm, winograd))
    ):
        return None
    try:
        plan = plan_network(model, training=True)  # at every step (milliseconds), since layers may have changed
    except UnsupportedNetworkError as reason:
        warn_once(str(reason))
        return None
    if model not in _checked:
        _checked[model] = _is_equal(model)
    return plan if _checked[model] else None


def _is_equal(model: OnsetVelocityBase) -> bool:
    """Compare both passes on random input, which detects modified layers and miscompiled kernels."""
    generator = torch.Generator().manual_seed(0)
    logmel = torch.randn(1, model.in_bins, CHECKED_FRAMES, generator=generator) * 20 - 40
    results = []
    for fast in (False, True):
        copied = copy.deepcopy(model).requires_grad_(True)
        for layer in copied.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        with torch.enable_grad(), torch.autocast("cpu", enabled=False):
            forward = _forward(plan_network(copied, training=True), logmel) if fast else copied(logmel)
            logits = torch.stack([*forward[0], forward[1]])
            parameters = list(copied.parameters())
            parts = torch.autograd.grad((logits - 1).square().mean(), parameters, materialize_grads=True)
        results.append((logits.detach(), torch.cat([part.flatten() for part in parts])))
    for found, expected, largest in zip(*reversed(results), LARGEST_ERRORS, strict=True):
        if not (found - expected).norm() <= largest * expected.norm():
            warn_once("logits or gradients for random input differ between kernels and network")
            return False
    return True


def _forward(plan: Plan, logmel: Tensor) -> tuple[list[Tensor], Tensor]:
    x = with_differences(logmel)  # (b, 2, mels, t-1)
    features = _apply(plan.stem, x)  # (b, c, keys, t-1)
    first, *refiners = plan.onset_stages
    onset_stages = [_apply(first, features)]  # (b, 1, keys, t-1)
    for refine in refiners:
        onset_stages.append(onset_stages[-1] + _apply(refine, features))
    velocities = _apply(plan.velocity_stage, torch.cat([features, onset_stages[-1]], dim=1))
    return [onsets.squeeze(1) for onsets in onset_stages], velocities.squeeze(1)


def _apply(steps: list[Step], x: Tensor) -> Tensor:
    mean = None  # mean of x over f and t, if known
    for step in steps:
        match step:
            case Norm(layer) | Dropout(layer) | ToKeys(layer):
                x, mean = layer(x), None
            case ContextAware():
                x, mean = _context_aware(step, x, x.mean(dim=(2, 3)) if mean is None else mean)
            case SmallConv(_, norm, slope):
                y = sparse_conv.sparse_conv(x, step.branches, step.weights)
                x, mean = gated_norm.norm_leaky_relu(y, batch_norm_of(norm), slope)
            case FrequencyMap(_, norm, slope):
                x, mean = gated_norm.norm_leaky_relu(step.weight @ x, batch_norm_of(norm), slope)
            case CollapseKeys(conv, norm, slope):
                x, mean = gated_norm.norm_leaky_relu(_collapse_keys(conv, x), batch_norm_of(norm), slope)
            case Pointwise(conv, None):
                x, mean = conv(x), None
            case Pointwise(conv, norm, slope):
                x, mean = gated_norm.norm_leaky_relu(conv(x), batch_norm_of(norm), slope)
    return x


def _context_aware(step: ContextAware, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """One kernel for all convolutions, one for norms, gates and activation."""
    maps = sparse_conv.sparse_conv(x, step.branches, step.weights)  # (b, 2 * n * channels, f, t)
    gates = step.module.se.fc(mean)  # (b, n * channels)
    return gated_norm.gated_norm_leaky_relu(maps, gates, step.inner_norms, batch_norm_of(step.norm), step.slope)


def _collapse_keys(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """(b, c, keys, t) -> (b, c_out, 1, t): a convolution along time with c * keys input channels."""
    return time_conv(x.flatten(1, 2), transform_weight(conv.weight.flatten(1, 2))).unsqueeze(2)
