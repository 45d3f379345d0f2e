"""The network published in 2023 (arXiv 2303.04485): three onset stages, half the parameters (3.1 million)."""

from torch import nn

from ov_piano.constants import KEYS, MELS_2023
from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.layers import SubSpectralNorm, cam_stage, init_weights, spectral_stem

STEM_CHANNELS = 16
STEM_CAMS = 3
STEM_KERNELS = [(3, 5)] * 4  # (mels, frames)
STEM_DILATIONS = [(1, d) for d in (1, 2, 3, 4)]
ONSET_STAGES = 3


class OnsetsAndVelocities(OnsetVelocityBase):
    """See `OnsetVelocityBase` for inputs and outputs.

    :param batch_norm: momentum of all batch norms, in PyTorch's sense (weight of the newest batch)
    :param init: draw the initial weights; False leaves PyTorch's, for a snapshot loaded right afterwards
    """

    def __init__(
        self,
        in_bins: int = MELS_2023,
        out_bins: int = KEYS,
        *,
        batch_norm: float = 0.95,
        leaky_relu_slope: float = 0.1,
        dropout: float = 0.15,
        init: bool = True,
    ):
        super().__init__(in_bins, STEM_CHANNELS, out_bins)
        c = STEM_CHANNELS
        branches = {"widths": (11, 11, 11), "dilations": (1, 2, 3), "head": (200, 200)}
        settings = {"keys": out_bins, "momentum": batch_norm, "slope": leaky_relu_slope, "dropout": dropout}
        self.specnorm = SubSpectralNorm(2, in_bins, batch_norm)
        self.stem = spectral_stem(
            c,
            cams=STEM_CAMS,
            kernels=STEM_KERNELS,
            dilations=STEM_DILATIONS,
            norm=lambda: nn.BatchNorm2d(c, momentum=batch_norm),
            bins=in_bins,
            keys=out_bins,
            momentum=batch_norm,
            slope=leaky_relu_slope,
        )
        self.onset_stages = nn.ModuleList(
            nn.Sequential(
                cam_stage(c, 4, cams=3, **branches, **settings),
                SubSpectralNorm(1, out_bins, batch_norm),
            )
            for _ in range(ONSET_STAGES)
        )
        self.velocity_stage = nn.Sequential(
            cam_stage(c + 1, 4, cams=1, **branches, **settings),
            SubSpectralNorm(1, out_bins, batch_norm),
        )
        if init:
            init_weights(self)
