"""A training between its steps: model, optimiser, position; saved and resumed exactly."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ov_piano.data.chunks import Chunks
from ov_piano.errors import InputError
from ov_piano.training.processes import Processes
from ov_piano.training.state import NAME, NOT_FINITE, TrainingState, seed_step
from ov_piano.training.step import TrainingStep

logger = logging.getLogger(__name__)


class StepReport(NamedTuple):
    """What one step did."""

    onset_loss: float
    velocity_loss: float
    lr: float
    secs: float
    cycle_ends: bool

    def __str__(self) -> str:
        return f"losses {self.onset_loss:.6f} {self.velocity_loss:.6f}, lr {self.lr:.6g}, {self.secs:.2f} s"


@dataclass
class TrainingRun:
    """``step`` steps are done; the next batch is number ``batch`` of epoch ``epoch``, both 0-based.

    :param names: of the recordings, by the index that batches carry
    :param augment: log-mels (b, mels, t) in dB and key velocities (b, keys, t) -> the same, varied
    :param wants_pause: asked at each step, between losses and descent, whether to stop in the debugger
    """

    model: nn.Module
    training_step: TrainingStep
    processes: Processes
    seed: int
    names: Sequence[str]
    augment: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    wants_pause: Callable[[int], bool]
    states_folder: Path
    conf_yaml: str
    step: int = 0
    epoch: int = 0
    batch: int = 0

    def learn(self, chunks: Chunks) -> StepReport:
        """One step on a batch.

        :raises InputError: the loss is not finite; the state is saved for inspection then, its weights as before the
            step, its batch-norm statistics as after it
        """
        started = time.perf_counter()
        self.model.train()
        step = self.step + 1
        seed_step(self.seed, step, self.processes.rank)
        logmel = chunks.logmel.to(self.processes.device, non_blocking=True)
        key_velocities = chunks.key_velocities.to(self.processes.device, non_blocking=True)
        losses = self.training_step.losses(*self.augment(logmel, key_velocities))
        onset, velocity = self.processes.mean(torch.stack([losses.onset.detach(), losses.velocity.detach()])).tolist()
        if self.wants_pause(step):
            breakpoint()
        if not isfinite(onset + velocity):
            self._stop_at(onset, velocity, chunks)
        lr, cycle_ends = self.training_step.update(losses, step)
        self.step, self.batch = step, self.batch + 1
        return StepReport(onset, velocity, lr, time.perf_counter() - started, cycle_ends)

    def next_epoch(self) -> None:
        """Move on to the first batch of the next epoch."""
        self.epoch, self.batch = self.epoch + 1, 0

    def save_state(self, name: str = NAME) -> Path:
        """Save all that `resume` needs; of several processes the first one does."""
        if not self.processes.is_first:
            return self.states_folder
        return TrainingState.of(
            self.model,
            self.training_step.optimizer,
            step=self.step,
            epoch=self.epoch,
            batch=self.batch,
            conf=self.conf_yaml,
        ).save(self.states_folder, name)

    def resume(self, path: Path) -> None:
        """Continue from a saved state.

        :raises InputError: it cannot be read or belongs to another model
        """
        state = TrainingState.load(path)
        state.restore(self.model, self.training_step.optimizer, path)
        self.step, self.epoch, self.batch = state.step, state.epoch, state.batch
        logger.info("resumed from %s at step %d", path, self.step)
        for difference in state.differences(self.conf_yaml):
            logger.info("not as in the resumed run: %s", difference)

    def _stop_at(self, onset_loss: float, velocity_loss: float, chunks: Chunks) -> None:
        names = sorted({self.names[index] for index in chunks.recordings.tolist()})
        path = self.save_state(NOT_FINITE)
        raise InputError(
            f"step {self.step + 1}: the loss is not finite (onset {onset_loss:g}, velocity {velocity_loss:g}); a lower "
            f"LR_MAX may help, and RESUME=auto continues from the last state before; recordings of the batch: "
            f"{', '.join(names)}; state for inspection: {path}"
        )
