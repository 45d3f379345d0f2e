"""The steps that the kernels compute: layers of a network grouped by what runs in one go."""

from dataclasses import dataclass

from torch import Tensor, nn

from ov_piano.model.kernels.sparse_conv import POINTWISE, Branch
from ov_piano.model.layers import ChannelsToKeys, ContextAwareModule, FrequencyToKeys, SubSpectralNorm


@dataclass(frozen=True)
class Norm:
    """A norm without a leaky ReLU."""

    layer: nn.BatchNorm2d | SubSpectralNorm


@dataclass(frozen=True)
class Dropout:
    layer: nn.Dropout


@dataclass(frozen=True)
class ToKeys:
    layer: ChannelsToKeys


@dataclass(frozen=True)
class ContextAware:
    """A context-aware module, a norm, leaky ReLU."""

    module: ContextAwareModule
    norm: nn.BatchNorm2d | SubSpectralNorm
    slope: float

    @property
    def branches(self) -> list[Branch]:
        """One per dilated convolution, then the pointwise path split into as many blocks."""
        dilated = [Branch(*hdc[0].kernel_size, hdc[0].dilation[1]) for hdc in self.module.hdcs]
        return dilated + [POINTWISE] * len(dilated)

    @property
    def weights(self) -> list[Tensor]:
        """One a branch."""
        dilated = [hdc[0].weight for hdc in self.module.hdcs]
        return dilated + list(self.module.skip[0].weight.chunk(len(dilated)))

    @property
    def inner_norms(self) -> list[nn.BatchNorm2d]:
        """Norms of the dilated convolutions and of the pointwise path."""
        return [hdc[1] for hdc in self.module.hdcs] + [self.module.skip[1]]


@dataclass(frozen=True)
class SmallConv:
    """A convolution of few channels over frequency (or key) and time, a norm, leaky ReLU."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | SubSpectralNorm
    slope: float

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """One a branch."""
        return self.conv.weight.split(4 if self.conv.out_channels % 4 == 0 else 3)

    @property
    def branches(self) -> list[Branch]:
        return [Branch(*self.conv.kernel_size)] * len(self.weights)


@dataclass(frozen=True)
class FrequencyMap:
    """A linear map of the frequency axis per channel, a norm, leaky ReLU."""

    module: FrequencyToKeys
    norm: nn.BatchNorm2d
    slope: float

    @property
    def weight(self) -> Tensor:
        """(c, keys, bins)"""
        return self.module.conv.weight.reshape(self.module.channels, self.module.keys, -1)


@dataclass(frozen=True)
class CollapseKeys:
    """A convolution that spans all keys and three frames, a norm, leaky ReLU."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    slope: float


@dataclass(frozen=True)
class Pointwise:
    """A 1 x 1 convolution of one row, followed by a norm and leaky ReLU or with a bias."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None
    slope: float | None


Step = Norm | Dropout | ToKeys | ContextAware | SmallConv | FrequencyMap | CollapseKeys | Pointwise


@dataclass(frozen=True)
class Plan:
    """The steps of each part of a network."""

    stem: list[Step]  # including specnorm
    onset_stages: list[list[Step]]
    velocity_stage: list[Step]
