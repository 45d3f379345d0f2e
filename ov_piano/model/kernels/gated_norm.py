"""Batch norm and leaky ReLU, optionally after the gated sum of a context-aware module, in ``gated_norm.cpp``.

For training only: uses batch statistics and updates the running ones.
"""

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function

from ov_piano.model.kernels.native import library

SOURCE = Path(__file__).with_suffix(".cpp")


class _Pass(IntEnum):
    SUMS_OF_Z, OUT, SUMS_OF_DU, SUMS_OF_DZ, GRADIENT = range(5)


class _Channel(IntEnum):
    """Columns of the channel table: ``struct Channel`` in the source."""

    SCALE, SHIFT, SKIP_SCALE, SKIP_SHIFT, GATE, MEAN_GRADIENT, P, Q, R, SKIP_P, SKIP_Q, SKIP_R = range(12)


class _Bin(IntEnum):
    """Columns of the bin table: ``struct Bin`` in the source."""

    SCALE, SHIFT, P, Q, R = range(5)


class _Maps(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("maps", "gradient", "channels", "bins", "out", "sums")),
        *((name, ctypes.c_int) for name in ("b", "c", "f", "t")),
        ("slope", ctypes.c_float),
    ]


class _Norm(NamedTuple):
    """A batch norm's statistics; shapes (channels,), or (c, f) with separate statistics per bin."""

    scale: Tensor  # weight / standard deviation
    shift: Tensor  # bias - mean * scale
    mean: Tensor
    inverse: Tensor  # 1 / standard deviation
    count: int

    @classmethod
    def of(cls, sums: Tensor, squares: Tensor, count: int, weight: Tensor, bias: Tensor, norms: Sequence) -> "_Norm":
        """From sums over the batch; updates the running statistics of ``norms``, which cover consecutive channels."""
        mean = sums.double() / count
        var = (squares.double() / count - mean.square()).clamp(min=0)
        inverse = (var + norms[0].eps).rsqrt()
        _update_running(norms, mean.flatten(), var.flatten() * (count / max(count - 1, 1)))
        scale = weight.view_as(mean) * inverse
        shift = bias.view_as(mean) - mean * scale
        return cls(*(x.float() for x in (scale, shift, mean, inverse)), count)

    def backward(self, sums: Tensor, products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From sums of the output's gradient and of its products with the input: the weight's gradient, and q and r
        of the input's gradient ``scale * gradient + q * input + r``."""
        weight = self.inverse * (products - self.mean * sums)
        q = -self.scale * self.inverse * weight / self.count
        return weight, q, -self.scale * sums / self.count - q * self.mean


def _update_running(norms: Sequence[nn.BatchNorm2d], mean: Tensor, var: Tensor) -> None:
    sizes = [norm.num_features for norm in norms]
    for norm, norm_mean, norm_var in zip(norms, mean.split(sizes), var.split(sizes), strict=True):
        norm.num_batches_tracked += 1
        cumulative = norm.momentum is None
        momentum = 1 / norm.num_batches_tracked.item() if cumulative else norm.momentum
        norm.running_mean.lerp_(norm_mean.float(), momentum)
        norm.running_var.lerp_(norm_var.float(), momentum)


def norm_leaky_relu(x: Tensor, norm: nn.BatchNorm2d, slope: float) -> tuple[Tensor, Tensor]:
    """``leaky_relu(norm(x))`` and its mean over f and t, (b, c), for x (b, c, f, t).

    :param norm: of c channels, or of c * f as in `SubSpectralNorm`
    """
    return _NormLeakyRelu.apply(x, norm.weight, norm.bias, norm, slope)


def gated_norm_leaky_relu(
    maps: Tensor, gates: Tensor, inner_norms: Sequence[nn.BatchNorm2d], norm: nn.BatchNorm2d, slope: float
) -> tuple[Tensor, Tensor]:
    """``leaky_relu(norm(relu(skip) + gates * relu(context)))`` and its mean over f and t, (b, c).

    :param maps: (b, 2 * c, f, t), context and skip before their norms
    :param gates: (b, c)
    :param inner_norms: norms of consecutive channels of ``maps``
    :param norm: over c channels, or c * f as in `SubSpectralNorm`
    """
    weight = torch.cat([inner.weight for inner in inner_norms])
    bias = torch.cat([inner.bias for inner in inner_norms])
    return _GatedNormLeakyRelu.apply(maps, gates, weight, bias, norm.weight, norm.bias, inner_norms, norm, slope)


class _NormLeakyRelu(Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx, x, weight, bias, norm, slope):
        x = x.contiguous()
        channels = _channel_table(x.shape[0], x.shape[1])
        out, mean, statistics = _normalise(x, channels, weight, bias, norm, slope, gated=False)
        ctx.save_for_backward(x, channels)
        ctx.statistics, ctx.slope = statistics, slope
        return out, mean

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, gradient, mean_gradient):
        x, channels = ctx.saved_tensors
        channels = channels.clone()
        channels[..., _Channel.MEAN_GRADIENT] = mean_gradient / x[0, 0].numel()
        gradient = gradient.contiguous()
        bins, weight, bias = _outer_backward(x, gradient, channels, ctx.statistics, ctx.slope, gated=False)
        x_gradient = torch.empty_like(x)
        _run_pass(_Pass.GRADIENT, x, channels, bins, ctx.slope, gradient=gradient, out=x_gradient, gated=False)
        return x_gradient, weight, bias, None, None


