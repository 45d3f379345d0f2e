"""Translate a network into steps that the kernels compute.

The kernels make many assumptions: kernel sizes, dilations, activations, norms … :func:`plan_network` checks all of
them and rejects what it does not recognise, so that a modified network runs in plain PyTorch rather than giving
wrong results.
"""

import logging
from collections import deque
from collections.abc import Sequence
from functools import cache

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.kernels import sparse_conv
from ov_piano.model.kernels.sparse_conv import Branch
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
from ov_piano.model.layers import (
    ChannelsToKeys,
    ContextAwareModule,
    FrequencyToKeys,
    SqueezeExcite,
    SubSpectralNorm,
    in_turn,
)

log = logging.getLogger(__name__)

CONTAINERS = (nn.Sequential, nn.ModuleList)
LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.LeakyReLU, nn.Dropout)
OUR_LAYERS = (ChannelsToKeys, ContextAwareModule, FrequencyToKeys, SqueezeExcite, SubSpectralNorm)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class UnsupportedNetworkError(Exception):
    """The network contains something that the kernels do not support."""


def supports(model: OnsetVelocityBase, *, training: bool = False) -> bool:
    """Whether the kernels support ``model``; if not, the reason is logged once.

    :param training: check for training (forward and backward pass) rather than for inference
    """
    try:
        plan_network(model, training=training)
    except UnsupportedNetworkError as reason:
        warn_once(str(reason))
        return False
    return True


@cache
def warn_once(reason: str) -> None:
    """Log why plain PyTorch is used."""
    log.warning("using plain PyTorch instead of the optimised kernels: %s", reason)


def plan_network(model: OnsetVelocityBase, *, training: bool = False) -> Plan:
    """Translate ``model`` into steps.

    :raises UnsupportedNetworkError: the kernels do not support ``model``
    """
    names = {module: name or type(model).__name__ for name, module in model.named_modules()}
    if model.end_stage is not None:  # not in steps: see `fast_ends.py`
        for module in model.end_stage.modules():
            names.pop(module)
    _check_modules(model, names, training)
    planner = _Planner(names)
    stem = planner.plan(nn.Sequential(model.specnorm, model.stem), channels=2, bins=model.in_bins)
    features, keys = planner.channels, planner.bins
    onset_stages = []
    for stage in model.onset_stages:
        onset_stages.append(planner.plan(stage, features, keys))
        planner.check_logits("onset stage", keys)
    velocity_stage = planner.plan(model.velocity_stage, features + 1, keys)
    planner.check_logits("velocity stage", keys)
    if planner.planned - names.keys():
        raise UnsupportedNetworkError("layers that are not registered as modules")
    for module, name in names.items():
        if module not in planner.planned and type(module) not in CONTAINERS and module is not model:
            raise UnsupportedNetworkError(f"{name}: not in the sequence of layers")
    return Plan(stem, onset_stages, velocity_stage)


def _check_modules(model: OnsetVelocityBase, names: dict[nn.Module, str], training: bool) -> None:
    """Check the assumptions about the network's class and about each module by itself."""
    for method in ("forward", "infer", "end_input", "_onsets", "__call__"):
        if getattr(type(model), method, None) is not getattr(OnsetVelocityBase, method):
            raise UnsupportedNetworkError(f"{type(model).__name__}.{method}: overridden")
    if torch_module._has_any_global_hook():
        raise UnsupportedNetworkError("global hooks of modules")
    gates = {inner for module in names if type(module) is SqueezeExcite for inner in module.fc.modules()}
    for module, name in names.items():
        if any(getattr(module, hooks) for hooks in HOOKS):
            raise UnsupportedNetworkError(f"{name}: has hooks")
        if "forward" in vars(module):
            raise UnsupportedNetworkError(f"{name}: forward has been replaced")
        if module is not model and module not in gates and type(module) not in (*CONTAINERS, *LAYERS, *OUR_LAYERS):
            raise UnsupportedNetworkError(f"{name}: unsupported layer {type(module).__name__}")
        if training and module.training is not model.training:
            raise UnsupportedNetworkError(f"{name}: not in training mode")
        if type(module) is nn.BatchNorm2d and (module.weight is None or module.running_mean is None):
            raise UnsupportedNetworkError(f"{name}: a batch norm without weights or running statistics")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type != "cpu" or (tensor.is_floating_point() and tensor.dtype != torch.float32):
            raise UnsupportedNetworkError(f"{name}: {tensor.dtype} on {tensor.device}, expected float32 on the CPU")


