"""Several small convolutions of one input at once, dilated in time, computed by ``sparse_conv.cpp``."""

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ov_piano.model.kernels.native import library, pointer
from ov_piano.model.kernels.winograd import WEIGHT as ROWS_TO_POINTS

SOURCE = Path(__file__).with_suffix(".cpp")


class Branch(NamedTuple):
    """A convolution's kernel size, 1 or 3 rows and an odd number of frames, and its dilation in time."""

    rows: int
    frames: int
    dilation: int = 1

    def shifts(self) -> list[int]:
        """Frame offsets that the kernel reads, in the order of its weights."""
        return [(i - self.frames // 2) * self.dilation for i in range(self.frames)]

    def to_points(self, winograd: bool) -> Tensor:
        """(points, rows): the weights of each point as a combination of the kernel's rows."""
        if not winograd:
            return torch.ones(1, 1)
        return ROWS_TO_POINTS if self.rows == 3 else ROWS_TO_POINTS[:, 1:2]

    def points(self, winograd: bool) -> list[int]:
        """The points with nonzero weights."""
        return self.to_points(winograd).any(dim=1).nonzero().flatten().tolist()


POINTWISE = Branch(1, 1)
OUTPUTS = {False: (1, 2, 3, 4), True: (2, 4)}  # channels per block, without and with Winograd's points: see the source
MAX_HALO = 32  # frames, as in the source


class Plan(NamedTuple):
    """Tables of terms as ``sparse_conv.cpp`` describes them."""

    terms: Tensor  # (n, 3) int32: channel, point, shift
    begins: Tensor  # (blocks * points + 1,) int32
    blocks: int
    halo: int  # the largest shift
    winograd: bool


def available() -> bool:
    """Whether the kernel has been compiled."""
    return library(SOURCE) is not None


def unsupported(c_in: int, c: int, branches: Sequence[Branch]) -> str | None:
    """Why the source has no kernel for these convolutions or their gradients; None if it has one."""
    for branch in branches:
        if branch.rows not in (1, 3) or branch.frames % 2 == 0:
            return f"kernel ({branch.rows}, {branch.frames}), expected 1 or 3 rows and an odd number of frames"
        if max(branch.shifts()) > MAX_HALO:
            return f"kernel with a reach of {max(branch.shifts())} frames, expected at most {MAX_HALO}"
    outputs = OUTPUTS[is_winograd(branches)]
    for channels in (c, _block(c_in)):
        if channels not in outputs:
            sizes = " or ".join(map(str, outputs))
            return f"convolution with {c_in} inputs and {c} outputs, expected blocks of {sizes} channels"
    return None


def sparse_conv(x: Tensor, branches: Sequence[Branch], weights: Sequence[Tensor]) -> Tensor:
    """The concatenated outputs of several convolutions of ``x`` with "same" padding and no bias.

    :param x: (b, c_in, f, t) on the CPU
    :param weights: one per branch, (c, c_in, rows, frames) with the same c for all, 3 or 4
    :returns: (b, branches * c, f, t)
    """
    return _SparseConv.apply(x.float(), tuple(branches), *weights)


class _SparseConv(Function):
    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(ctx, x, branches, *weights):
        ctx.branches = branches
        ctx.save_for_backward(x, *weights)
        return convolve(x, forward_plan(x.shape[1], branches), forward_weights(branches, weights))

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def backward(ctx, gradient):
        x, *weights = ctx.saved_tensors
        c, c_in = weights[0].shape[:2]
        plan = backward_plan(c_in, c, ctx.branches)
        x_gradient = convolve(gradient, plan, backward_weights(ctx.branches, weights))
        sums = correlate(x, gradient, forward_plan(c_in, ctx.branches), c)
        return x_gradient, None, *unpack(sums, ctx.branches, weights)


def is_winograd(branches: Sequence[Branch]) -> bool:
    """Whether Winograd's algorithm computes four rows at once from six points."""
    return any(branch.rows == 3 for branch in branches)


@cache
def forward_plan(c_in: int, branches: tuple[Branch, ...]) -> Plan:
    """One block per branch; the terms of its outputs are inputs x shifts."""
    winograd = is_winograd(branches)
    sums = [
        [(c, point, shift) for c in range(c_in) for shift in branch.shifts()]
        if point in branch.points(winograd)
        else []
        for branch in branches
        for point in range(6 if winograd else 1)
    ]
    return _plan(sums, len(branches), winograd)


@cache
def backward_plan(c_in: int, c: int, branches: tuple[Branch, ...]) -> Plan:
    """A block is a few input channels; its terms are the outputs of all branches x mirrored shifts."""
    winograd = is_winograd(branches)
    sums = [
        [
            (c * i + o, point, -shift)
            for i, branch in enumerate(branches)
            if point in branch.points(winograd)
            for o in range(c)
            for shift in branch.shifts()
        ]
        for point in range(6 if winograd else 1)
    ]
    blocks = c_in // _block(c_in)
    return _plan(sums * blocks, blocks, winograd)


def _block(c_in: int) -> int:
    return next(size for size in (4, 3, 2, 1) if c_in % size == 0)


def _plan(sums: list[list[tuple[int, int, int]]], blocks: int, winograd: bool) -> Plan:
    terms = torch.tensor([term for terms in sums for term in terms], dtype=torch.int32)
    begins = torch.tensor([0, *(len(terms) for terms in sums)]).cumsum(0).to(torch.int32)
    return Plan(terms, begins, blocks, int(terms[:, 2].abs().max()), winograd)


def forward_weights(branches: Sequence[Branch], weights: Sequence[Tensor]) -> Tensor:
    """(terms, c) for :func:`forward_plan`."""
    winograd = is_winograd(branches)
    return torch.cat(
        [
            torch.einsum("pr,oirt->pito", branch.to_points(winograd)[branch.points(winograd)], weight).flatten(0, 2)
            for branch, weight in zip(branches, weights, strict=True)
        ]
    )


def unpack(sums: Tensor, branches: Sequence[Branch], weights: Sequence[Tensor]) -> list[Tensor]:
    """The transpose of :func:`forward_weights`: gradient of its result -> gradients of the weights."""
    winograd = is_winograd(branches)
    gradients, begin = [], 0
    for branch, weight in zip(branches, weights, strict=True):
        c, c_in, _, frames = weight.shape
        to_points = branch.to_points(winograd)[branch.points(winograd)]
        end = begin + len(to_points) * c_in * frames
        piece = sums[begin:end].reshape(len(to_points), c_in, frames, c)
        gradients.append(torch.einsum("pr,pito->oirt", to_points, piece))
        begin = end
    return gradients


def backward_weights(branches: Sequence[Branch], weights: Sequence[Tensor]) -> Tensor:
    """(blocks, terms of a block, inputs of a block) for :func:`backward_plan`."""
    winograd = is_winograd(branches)
    c_in = weights[0].shape[1]
    transformed = [
        torch.einsum("pr,oirt->poti", branch.to_points(winograd), weight.flip(2)).flatten(1, 2)
        for branch, weight in zip(branches, weights, strict=True)
    ]
    rows = torch.cat(
        [
            weight[point]
            for point in range(6 if winograd else 1)
            for branch, weight in zip(branches, transformed, strict=True)
            if point in branch.points(winograd)
        ]
    )  # (terms, c_in)
    return rows.unflatten(1, (-1, _block(c_in))).transpose(0, 1)


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("b", "channels", "f", "t", "halo", "lead")),
    ]