class _GatedNormLeakyRelu(Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx, maps, gates, inner_weight, inner_bias, weight, bias, inner_norms, norm, slope):
        maps = maps.contiguous()
        b, c = gates.shape
        sums = _run_pass(
            _Pass.SUMS_OF_Z, maps, _channel_table(b, 2 * c), _bin_table(2 * c, maps.shape[2]), slope, gated=False
        )
        sums, squares = sums.sum(dim=(0, 2), dtype=torch.double)[:, :2].T
        inner = _Norm.of(sums, squares, maps[:, 0].numel(), inner_weight, inner_bias, inner_norms)
        channels = _channel_table(b, c)
        channels[..., _Channel.SCALE], channels[..., _Channel.SKIP_SCALE] = inner.scale.chunk(2)
        channels[..., _Channel.SHIFT], channels[..., _Channel.SKIP_SHIFT] = inner.shift.chunk(2)
        channels[..., _Channel.GATE] = gates
        out, mean, statistics = _normalise(maps, channels, weight, bias, norm, slope, gated=True)
        ctx.save_for_backward(maps, channels)
        ctx.inner, ctx.statistics, ctx.slope = inner, statistics, slope
        return out, mean

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, gradient, mean_gradient):
        maps, channels = ctx.saved_tensors
        channels = channels.clone()
        gates = channels[..., _Channel.GATE]
        gradient = gradient.contiguous()
        channels[..., _Channel.MEAN_GRADIENT] = mean_gradient / maps[0, 0].numel()
        bins, weight, bias = _outer_backward(maps, gradient, channels, ctx.statistics, ctx.slope, gated=True)
        sums = _run_pass(_Pass.SUMS_OF_DZ, maps, channels, bins, ctx.slope, gradient=gradient).sum(dim=2)  # (b, c, 4)
        context, context_products, skip, skip_products = sums.unbind(dim=2)
        scale, shift = channels[..., _Channel.SCALE], channels[..., _Channel.SHIFT]
        gates_gradient = scale * context_products + shift * context
        inner_sums = torch.cat([(gates * context).sum(dim=0), skip.sum(dim=0)])
        inner_products = torch.cat([(gates * context_products).sum(dim=0), skip_products.sum(dim=0)])
        inner_weight, q, r = ctx.inner.backward(inner_sums, inner_products)
        channels[..., _Channel.P], channels[..., _Channel.SKIP_P] = scale * gates, channels[..., _Channel.SKIP_SCALE]
        channels[..., _Channel.Q], channels[..., _Channel.SKIP_Q] = q.chunk(2)
        channels[..., _Channel.R], channels[..., _Channel.SKIP_R] = r.chunk(2)
        maps_gradient = torch.empty_like(maps)
        _run_pass(_Pass.GRADIENT, maps, channels, bins, ctx.slope, gradient=gradient, out=maps_gradient)
        return maps_gradient, gates_gradient, inner_weight, inner_sums, weight, bias, None, None, None


