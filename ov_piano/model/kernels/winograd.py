"""Three-tap convolution along time with half the multiplications: Winograd's F(4, 3) (arXiv 1509.09308).

The four outputs of a tile are linear combinations of six products ("points"), each of a linear combination of its
six inputs and one of the three weights. Summed over input channels, these are six matrix products. ``winograd.cpp``
computes the combinations of inputs and outputs.
"""

import ctypes
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import Function

from ov_piano.model.kernels.native import library, pointer

SOURCE = Path(__file__).with_suffix(".cpp")
POINTS, TILE = 6, 4
WEIGHT = torch.tensor(  # (points, weights)
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("b", "c", "t")]


def available() -> bool:
    """Whether the kernel has been compiled."""
    return library(SOURCE) is not None


def transform_weight(weight: Tensor) -> Tensor:
    """Weights (c_out, c_in, 3) -> points (6, c_out, c_in) for :func:`time_conv`."""
    return (WEIGHT @ weight.reshape(-1, 3).T).reshape(POINTS, *weight.shape[:2])


def time_conv(x: Tensor, weight_points: Tensor) -> Tensor:
    """``conv1d`` with kernel 3 and padding 1: x (b, c_in, t) float32 on the CPU -> (b, c_out, t).

    :param weight_points: (6, c_out, c_in) from :func:`transform_weight`
    """
    return _TimeConv.apply(x, weight_points)


def time_conv_leaky_relu(x: Tensor, weight_points: Tensor, shift: Tensor, slope: float) -> Tensor:
    """``leaky_relu(time_conv(x, weight_points) + shift)`` without gradients, shift (c_out,).

    The matrix products use the dtype of ``weight_points``.
    """
    points = _points("inputs_to_points", x).to(weight_points.dtype)
    return _outputs((weight_points @ points).float(), x, shift.contiguous(), slope)


class _TimeConv(Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx, x, weight_points):
        points = _points("inputs_to_points", x)
        ctx.save_for_backward(points, weight_points)
        ctx.shape = x.shape
        return _outputs(weight_points @ points, x, None, 1.0)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, gradient):
        points, weight_points = ctx.saved_tensors
        gradient_points = _points("outputs_to_points", gradient)
        weight_gradient = gradient_points @ points.transpose(1, 2)
        points_gradient = weight_points.transpose(1, 2) @ gradient_points
        x_gradient = gradient.new_empty(ctx.shape)
        shape = ctypes.byref(_Shape(*ctx.shape))
        library(SOURCE).points_to_inputs(pointer(points_gradient.contiguous()), pointer(x_gradient), shape)
        return x_gradient, weight_gradient


def _points(function: str, x: Tensor) -> Tensor:
    """(b, c, t) -> (6, c, b * tiles)"""
    x = x.contiguous()
    b, c, t = x.shape
    points = x.new_empty(POINTS, c, b * -(-t // TILE))
    getattr(library(SOURCE), function)(pointer(x), pointer(points), ctypes.byref(_Shape(b, c, t)))
    return points


def _outputs(points: Tensor, x: Tensor, shift: Tensor | None, slope: float) -> Tensor:
    """(6, c_out, b * tiles) -> (b, c_out, t) for x (b, c_in, t)"""
    shape = _Shape(x.shape[0], points.shape[1], x.shape[2])
    out = x.new_empty(shape.b, shape.c, shape.t)
    shifts = None if shift is None else pointer(shift)
    tensors = (pointer(points.contiguous()), pointer(out), shifts)
    library(SOURCE).points_to_outputs(*tensors, ctypes.c_float(slope), ctypes.byref(shape))
    return out