class _Plan(ctypes.Structure):
    _fields_ = [("terms", ctypes.c_void_p), ("begins", ctypes.c_void_p), ("blocks", ctypes.c_int)]


class _Epilogue(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("shifts", "gates", "scales")),
        ("slope", ctypes.c_float),
        ("sums", ctypes.c_void_p),
    ]


def convolve(x: Tensor, plan: Plan, weights: Tensor) -> Tensor:
    """Run ``plan`` with ``weights`` (..., channels of a block): (b, c_in, f, t) -> (b, c_out, f, t)."""
    x, weights = x.contiguous(), weights.contiguous()
    outputs = weights.shape[-1]
    out = x.new_empty(x.shape[0], plan.blocks * outputs, *x.shape[2:])
    _call_kernel("sparse_conv", plan, x, out, weights, outputs, None)
    return out


def convolve_and_finish(
    x: Tensor,
    plan: Plan,
    weights: Tensor,
    shifts: Tensor,
    gates: Tensor | None,
    scales: Tensor,
    slope: float,
    lead: int = 0,
) -> tuple[Tensor, Tensor]:
    """:func:`convolve`, then gates, norm and leaky ReLU; returns the output and its mean (b, c) over f and t.

    With gates, the first half of the convolution's channels is ``context``, the second ``skip``.

    :param shifts: (channels of the convolution,) to be added
    :param gates: (b, c) for ``z = relu(skip) + gates * relu(context)``, or None
    :param scales: (c, f, 2) for ``leaky_relu(scale * z + shift)``
    :param lead: frames at the start of ``x`` without output, context of the others
    """
    x, weights, shifts, scales = (tensor.contiguous() for tensor in (x, weights, shifts, scales))
    gates = None if gates is None else gates.contiguous()
    b, _, f, t = x.shape
    t -= lead
    out = x.new_empty(b, len(scales), f, t)
    sums = x.new_zeros(b, len(scales), f)
    pointers = (None if tensor is None else tensor.data_ptr() for tensor in (shifts, gates, scales))
    epilogue = ctypes.byref(_Epilogue(*pointers, slope, sums.data_ptr()))
    _call_kernel("sparse_conv", plan, x, out, weights, weights.shape[-1], epilogue)
    return out, sums.sum(dim=2) / (f * t)


def correlate(x: Tensor, gradient: Tensor, plan: Plan, outputs: int) -> Tensor:
    """The gradient of the weights, (terms, outputs)."""
    x, gradient = x.contiguous(), gradient.contiguous()
    sums = x.new_zeros(len(plan.terms), outputs)
    _call_kernel("sparse_conv_weight_gradient", plan, x, gradient, sums, outputs)
    return sums


def _call_kernel(function: str, plan: Plan, x: Tensor, y: Tensor, weights: Tensor, outputs: int, *more: object) -> None:
    """Call a kernel.

    :raises TypeError: a tensor that is not float32 on the CPU
    :raises RuntimeError: there is no kernel for these sizes; nothing was computed
    """
    for tensor in (x, y, weights):
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            raise TypeError(f"{function}: expected float32 on the CPU, found {tensor.dtype} on {tensor.device}")
    lead = x.shape[3] - y.shape[3]
    tensors = [_Tensor(x.data_ptr(), *x.shape, plan.halo, lead), _Tensor(y.data_ptr(), *y.shape, 0, 0)]
    tables = ctypes.byref(_Plan(plan.terms.data_ptr(), plan.begins.data_ptr(), plan.blocks))
    sizes = (outputs, int(plan.winograd))
    if getattr(library(SOURCE), function)(*map(ctypes.byref, tensors), pointer(weights), tables, *sizes, *more) != 0:
        kind = "with" if plan.winograd else "without"
        raise RuntimeError(
            f"{function}: no kernel for {outputs} outputs {kind} points and a halo of {plan.halo} frames"
        )
