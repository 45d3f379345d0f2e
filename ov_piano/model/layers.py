"""Building blocks of the networks. Axes: ``(b, channels, frequency or key, time)``."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class SubSpectralNorm(nn.Module):
    """Batch normalisation with separate statistics for each channel and frequency bin.

    Sub-spectral normalisation (arXiv 2103.13620) with one band per bin. Shapes ``(b, c, f, t)`` in and out.
    """

    def __init__(self, channels: int, bins: int, momentum: float):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels * bins, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        b, c, f, t = x.shape
        x = x.reshape(b, c * f, 1, t)
        return self.bn(x).reshape(b, c, f, t)


def batch_norm_of(norm: SubSpectralNorm | nn.BatchNorm2d) -> nn.BatchNorm2d:
    """The batch norm that holds the statistics of ``norm``."""
    return norm.bn if isinstance(norm, SubSpectralNorm) else norm


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The norm in eval mode as a scale and shift per channel."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


class SqueezeExcite(nn.Module):
    """One gate in 0..1 per output channel, computed from the input's mean over frequency and time.

    ``(b, c_in, f, t)`` -> ``(b, c_out, 1, 1)``. Because of the mean over time, the network's output for each
    frame depends on the whole input.
    """

    def __init__(self, in_channels: int, bottleneck: int, out_channels: int):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(in_channels, bottleneck),
            nn.ReLU(inplace=True),
            nn.Linear(bottleneck, out_channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        gates = self.fc(x.mean(dim=(2, 3)))  # (b, c_out)
        return gates[:, :, None, None]


class ContextAwareModule(nn.Module):
    """Parallel dilated convolutions, gated by the input's mean, plus a pointwise path (arXiv 1910.12223).

    ``(b, in_channels, f, t)`` -> ``(b, n * channels, f, t)`` for n kernels; padding keeps f and t.

    :param channels: output channels of each dilated convolution
    :param kernels: n odd kernel sizes (f, t)
    :param dilations: n dilations (f, t)
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        kernels: Sequence[tuple[int, int]],
        dilations: Sequence[tuple[int, int]],
        momentum: float,
        bottleneck: int = 8,
    ):
        super().__init__()
        out_channels = channels * len(kernels)
        self.se = SqueezeExcite(in_channels, bottleneck, out_channels)
        self.hdcs = nn.ModuleList(
            conv_bn_relu(in_channels, channels, kernel, dilation, momentum)
            for kernel, dilation in zip(kernels, dilations, strict=True)
        )
        self.skip = conv_bn_relu(in_channels, out_channels, (1, 1), (1, 1), momentum)

    def forward(self, x: Tensor) -> Tensor:
        context = torch.cat([hdc(x) for hdc in self.hdcs], dim=1)  # (b, n * channels, f, t)
        return torch.addcmul(self.skip(x), self.se(x), context)


class FrequencyToKeys(nn.Module):
    """A linear map of the frequency axis per channel: ``(b, c, bins, t)`` -> ``(b, c, keys, t)``."""

    def __init__(self, channels: int, bins: int, keys: int):
        super().__init__()
        self.channels, self.keys = channels, keys
        self.conv = nn.Conv2d(channels, channels * keys, (bins, 1), groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)  # (b, c * keys, 1, t)
        return x.reshape(x.shape[0], self.channels, self.keys, x.shape[3])