def _normalise(maps, channels, weight, bias, norm, slope, gated) -> tuple[Tensor, Tensor, _Norm]:
    """Output after norm and leaky ReLU, its mean (b, c), and the norm's statistics."""
    b, c = channels.shape[:2]
    _, _, f, t = maps.shape
    sums = _run_pass(_Pass.SUMS_OF_Z, maps, channels, _bin_table(c, f), slope, gated=gated).sum(
        dim=0, dtype=torch.double
    )
    if norm.num_features == c:
        sums = sums.sum(dim=1)
    statistics = _Norm.of(sums[..., 0], sums[..., 1], b * c * f * t // norm.num_features, weight, bias, [norm])
    bins = _bin_table(c, f)
    bins[..., _Bin.SCALE], bins[..., _Bin.SHIFT] = _to_bins(statistics.scale), _to_bins(statistics.shift)
    out = maps.new_empty(b, c, f, t)
    out_sums = _run_pass(_Pass.OUT, maps, channels, bins, slope, out=out, gated=gated)
    return out, out_sums[..., 0].sum(dim=2) / (f * t), statistics


def _outer_backward(maps, gradient, channels, statistics, slope, gated) -> tuple[Tensor, Tensor, Tensor]:
    """The bin table for the gradient of the norm's input, and the gradients of its weight and bias."""
    bins = _bin_table(channels.shape[1], maps.shape[2])
    bins[..., _Bin.SCALE], bins[..., _Bin.SHIFT] = _to_bins(statistics.scale), _to_bins(statistics.shift)
    sums = _run_pass(_Pass.SUMS_OF_DU, maps, channels, bins, slope, gradient=gradient, gated=gated).sum(
        dim=0
    )  # (c, f, 4)
    if statistics.scale.ndim == 1:
        sums = sums.sum(dim=1)
    weight, q, r = statistics.backward(sums[..., 0], sums[..., 1])
    bins[..., _Bin.P], bins[..., _Bin.Q], bins[..., _Bin.R] = bins[..., _Bin.SCALE], _to_bins(q), _to_bins(r)
    return bins, weight.flatten(), sums[..., 0].flatten()


def _to_bins(per_norm: Tensor) -> Tensor:
    """(c,) -> (c, 1); (c, f) unchanged."""
    return per_norm if per_norm.ndim == 2 else per_norm[:, None]


def _channel_table(b: int, c: int) -> Tensor:
    return torch.zeros(b, c, len(_Channel))


def _bin_table(c: int, f: int) -> Tensor:
    return torch.zeros(c, f, len(_Bin))


def _run_pass(which, maps, channels, bins, slope, gradient=None, out=None, gated=True) -> Tensor:
    """Run one pass; returns the sums over time, (b, c, f, 4)."""
    b, c = channels.shape[:2]
    _, _, f, t = maps.shape
    sums = maps.new_empty(b, c, f, 4)
    tensors = (maps, gradient, channels, bins, out, sums)
    pointers = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
    if any(tensor is not None and tensor.dtype != torch.float32 for tensor in tensors):
        raise TypeError("gated_norm: expected float32")
    if library(SOURCE).gated_norm(ctypes.byref(_Maps(*pointers, b, c, f, t, slope)), int(which), int(gated)) != 0:
        raise RuntimeError(f"gated_norm: no such pass: {which}")
    return sums
