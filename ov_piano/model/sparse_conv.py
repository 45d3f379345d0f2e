"""Several small dilated convolutions of one input at once, computed by ``sparse_conv.cpp``."""

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ov_piano.model.native import library

SOURCE = Path(__file__).with_suffix(".cpp")
OUTPUTS = (3, 4)  # channels of one convolution that the source has been written for


class Branch(NamedTuple):
    """A convolution's odd kernel size and its dilation, each (f, t)."""

    kernel: tuple[int, int]
    dilation: tuple[int, int]

    def taps(self) -> list[tuple[int, int]]:
        """The shifts (df, dt) that the kernel reads, in the order of its weights."""
        (kf, kt), (df, dt) = self.kernel, self.dilation
        return [((i - kf // 2) * df, (j - kt // 2) * dt) for i in range(kf) for j in range(kt)]


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("b", "channels", "f", "t", "f_halo", "t_halo")]


class _Terms(NamedTuple):
    """The tables that ``sparse_conv.cpp`` describes."""

    terms: Tensor  # (n, 3) int32: channel, df, dt
    begins: Tensor  # (blocks + 1,) int32
    halo: tuple[int, int]


def available() -> bool:
    """Whether the source could be compiled here."""
    return library(SOURCE) is not None


def sparse_conv(x: Tensor, branches: Sequence[Branch], weights: Sequence[Tensor]) -> Tensor:
    """The concatenated outputs of convolutions of ``x`` without bias that keep its size.

    :param x: (b, c_in, f, t) float32 on the CPU
    :param weights: one a branch, (c, c_in, *kernel) with the same c for all, 3 or 4; c divides c_in if
        gradients are wanted
    :returns: (b, branches * c, f, t)
    """
    return _SparseConv.apply(x, tuple(branches), *weights)


class _SparseConv(Function):
    @staticmethod
    def forward(ctx, x, branches, *weights):
        ctx.branches = branches
        ctx.save_for_backward(x, *weights)
        terms = _forward_terms(x.shape[1], branches)
        packed = torch.cat([w.permute(1, 2, 3, 0).reshape(-1, w.shape[0]) for w in weights])
        return _convolve(x, terms, packed)

    @staticmethod
    def backward(ctx, gradient):
        x, *weights = ctx.saved_tensors
        outputs, inputs = weights[0].shape[:2]
        packed = torch.cat([w.permute(0, 2, 3, 1).reshape(-1, inputs) for w in weights])
        packed = packed.reshape(-1, inputs // outputs, outputs).transpose(0, 1)
        x_gradient = _convolve(gradient, _backward_terms(inputs, outputs, ctx.branches), packed)
        packed_gradient = _correlate(x, gradient, _forward_terms(inputs, ctx.branches), outputs)
        pieces = packed_gradient.split([w[0].numel() for w in weights])
        weight_gradients = [
            piece.reshape(*w.shape[1:], outputs).permute(3, 0, 1, 2) for piece, w in zip(pieces, weights, strict=True)
        ]
        return x_gradient, None, *weight_gradients


@cache
def _forward_terms(inputs: int, branches: tuple[Branch, ...]) -> _Terms:
    """One block a branch; the terms of its output are its inputs x taps."""
    blocks = [[(channel, *tap) for channel in range(inputs) for tap in branch.taps()] for branch in branches]
    return _terms(blocks)


@cache
def _backward_terms(inputs: int, outputs: int, branches: tuple[Branch, ...]) -> _Terms:
    """One block for each ``outputs`` inputs; its terms are all branches' outputs x taps, mirrored."""
    block = [
        (outputs * i + o, -df, -dt)
        for i, branch in enumerate(branches)
        for o in range(outputs)
        for df, dt in branch.taps()
    ]
    return _terms([block] * (inputs // outputs))


def _terms(blocks: list[list[tuple[int, int, int]]]) -> _Terms:
    terms = torch.tensor([term for block in blocks for term in block], dtype=torch.int32)
    begins = torch.tensor([0, *(len(block) for block in blocks)]).cumsum(0).to(torch.int32)
    _, f_halo, t_halo = terms.abs().amax(dim=0).tolist()
    return _Terms(terms, begins, (f_halo, t_halo))


def _convolve(x: Tensor, terms: _Terms, weights: Tensor) -> Tensor:
    x, weights = x.contiguous(), weights.contiguous()
    b, c, f, t = x.shape
    blocks, outputs = len(terms.begins) - 1, weights.shape[-1]
    out = x.new_empty(b, blocks * outputs, f, t)
    shape = _Shape(b, c, f, t, *terms.halo)
    tensors = (x, out, weights, terms.terms, terms.begins)
    library(SOURCE).sparse_conv(*map(_pointer, tensors), blocks, outputs, ctypes.byref(shape))
    return out


def _correlate(x: Tensor, gradient: Tensor, terms: _Terms, outputs: int) -> Tensor:
    """The gradient of the weights, (n terms, outputs)."""
    x, gradient = x.contiguous(), gradient.contiguous()
    b, c, f, t = x.shape
    sums = x.new_zeros(len(terms.terms), outputs)
    shape = _Shape(b, c, f, t, *terms.halo)
    tensors = (x, gradient, sums, terms.terms, terms.begins)
    blocks = len(terms.begins) - 1
    library(SOURCE).sparse_conv_weight_gradient(*map(_pointer, tensors), blocks, outputs, ctypes.byref(shape))
    return sums


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
