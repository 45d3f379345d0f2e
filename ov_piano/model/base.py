"""What the networks have in common: how a log-mel passes through their parts, and how part of them is frozen."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn


def check_logmel(logmel: Tensor, bins: int) -> None:
    """:raises ValueError: not of shape (b, ``bins``, t) with two frames or more"""
    if logmel.ndim != 3 or logmel.shape[1] != bins or logmel.shape[2] < 2:
        raise ValueError(f"log-mel: expected shape (b, {bins}, 2 or more), found {tuple(logmel.shape)}")


class OnsetVelocityBase(nn.Module):
    """Fully convolutional onset and velocity detector; the output has one frame less than the input.

    A subclass declares four parts, whose names in the state dict are those of published snapshots:

    - ``specnorm``: frames and their differences (b, 2, mels, t-1) -> the same, normalised
    - ``stem``: -> features (b, c, keys, t-1)
    - ``onset_stages``: features -> (b, 1, keys, t-1) each; the first gives logits, the others add to them
    - ``velocity_stage``: features and the last onset logits (b, c+1, keys, t-1) -> logits (b, 1, keys, t-1)
    """

    specnorm: nn.Module
    stem: nn.Module
    onset_stages: Sequence[nn.Module]
    velocity_stage: nn.Module

    def __init__(self, in_bins: int):
        super().__init__()
        self.in_bins = in_bins
        self.onsets_frozen = False

    def forward(self, logmel: Tensor, trainable_onsets: bool = True) -> tuple[list[Tensor], Tensor]:
        """Logits of the frames 1... (the first is spent on the difference to the frame before).

        :param logmel: (b, mels, t) in dB, t at least 2
        :param trainable_onsets: False computes everything before the velocity stage without gradients;
            to train the velocity stage alone, call :meth:`freeze_onsets` once as well
        :returns: onset logits of the first stage and after each refinement, each (b, keys, t-1), and velocity
            logits (b, keys, t-1)
        :raises ValueError: unexpected shape
        """
        check_logmel(logmel, self.in_bins)
        with nullcontext() if trainable_onsets else torch.no_grad():
            features, onset_stages = self._onsets(logmel)
        velocities = torch.cat([features, onset_stages[-1]], dim=1)  # (b, c+1, keys, t-1)
        velocities = self.velocity_stage(velocities)  # (b, 1, keys, t-1)
        return [onsets.squeeze(1) for onsets in onset_stages], velocities.squeeze(1)

    def infer(self, logmel: Tensor) -> tuple[Tensor, Tensor]:
        """What detection needs: the last stage's onset logits and the velocity logits, both (b, keys, t-1)."""
        onset_stages, velocities = self(logmel)
        return onset_stages[-1], velocities

    def _onsets(self, logmel: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The stem's features (b, c, keys, t-1) and each stage's onset logits (b, 1, keys, t-1)."""
        x = torch.stack([logmel[:, :, 1:], logmel.diff(dim=2)], dim=1)  # (b, 2, mels, t-1)
        features = self.stem(self.specnorm(x))  # (b, c, keys, t-1)
        first, *refiners = self.onset_stages
        onset_stages = [first(features)]  # (b, 1, keys, t-1)
        for refine in refiners:
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

    def train(self, mode: bool = True) -> "OnsetVelocityBase":
        """As ``nn.Module.train``, but frozen parts stay in eval mode (see :meth:`freeze_onsets`)."""
        super().train(mode)
        if self.onsets_frozen:
            for part in self.children():
                part.train(mode and part is self.velocity_stage)
        return self