class _Planner:
    """Translates the layers of a part into steps and keeps track of the shape (b, channels, bins, t)."""

    def __init__(self, names: dict[nn.Module, str]):
        self.names = names
        self.planned: set[nn.Module] = set()
        self.channels = self.bins = 0

    def plan(self, part: nn.Module, channels: int, bins: int) -> list[Step]:
        self.channels, self.bins = channels, bins
        layers, steps = deque(in_turn(part)), []
        while layers:
            layer = layers.popleft()
            self.planned.add(layer)
            if type(layer) in (nn.BatchNorm2d, SubSpectralNorm):
                self._check_norm(layer)
                steps.append(Norm(layer))
            elif type(layer) is nn.Dropout:
                steps.append(Dropout(layer))
            elif type(layer) is ChannelsToKeys:
                self._expect(layer, self.bins == 1, "expected only where keys are channels")
                self.channels, self.bins = 1, self.channels
                steps.append(ToKeys(layer))
            elif type(layer) is ContextAwareModule:
                self._check_context_aware(layer)
                steps.append(ContextAware(layer, *self._norm_leaky_relu(layer, layers)))
            elif type(layer) is FrequencyToKeys:
                self._check_frequency_map(layer)
                steps.append(FrequencyMap(layer, *self._norm_leaky_relu(layer, layers)))
            elif type(layer) is nn.Conv2d:
                steps.append(self._conv(layer, layers))
            else:
                self._expect(layer, False, f"{type(layer).__name__} not supported at this place")
        return steps

    def check_logits(self, what: str, keys: int) -> None:
        if (self.channels, self.bins) != (1, keys):
            raise UnsupportedNetworkError(
                f"{what}: {self.channels} x {self.bins} outputs per frame, expected 1 x {keys}"
            )

    def _expect(self, layer: nn.Module, holds: bool, otherwise: str) -> None:
        if not holds:
            raise UnsupportedNetworkError(f"{self.names.get(layer, type(layer).__name__)}: {otherwise}")

    def _norm_leaky_relu(self, layer: nn.Module, layers: deque[nn.Module]) -> tuple[nn.Module, float]:
        """The norm after ``layer`` and the slope of the leaky ReLU after that."""
        norm, leaky_relu = (layers.popleft() if layers else None for _ in range(2))
        follow = type(norm) in (nn.BatchNorm2d, SubSpectralNorm) and type(leaky_relu) is nn.LeakyReLU
        self._expect(layer, follow, "expected a norm and a leaky ReLU after it")
        self._check_norm(norm)
        self.planned |= {norm, leaky_relu}
        return norm, leaky_relu.negative_slope

    def _check_norm(self, norm: nn.BatchNorm2d | SubSpectralNorm) -> None:
        if type(norm) is SubSpectralNorm:
            self._expect(
                norm, type(norm.bn) is nn.BatchNorm2d and len(norm._modules) == 1, "expected a batch norm in it"
            )
            self.planned.add(norm.bn)
        features = norm.bn.num_features if type(norm) is SubSpectralNorm else norm.num_features
        expected = self.channels * (self.bins if type(norm) is SubSpectralNorm else 1)
        self._expect(norm, features == expected, f"of {features} channels, expected {expected}")

    def _check_conv(
        self, conv: nn.Conv2d, kernel: tuple[int, int], padding: tuple[int, int], dilation=(1, 1), groups=1, bias=False
    ) -> None:
        """Check that the convolution has ``self.channels`` inputs and exactly these settings."""
        found = (conv.in_channels, conv.kernel_size, conv.padding, conv.dilation, conv.groups, conv.stride)
        expected = (self.channels, kernel, padding, dilation, groups, (1, 1))
        usual = conv.padding_mode == "zeros" and not conv.transposed and (conv.bias is not None) == bias
        self._expect(conv, found == expected and usual, f"unsupported convolution {conv}")

    def _check_branches(self, layer: nn.Module, branches: Sequence[Branch], channels: int) -> None:
        reason = sparse_conv.unsupported(self.channels, channels, branches)
        self._expect(layer, reason is None, str(reason))

    def _check_conv_norm_relu(self, layers: nn.Module, kernel: tuple[int, int], dilation: tuple[int, int]) -> int:
        """Check for a convolution with "same" padding, batch norm, ReLU; returns the number of output channels."""
        types = [type(layer) for layer in layers] if type(layers) is nn.Sequential else []
        self._expect(layers, types == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU], "expected convolution, batch norm, ReLU")
        conv, norm, _ = layers
        padding = tuple(d * (k // 2) for k, d in zip(kernel, dilation, strict=True))
        self._check_conv(conv, kernel, padding, dilation)
        self._expect(norm, norm.num_features == conv.out_channels, f"expected {conv.out_channels} channels")
        self.planned |= set(layers)
        return conv.out_channels

    def _check_context_aware(self, module: ContextAwareModule) -> None:
        expected = {"se", "hdcs", "skip"}
        self._expect(module, set(module._modules) == expected and type(module.se) is SqueezeExcite, "other parts")
        self._expect(module.se, set(module.se._modules) == {"fc"}, "other parts")
        self.planned |= {module.se, *module.se.fc.modules()}
        convs = [hdc[0] if type(hdc) is nn.Sequential and len(hdc) else hdc for hdc in module.hdcs]
        self._expect(module, len(convs) > 0 and all(type(conv) is nn.Conv2d for conv in convs), "expected convolutions")
        sizes = set()
        for hdc, conv in zip(module.hdcs, convs, strict=True):
            self._expect(conv, conv.dilation[0] == 1, f"dilation {conv.dilation}, expected 1 over frequency")
            sizes.add(self._check_conv_norm_relu(hdc, conv.kernel_size, conv.dilation))
        self._expect(module, len(sizes) == 1, "convolutions with different numbers of channels")
        (size,) = sizes
        outputs = self._check_conv_norm_relu(module.skip, (1, 1), (1, 1))
        self._expect(module, outputs == size * len(convs), f"{outputs} channels, expected {size * len(convs)}")
        norms = [norm for part in (*module.hdcs, module.skip) for norm in part if type(norm) is nn.BatchNorm2d]
        self._expect(module, len({norm.eps for norm in norms}) == 1, "batch norms with different eps")
        self._check_branches(module, ContextAware(module, norms[0], 0).branches, size)
        self.channels = outputs

    def _check_frequency_map(self, module: FrequencyToKeys) -> None:
        conv = module.conv
        self._expect(module, type(conv) is nn.Conv2d and set(module._modules) == {"conv"}, "other parts")
        self._check_conv(conv, (self.bins, 1), (0, 0), groups=self.channels)
        sizes = (self.channels, self.channels * module.keys)
        self._expect(module, (module.channels, conv.out_channels) == sizes, "other numbers of channels and keys")
        self.planned.add(conv)
        self.bins = module.keys

    def _conv(self, conv: nn.Conv2d, layers: deque[nn.Module]) -> Step:
        if self.bins == 1:
            is_last = conv.bias is not None
            self._check_conv(conv, (1, 1), (0, 0), bias=is_last)
            self.channels = conv.out_channels
            return Pointwise(conv, *((None, None) if is_last else self._norm_leaky_relu(conv, layers)))
        if conv.kernel_size == (self.bins, 3):
            self._check_conv(conv, (self.bins, 3), (0, 1))
            self.channels, self.bins = conv.out_channels, 1
            return CollapseKeys(conv, *self._norm_leaky_relu(conv, layers))
        kernel = conv.kernel_size
        self._check_conv(conv, kernel, (kernel[0] // 2, kernel[1] // 2))
        step = SmallConv(conv, None, 0)
        sizes = {len(weight) for weight in step.weights}
        self._expect(conv, len(sizes) == 1, f"{conv.out_channels} channels, expected a multiple of 3 or 4")
        self._check_branches(conv, step.branches, *sizes)
        self.channels = conv.out_channels
        return SmallConv(conv, *self._norm_leaky_relu(conv, layers))
