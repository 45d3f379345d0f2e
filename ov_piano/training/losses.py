"""Loss functions."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as bce


def onset_loss(
    stage_logits: Sequence[Tensor],
    onset_target: Tensor,
    positives_weight: float,
    frame_weights: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy, averaged over the stages, with a weight for the rare positives.

    ``stage_logits``: (b, keys, t) per stage; ``onset_target``: (b, keys, t) of 0 and 1; ``frame_weights``: (t,).
    """
    weight = torch.tensor(positives_weight, device=onset_target.device)
    losses = [bce(logits.float(), onset_target, frame_weights, pos_weight=weight) for logits in stage_logits]
    return torch.stack(losses).mean()


def velocity_loss(velocity_logits: Tensor, onset_target: Tensor, velocity_target: Tensor) -> Tensor:
    """Cross-entropy against velocities in 0-1 at onsets, zero elsewhere, averaged over all cells; all (b, keys, t)."""
    return (onset_target * bce(velocity_logits.float(), velocity_target, reduction="none")).mean()


def velocity_loss_floor(onset_target: Tensor, velocity_target: Tensor) -> Tensor:
    """The minimum of `velocity_loss`: the entropy of targets that are neither 0 nor 1; all (b, keys, t)."""
    entropy = torch.special.entr(velocity_target) + torch.special.entr(1 - velocity_target)
    return (onset_target * entropy).mean()
