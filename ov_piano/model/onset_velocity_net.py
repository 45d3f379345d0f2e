"""The network published in 2022: four onset stages, sub-spectral norms in the stem, 6.3 million parameters."""

from collections.abc import Sequence

from torch import nn

from ov_piano.constants import KEYS, MELS
from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.layers import SubSpectralNorm, cam_stage, init_weights, spectral_stem

STEM_CHANNELS = 20
STEM_CAMS = 3
STEM_KERNELS = [(3, 5)] * 5  # (mels, frames)
STEM_DILATIONS = [(1, d) for d in (1, 2, 3, 4, 5)]
REFINERS = 3


class OnsetVelocityNet(OnsetVelocityBase):
    """See `OnsetVelocityBase` for inputs and outputs.

    :param batch_norm: momentum of all batch norms, in PyTorch's sense (weight of the newest batch)
    :param init: draw the initial weights; False leaves PyTorch's, for a snapshot loaded right afterwards
    """

    def __init__(
        self,
        in_bins: int = MELS,
        out_bins: int = KEYS,
        *,
        batch_norm: float = 0.85,
        leaky_relu_slope: float = 0.1,
        dropout: float = 0.15,
        init: bool = True,
    ):
        super().__init__(in_bins, STEM_CHANNELS, out_bins)
        c = STEM_CHANNELS
        settings = {"keys": out_bins, "momentum": batch_norm, "slope": leaky_relu_slope, "dropout": dropout}
        self.specnorm = SubSpectralNorm(2, in_bins, batch_norm)
        self.stem = spectral_stem(
            c,
            cams=STEM_CAMS,
            kernels=STEM_KERNELS,
            dilations=STEM_DILATIONS,
            norm=lambda: SubSpectralNorm(c, in_bins, batch_norm),
            bins=in_bins,
            keys=out_bins,
            momentum=batch_norm,
            slope=leaky_relu_slope,
        )
        self.first_stage = cam_stage(
            c, 4, cams=3, widths=(21, 17, 13, 9), dilations=(1, 2, 3, 4), head=(400, 200, 100), **settings
        )
        self.refiner_stages = nn.ModuleList(
            cam_stage(c, 3, cams=2, widths=(9, 7, 5), dilations=(1, 2, 3), head=(400, 200, 100), **settings)
            for _ in range(REFINERS)
        )
        self.velocity_stage = nn.Sequential(
            SubSpectralNorm(c + 1, out_bins, batch_norm),
            cam_stage(c + 1, 4, cams=1, widths=(3, 3, 3, 3), dilations=(1, 2, 3, 4), head=(176, 88), **settings),
            SubSpectralNorm(1, out_bins, batch_norm),
        )
        if init:
            init_weights(self)

    @property
    def onset_stages(self) -> Sequence[nn.Module]:
        return [self.first_stage, *self.refiner_stages]
