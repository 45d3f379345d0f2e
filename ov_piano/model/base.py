"""Base class of the networks: the forward pass through their parts, and freezing of the onset stages."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn


def check_logmel(logmel: Tensor, bins: int) -> None:
    """:raises ValueError: not of shape (b, ``bins``, t) with at least two frames"""
    if logmel.ndim != 3 or logmel.shape[1] != bins or logmel.shape[2] < 2:
        raise ValueError(f"log-mel: expected shape (b, {bins}, 2 or more), found {tuple(logmel.shape)}")


def with_differences(logmel: Tensor) -> Tensor:
    """(b, mels, t) -> frames 1, 2, … and their differences to the previous frames, (b, 2, mels, t-1)."""
    return torch.stack([logmel[:, :, 1:], logmel.diff(dim=2)], dim=1)


class OnsetVelocityBase(nn.Module):
    """Fully convolutional onset and velocity detector; the output has one frame fewer than the input.

    A subclass defines four parts, named in the state dict as in the published snapshots:

    - ``specnorm``: frames and their differences (b, 2, mels, t-1) -> normalised, same shape
    - ``stem``: -> features (b, c, keys, t-1)
    - ``onset_stages``: features -> (b, 1, keys, t-1) each; the first gives logits, the others add to them
    - ``velocity_stage``: features and the last onset logits (b, c+1, keys, t-1) -> logits (b, 1, keys, t-1)

    A fifth part, ``end_stage``, can be added to a trained network (see ``end_stage.py``): the last onset logits and the
    normalised log-mel -> logits of note ends (b, keys, t-1). It is not part of snapshots.
    """

    specnorm: nn.Module
    stem: nn.Module
    onset_stages: Sequence[nn.Module]
    velocity_stage: nn.Module
    end_stage: nn.Module | None

    def __init__(self, in_bins: int, features: int, keys: int):
        super().__init__()
        self.in_bins, self.features, self.keys = in_bins, features, keys
        self.end_stage = None
        self._trained_part: str | None = None  # None: everything

    def forward(self, logmel: Tensor, trainable_onsets: bool = True) -> tuple[list[Tensor], Tensor]:
        """Logits for all frames but the first, which has no difference to a previous frame.

        :param logmel: (b, mels, t) in dB, t at least 2
        :param trainable_onsets: False: compute everything before the velocity stage without gradients;
            to train only the velocity stage, also call :meth:`freeze_onsets` once
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

    def infer(self, logmel: Tensor) -> tuple[Tensor, ...]:
        """The last onset logits, velocity logits and, with an end stage, its logits, (b, keys, t-1) each."""
        onset_stages, velocities = self(logmel)
        if self.end_stage is None:
            return onset_stages[-1], velocities
        return onset_stages[-1], velocities, self.end_stage(onset_stages[-1], self._spectrum(logmel))

    def end_input(self, logmel: Tensor) -> tuple[Tensor, Tensor]:
        """What the end stage reads: last onset logits (b, keys, t-1) and normalised log-mel (b, mels, t-1)."""
        check_logmel(logmel, self.in_bins)
        return self._onsets(logmel)[1][-1].squeeze(1), self._spectrum(logmel)

    def _spectrum(self, logmel: Tensor) -> Tensor:
        return self.specnorm(with_differences(logmel))[:, 0]

    def _onsets(self, logmel: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The stem's features (b, c, keys, t-1) and each stage's onset logits (b, 1, keys, t-1)."""
        features = self.stem(self.specnorm(with_differences(logmel)))  # (b, c, keys, t-1)
        first, *refiners = self.onset_stages
        onset_stages = [first(features)]  # (b, 1, keys, t-1)
        for refine in refiners:
            onset_stages.append(onset_stages[-1] + refine(features))  # (b, 1, keys, t-1)
        return features, onset_stages

    def freeze_onsets(self) -> None:
        """From now on train only ``velocity_stage``.

        Everything else has no gradients and stays in eval mode, even after ``train()``: weights and batch-norm
        statistics are fixed, and dropout is off.
        """
        self._freeze_all_but("velocity_stage")

    def freeze_all_but_ends(self) -> None:
        """From now on train only ``end_stage``, in the same way as :meth:`freeze_onsets`."""
        self._freeze_all_but("end_stage")

    def _freeze_all_but(self, part: str) -> None:
        self._trained_part = part
        self.requires_grad_(False)
        getattr(self, part).requires_grad_(True)
        self.train(self.training)

    @property
    def onsets_frozen(self) -> bool:
        return self._trained_part is not None

    def train(self, mode: bool = True) -> "OnsetVelocityBase":
        """Like ``nn.Module.train``, but frozen parts stay in eval mode (see :meth:`freeze_onsets`)."""
        super().train(mode)
        if self._trained_part is not None:
            for name, part in self.named_children():
                part.train(mode and name == self._trained_part)
        return self
