"""Convolution along time with three taps by half the multiplications: Winograd's F(4, 3) (arXiv 1509.09308).

Four outputs of a tile come from six products of linear combinations of its six inputs and of the three weights.
Summed over many input channels, the products become six matrix products.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

TILE, SPAN = 4, 6  # outputs, inputs
INPUT = torch.tensor(  # (products, inputs)
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float32,
)
WEIGHT = (
    torch.tensor(  # (products, weights)
        [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float32
    )
    / torch.tensor([24, 24, 24, 24, 24, 24])[:, None]
)
OUTPUT = torch.tensor(  # (outputs, products)
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float32
)


def transform_weight(weight: Tensor) -> Tensor:
    """Weights (c_out, c_in, 3) -> (6, c_out, c_in) for :func:`time_conv`."""
    c_out, c_in, _ = weight.shape
    return (WEIGHT @ weight.reshape(-1, 3).T).reshape(SPAN, c_out, c_in)


def time_conv(x: Tensor, transformed: Tensor) -> Tensor:
    """``conv1d`` with kernel 3 and padding 1: x (b, c_in, t), weight by :func:`transform_weight` -> (b, c_out, t)."""
    return _TimeConv.apply(x, transformed)


class _TimeConv(Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx, x, transformed):
        t = x.shape[2]
        inputs = _combine(INPUT, _tiles(x))  # (6, c_in, b * tiles)
        ctx.save_for_backward(inputs, transformed)
        ctx.shape = x.shape
        outputs = _combine(OUTPUT, transformed @ inputs)  # (4, c_out, b * tiles)
        return outputs.reshape(TILE, len(outputs[0]), len(x), -1).permute(2, 1, 3, 0).flatten(2)[:, :, :t]

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, gradient):
        inputs, transformed = ctx.saved_tensors
        b, _, t = ctx.shape
        padding = -t % TILE
        gradient = functional.pad(gradient, (0, padding)).unflatten(2, (-1, TILE))  # (b, c_out, tiles, 4)
        gradient = gradient.permute(3, 1, 0, 2).flatten(2)  # (4, c_out, b * tiles)
        gradient = _combine(OUTPUT.T, gradient)  # (6, c_out, b * tiles)
        weight_gradient = gradient @ inputs.transpose(1, 2)
        gradient = _combine(INPUT.T, transformed.transpose(1, 2) @ gradient)  # (6, c_in, b * tiles)
        return _overlap_add(gradient.unflatten(2, (b, -1)), t), weight_gradient


def _combine(matrix: Tensor, x: Tensor) -> Tensor:
    """Linear combinations along the first axis."""
    return (matrix @ x.flatten(1)).reshape(len(matrix), *x.shape[1:])


def _tiles(x: Tensor) -> Tensor:
    """x (b, c, t) -> (6, c, b * tiles): tile i holds the frames 4 i - 1 ... 4 i + 4."""
    padding = -x.shape[2] % TILE
    tiles = functional.pad(x, (1, padding + 1)).unfold(2, SPAN, TILE)  # (b, c, tiles, 6)
    return tiles.permute(3, 1, 0, 2).flatten(2)


def _overlap_add(tiles: Tensor, t: int) -> Tensor:
    """The transpose of :func:`_tiles`: (6, c, b, tiles) -> (b, c, t)."""
    _, c, b, n = tiles.shape
    x = tiles.new_zeros(b, c, n + 1, TILE)
    x[:, :, :n] = tiles[:TILE].permute(2, 1, 3, 0)
    x[:, :, 1:, : SPAN - TILE] += tiles[TILE:].permute(2, 1, 3, 0)
    return x.flatten(2)[:, :, 1 : t + 1].contiguous()
