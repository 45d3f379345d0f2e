"""One training step: batch -> losses -> gradients -> update."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.fast_training import fast_forward
from ov_piano.training.losses import onset_loss, velocity_loss, velocity_loss_floor
from ov_piano.training.schedule import Schedule
from ov_piano.training.stream_ends import frame_weights, with_stream_end
from ov_piano.training.targets import training_targets

Forward = Callable[[Tensor], tuple[Sequence[Tensor], Tensor]]


class Losses(NamedTuple):
    """Scalars with gradients; ``total`` is what the step minimises."""

    total: Tensor
    onset: Tensor
    velocity: Tensor  # weighted
    velocity_floor: Tensor  # the minimum of ``velocity`` for these targets; no gradient

    @property
    def logged(self) -> dict[str, Tensor]:
        """The losses to log, by name."""
        return {"onset_loss": self.onset, "velocity_loss": self.velocity, "velocity_loss_floor": self.velocity_floor}


class TrainingForward(nn.Module):
    """The forward pass in training, as a module for `DistributedDataParallel` to wrap."""

    def __init__(self, model: OnsetVelocityBase, trainable_onsets: bool, fast: bool):
        super().__init__()
        self.model, self.trainable_onsets, self.fast = model, trainable_onsets, fast

    def forward(self, logmel: Tensor) -> tuple[list[Tensor], Tensor]:
        if self.fast and self.trainable_onsets:
            return fast_forward(self.model, logmel)
        return self.model(logmel, self.trainable_onsets)


class Step:
    """Losses and weight update of one step, as two methods, so that a run can be inspected in between.

    :param forward: log-mel (b, mels, t) -> logits
    :param optimizer: ``schedule`` sets its learning rate at every update
    :param bf16: run the forward pass under bfloat16 autocast
    """

    def __init__(self, forward: Callable, optimizer: torch.optim.Optimizer, schedule: Schedule, *, bf16: bool = False):
        self.forward, self.optimizer, self.schedule, self.bf16 = forward, optimizer, schedule, bf16

    def update(self, losses: NamedTuple, step: int) -> tuple[float, bool]:
        """Backpropagate ``losses.total`` and update the weights at the 1-based ``step``.

        Returns the learning rate and whether this step ends a cycle.
        """
        lr, cycle_ends = self.schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        self.optimizer.step()
        return lr, cycle_ends


class TrainingStep(Step):
    """The step of the network, see `Step`.

    :param forward: log-mel (b, mels, t) -> onset logits of each stage and velocity logits, (b, keys, t-1)
    :param velocity_weight: weight of the velocity loss in the total
    :param train_onsets: whether the total includes the onset loss
    :param edge_weight: loss weight of the last frames; every second chunk then ends as a stream does; 0: neither
    """

    def __init__(
        self,
        forward: Forward,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        positives_weight: float,
        velocity_weight: float,
        train_onsets: bool = True,
        edge_weight: float = 0.0,
        bf16: bool = False,
    ):
        super().__init__(forward, optimizer, schedule, bf16=bf16)
        self.positives_weight = positives_weight
        self.velocity_weight = velocity_weight
        self.train_onsets = train_onsets
        self.edge_weight = edge_weight

    def losses(self, logmel: Tensor, key_velocities: Tensor) -> Losses:
        """Losses for a batch: ``logmel`` (b, mels, t) in dB, ``key_velocities`` (b, keys, t) in 0-127."""
        onset_target, velocity_target = training_targets(key_velocities)
        weights = None
        if self.edge_weight:
            logmel = with_stream_end(logmel)
            weights = frame_weights(onset_target.shape[2], self.edge_weight, logmel.device)
        with torch.autocast(logmel.device.type, torch.bfloat16, enabled=self.bf16):
            stage_logits, velocity_logits = self.forward(logmel)
        onset = onset_loss(stage_logits, onset_target, self.positives_weight, weights)
        counted = onset_target if weights is None else onset_target * weights
        velocity = self.velocity_weight * velocity_loss(velocity_logits, counted, velocity_target)
        floor = self.velocity_weight * velocity_loss_floor(counted, velocity_target)
        return Losses(onset + velocity if self.train_onsets else velocity, onset, velocity, floor)


def sgd(model: nn.Module, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD over the trainable parameters of ``model``."""
    return torch.optim.SGD(_trainable(model), lr=0.0, momentum=momentum, weight_decay=weight_decay)


def adamw(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) over the trainable parameters of ``model``."""
    return torch.optim.AdamW(_trainable(model), lr=0.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay)


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]