class ChannelsToKeys(nn.Module):
    """``(b, keys, 1, t)`` -> ``(b, 1, keys, t)``: turn the head's channels into the key axis."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 1, 3)


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel: tuple[int, int], dilation: tuple[int, int], momentum: float
) -> nn.Sequential:
    """Convolution with "same" padding, batch norm, ReLU."""
    padding = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels, momentum=momentum),
        nn.ReLU(inplace=True),
    )


def conv1x1_head(widths: Sequence[int], momentum: float, slope: float, dropout: float) -> nn.Sequential:
    """An MLP over the channels of each frame, ``widths[0]`` -> ... -> ``widths[-1]`` logits."""
    layers = []
    for in_channels, out_channels in pairwise(widths[:-1]):
        layers += [
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels, momentum=momentum),
            nn.LeakyReLU(slope, inplace=True),
            nn.Dropout(dropout),
        ]
    return nn.Sequential(*layers, nn.Conv2d(widths[-2], widths[-1], 1))


def spectral_stem(
    channels: int,
    *,
    cams: int,
    kernels: Sequence[tuple[int, int]],
    dilations: Sequence[tuple[int, int]],
    norm: Callable[[], nn.Module],
    bins: int,
    keys: int,
    momentum: float,
    slope: float,
) -> nn.Sequential:
    """Context-aware modules, then `FrequencyToKeys`: ``(b, 2, bins, t)`` -> ``(b, channels, keys, t)``.

    :param channels: a multiple of the number of kernels
    :param cams: number of context-aware modules in sequence
    :param kernels: kernel size (bins, frames) of each dilated convolution
    :param dilations: dilation (bins, frames) of each dilated convolution
    :param norm: creates a norm over ``(b, channels, bins, t)``
    """
    return nn.Sequential(
        nn.Conv2d(2, channels, 3, padding=1, bias=False),
        norm(),
        nn.LeakyReLU(slope, inplace=True),
        *(
            nn.Sequential(
                ContextAwareModule(
                    channels, channels // len(kernels), kernels=kernels, dilations=dilations, momentum=momentum
                ),
                norm(),
                nn.LeakyReLU(slope, inplace=True),
            )
            for _ in range(cams)
        ),
        FrequencyToKeys(channels, bins, keys),
        nn.BatchNorm2d(channels, momentum=momentum),
        nn.LeakyReLU(slope, inplace=True),
    )


def cam_stage(
    in_channels: int,
    channels: int,
    *,
    cams: int,
    widths: Sequence[int],
    dilations: Sequence[int],
    head: Sequence[int],
    keys: int,
    momentum: float,
    slope: float,
    dropout: float,
) -> nn.Sequential:
    """Context-aware modules along time, then a head over all keys: ``(b, c, keys, t)`` -> ``(b, 1, keys, t)``.

    :param channels: output channels of each dilated convolution; a module has ``len(widths)`` times as many
    :param cams: number of context-aware modules in sequence
    :param widths: kernel width in frames of each dilated convolution
    :param dilations: dilation in frames of each dilated convolution
    :param head: channels of the head's hidden layers
    """
    inner = channels * len(widths)
    kernels = [(1, width) for width in widths]
    time_dilations = [(1, dilation) for dilation in dilations]
    return nn.Sequential(
        nn.Conv2d(in_channels, inner, 1, bias=False),
        nn.BatchNorm2d(inner, momentum=momentum),
        nn.LeakyReLU(slope, inplace=True),
        *(
            nn.Sequential(
                ContextAwareModule(inner, channels, kernels=kernels, dilations=time_dilations, momentum=momentum),
                nn.BatchNorm2d(inner, momentum=momentum),
                nn.LeakyReLU(slope, inplace=True),
            )
            for _ in range(cams)
        ),
        nn.Conv2d(inner, head[0], (keys, 3), padding=(0, 1), bias=False),  # (b, head[0], 1, t)
        nn.BatchNorm2d(head[0], momentum=momentum),
        nn.LeakyReLU(slope, inplace=True),
        conv1x1_head((*head, keys), momentum, slope, dropout),  # (b, keys, 1, t)
        ChannelsToKeys(),
    )


def in_turn(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of nested ``nn.Sequential``s, in the order of application."""
    if isinstance(module, nn.Sequential):
        for layer in module:
            yield from in_turn(layer)
    else:
        yield module


def init_weights(module: nn.Module) -> None:
    """Kaiming-normal weights and zero biases; the gates of context-aware modules start open (biases 1)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in module.modules():
        if isinstance(layer, SqueezeExcite):
            for name, parameter in layer.named_parameters():
                if name.endswith("bias"):
                    nn.init.ones_(parameter)
