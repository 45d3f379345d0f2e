"""Training of the sounding stage on the frozen features of a trained network."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import max_pool1d, pad

from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.fast import optimize_for_inference
from ov_piano.model.fast_training import sounding_logits
from ov_piano.training.step import Step

RECENT_FRAMES = 42  # 1 s
ENDS_WEIGHT = 4.0  # of the rare positives of the end loss


def sounding_targets(key_velocities: Tensor) -> tuple[Tensor, Tensor]:
    """``(sounding, end)``, both (b, keys, t-1) of 0 and 1, from velocities (b, keys, t) above 0 while a key sounds.

    The first frame is dropped, as in the network's output. An end spans the first silent frame and its neighbours.
    """
    sounding = (key_velocities > 0).float()
    ends = (sounding[..., :-1] - sounding[..., 1:]).clamp(min=0)
    return sounding[..., 1:], max_pool1d(ends, 3, stride=1, padding=1)


def sounding_losses(logits: Tensor, sounding: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropies of both maps over the cells that matter: keys that sound, or have sounded in the last second.

    Most keys are silent most of the time, and learning that takes nothing but onsets. ``logits``: (b, 2, keys, t),
    targets: (b, keys, t) each.
    """
    recent = max_pool1d(pad(sounding, (RECENT_FRAMES, 0)), RECENT_FRAMES + 1, stride=1)
    weight = torch.tensor(ENDS_WEIGHT, device=logits.device)
    sounding_loss = bce(logits[:, 0], sounding, reduction="none")
    end_loss = bce(logits[:, 1], ends, reduction="none", pos_weight=weight)
    cells = recent.sum().clamp(min=1)
    return (sounding_loss * recent).sum() / cells, (end_loss * recent).sum() / cells


class SoundingLosses(NamedTuple):
    """Scalars with gradients; ``total`` is what the step minimises."""

    total: Tensor
    sounding: Tensor
    end: Tensor

    @property
    def logged(self) -> dict[str, Tensor]:
        """The losses to log, by name."""
        return {"sounding_loss": self.sounding, "end_loss": self.end}


class SoundingForward(nn.Module):
    """Log-mel (b, mels, t) in dB -> logits of the sounding stage (b, 2, keys, t-1), with gradients in it only.

    :param fast: use the optimised kernels on the CPU
    """

    def __init__(self, model: OnsetVelocityBase, fast: bool):
        super().__init__()
        self.model, self.fast = model, fast
        self._frozen = None

    def forward(self, logmel: Tensor) -> Tensor:
        if not self.fast:
            with torch.no_grad():
                x = self.model.sounding_input(logmel)
            return self.model.sounding_stage(x)
        if self._frozen is None:  # not before the first step: by then a resumed run has its weights
            self._frozen = optimize_for_inference(self.model).sounding_input
        x = self._frozen(logmel).clone()  # an inference tensor cannot take part in a backward pass
        return sounding_logits(self.model, x)


class SoundingStep(Step):
    """Losses and weight update of one step; see `TrainingStep` for the parameters.

    :param forward: log-mel (b, mels, t) -> logits of sounding keys and note ends (b, 2, keys, t-1)
    """

    def losses(self, logmel: Tensor, key_velocities: Tensor) -> SoundingLosses:
        """Losses for a batch: log-mels (b, mels, t) in dB and velocities (b, keys, t), above 0 while a key sounds."""
        with torch.autocast(logmel.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.forward(logmel)
        sounding, end = sounding_losses(logits.float(), *sounding_targets(key_velocities))
        return SoundingLosses(sounding + end, sounding, end)
