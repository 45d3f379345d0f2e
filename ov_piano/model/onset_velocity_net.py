"""The network: log-mel spectrogram -> onset and velocity logits for each key and frame."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ov_piano.constants import KEYS, MELS
from ov_piano.model.layers import ContextAwareModule, FrequencyToKeys, SubSpectralNorm, cam_stage, init_weights

STEM_CHANNELS = 20
STEM_CAMS = 3
STEM_KERNELS = [(3, 5)] * 5  # (mels, frames)
STEM_DILATIONS = [(1, d) for d in (1, 2, 3, 4, 5)]
REFINERS = 3


class OnsetVelocityNet(nn.Module):
    """Fully convolutional onset and velocity detector; the output has one frame less than the input.

    The names of the submodules are those of published snapshots.

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
        super().__init__()
        self.in_bins = in_bins
        self.onsets_frozen = False
        c = STEM_CHANNELS
        settings = {"keys": out_bins, "momentum": batch_norm, "slope": leaky_relu_slope, "dropout": dropout}
        self.specnorm = SubSpectralNorm(2, in_bins, batch_norm)
        self.stem = nn.Sequential(
            nn.Conv2d(2, c, 3, padding=1, bias=False),
            SubSpectralNorm(c, in_bins, batch_norm),
            nn.LeakyReLU(leaky_relu_slope, inplace=True),
            *(
                nn.Sequential(
                    ContextAwareModule(
                        c,
                        c // len(STEM_KERNELS),
                        kernels=STEM_KERNELS,
                        dilations=STEM_DILATIONS,
                        momentum=batch_norm,
                    ),
                    SubSpectralNorm(c, in_bins, batch_norm),
                    nn.LeakyReLU(leaky_relu_slope, inplace=True),
                )
                for _ in range(STEM_CAMS)
            ),
            FrequencyToKeys(c, in_bins, out_bins),
            nn.BatchNorm2d(c, momentum=batch_norm),
            nn.LeakyReLU(leaky_relu_slope, inplace=True),
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

    def forward(self, logmel: Tensor, trainable_onsets: bool = True) -> tuple[list[Tensor], Tensor]:
        """Logits of the frames 1... (the first is spent on the difference to the frame before).

        :param logmel: (b, mels, t) in dB, t at least 2
        :param trainable_onsets: False computes everything before the velocity stage without gradients;
            to train the velocity stage alone, call :meth:`freeze_onsets` once as well
        :returns: onset logits of the first stage and after each refinement, each (b, keys, t-1), and velocity
            logits (b, keys, t-1)
        :raises ValueError: unexpected shape
        """
        if logmel.ndim != 3 or logmel.shape[1] != self.in_bins or logmel.shape[2] < 2:
            raise ValueError(f"log-mel: expected shape (b, {self.in_bins}, 2 or more), found {tuple(logmel.shape)}")
        with nullcontext() if trainable_onsets else torch.no_grad():
            features, onset_stages = self._onsets(logmel)
        velocities = torch.cat([features, onset_stages[-1]], dim=1)  # (b, 21, keys, t-1)
        velocities = self.velocity_stage(velocities)  # (b, 1, keys, t-1)
        return [onsets.squeeze(1) for onsets in onset_stages], velocities.squeeze(1)

    def infer(self, logmel: Tensor) -> tuple[Tensor, Tensor]:
        """What detection needs: the last stage's onset logits and the velocity logits, both (b, keys, t-1)."""
        onset_stages, velocities = self(logmel)
        return onset_stages[-1], velocities

    def _onsets(self, logmel: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The stem's features (b, 20, keys, t-1) and each stage's onset logits (b, 1, keys, t-1)."""
        x = torch.stack([logmel[:, :, 1:], logmel.diff(dim=2)], dim=1)  # (b, 2, mels, t-1)
        x = self.specnorm(x)  # (b, 2, mels, t-1)
        features = self.stem(x)  # (b, 20, keys, t-1)
        onset_stages = [self.first_stage(features)]  # (b, 1, keys, t-1)
        for refine in self.refiner_stages:
            onset_stages.append(onset_stages[-1] + refine(features))  # (b, 1, keys, t-1)
        return features, onset_stages

    def freeze_onsets(self) -> None:
        """From now on only ``velocity_stage`` learns.

        Everything else has no gradients and stays in eval mode, also after ``train()``: neither its weights nor
        its batch-norm statistics change, and it has no dropout.
        """
        self.onsets_frozen = True
        self.requires_grad_(False)
        self.velocity_stage.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> "OnsetVelocityNet":
        """As ``nn.Module.train``, but frozen parts stay in eval mode (see :meth:`freeze_onsets`)."""
        super().train(mode)
        if self.onsets_frozen:
            for part in (self.specnorm, self.stem, self.first_stage, self.refiner_stages):
                part.eval()
        return self
