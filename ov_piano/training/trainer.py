"""A training run: take a step, validate, save, resume."""

import copy
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ov_piano.data.chunks import Chunks
from ov_piano.data.loader import TrainingLoader
from ov_piano.errors import InputError
from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.fast import optimize_for_inference
from ov_piano.training.batch_norm import reestimate_statistics
from ov_piano.training.cross_validation import CrossValidation, summary
from ov_piano.training.ends import EndStep
from ov_piano.training.processes import Processes
from ov_piano.training.snapshots import SnapshotFolder
from ov_piano.training.state import NAME, NOT_FINITE, TrainingState, seed_step
from ov_piano.training.step import TrainingStep

CONTINUE = "try a lower LR_MAX, and RESUME=auto to continue from the last good state"

logger = logging.getLogger(__name__)


class StepReport(NamedTuple):
    """Losses, learning rate and duration of one step."""

    losses: dict[str, float]  # by name; ``velocity_loss_floor`` is the entropy of the targets
    lr: float
    secs: float
    cycle_ends: bool

    def __str__(self) -> str:
        losses = " ".join(f"{loss:.6f}" for name, loss in self.losses.items() if name != "velocity_loss_floor")
        return f"losses {losses}, lr {self.lr:.6g}, {self.secs:.2f} s"

    def record(self) -> dict[str, float]:
        """All values by name, for the log."""
        return self.losses | {"lr": self.lr, "secs": self.secs, "cycle_ends": self.cycle_ends}


class Validation(NamedTuple):
    """A copy of the model, ready for inference, and its scores as `summary` returns them."""

    model: OnsetVelocityBase
    scores: dict[str, float]
    secs: float


@dataclass
class Trainer:
    """``step`` counts the steps taken; the next batch is ``batch`` of epoch ``epoch``, both 0-based.

    :param recording_names: names of the recordings by index, for error messages
    :param augment: log-mels (b, mels, t) in dB and key velocities (b, keys, t) -> the same, augmented
    :param wants_pause: step -> whether to enter the debugger before the update
    :param norm_batches: returns log-mels (b, mels, t) to re-estimate batch-norm statistics from; None: keep them
    :param fast: validate with the optimised kernels
    :param average: moving average of the weights, used for validation and snapshots; None: the latest weights
    """

    model: OnsetVelocityBase
    training_step: TrainingStep | EndStep
    cross_validation: CrossValidation
    processes: Processes
    seed: int
    recording_names: Sequence[str]
    augment: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    wants_pause: Callable[[int], bool]
    snapshots: SnapshotFolder
    states_folder: Path
    conf_yaml: str
    norm_batches: Callable[[], Iterable[Tensor]] | None = None
    fast: bool = True
    average: AveragedModel | None = None
    step: int = 0
    epoch: int = 0
    batch: int = 0
    validated_step: int | None = None
    saved_step: int | None = None

    def batches(self, loader: TrainingLoader, epochs: int, max_steps: int | None = None) -> Iterator[Chunks]:
        """The remaining batches, to the last epoch or ``max_steps``; train on each before taking the next."""
        while self.epoch < epochs:
            if self.step >= (max_steps or inf):
                return
            for chunks in loader.batches(self.epoch, self.batch):
                yield chunks
                if self.step >= (max_steps or inf):
                    return
            self.epoch, self.batch = self.epoch + 1, 0

    def train_on(self, chunks: Chunks) -> StepReport:
        """Take one step.

        :raises InputError: the loss is not finite; the state is then saved for inspection, with the weights from
            before the step and the batch-norm statistics from after it
        """
        started = time.perf_counter()
        self.model.train()
        step = self.step + 1
        seed_step(self.seed, step, self.processes.rank)
        logmel = chunks.logmel.to(self.processes.device, non_blocking=True)
        key_velocities = chunks.key_velocities.to(self.processes.device, non_blocking=True)
        losses = self.training_step.losses(*self.augment(logmel, key_velocities))
        names, scalars = zip(*losses.logged.items(), strict=True)
        means = self.processes.mean(torch.stack([scalar.detach() for scalar in scalars])).tolist()
        logged = dict(zip(names, means, strict=True))
        if self.wants_pause(step):
            breakpoint()
        if not isfinite(sum(means)):
            self._stop_at(logged, chunks)
        lr, cycle_ends = self.training_step.update(losses, step)
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.step, self.batch = step, self.batch + 1
        return StepReport(logged, lr, time.perf_counter() - started, cycle_ends)

    def model_for_use(self) -> OnsetVelocityBase:
        """A copy of the model in eval mode, with averaged weights and re-estimated batch norms if configured."""
        model = copy.deepcopy(self.model if self.average is None else self.average.module).eval()
        if self.norm_batches is not None:
            reestimate_statistics(model, (logmel.to(self.processes.device) for logmel in self.norm_batches()))
        return model

    def validate(self) -> Validation:
        """Cross-validate the current model.

        :raises InputError: weights or batch-norm statistics are not finite
        """
        started = time.perf_counter()
        self._require_finite()
        model = self.model_for_use()
        scores = summary(self.cross_validation(optimize_for_inference(model) if self.fast else model.infer))
        self.validated_step = self.step
        return Validation(model, scores, time.perf_counter() - started)

    @property
    def is_validated(self) -> bool:
        """Whether the current step has been cross-validated, in this run or the one it resumes."""
        return self.validated_step == self.step

    def save(self, model: nn.Module, scores: dict[str, float] | None = None) -> None:
        """Save a snapshot of ``model``, named after its scores, and the training state.

        :raises InputError: weights or batch-norm statistics are not finite
        """
        self._require_finite()
        if self.processes.is_first:
            logger.info("saved %s", self.snapshots.save(model, self.step, scores))
        self.save_state()

    def save_state(self) -> None:
        """Save the training state, unless this step's is saved already; only the first process writes.

        :raises InputError: weights or batch-norm statistics are not finite; earlier states stay
        """
        if self.saved_step != self.step:
            self._require_finite()
            self._save_state(NAME)
            self.saved_step = self.step

    def resume(self, path: Path) -> None:
        """Resume from a saved state.

        :raises InputError: the file is unreadable or belongs to a different model
        """
        state = TrainingState.load(path)
        state.restore(self.model, self.training_step.optimizer, path, self.average)
        self.step, self.epoch, self.batch = state.step, state.epoch, state.batch
        self.snapshots.resume(state.snapshots)
        if self.snapshots.has_validated(self.step):
            self.validated_step = self.step
        logger.info("resumed from %s at step %d", path, self.step)
        for difference in state.differences(self.conf_yaml):
            logger.info("setting changed since the saved run: %s", difference)

    def _save_state(self, name: str) -> Path:
        if not self.processes.is_first:
            return self.states_folder
        return TrainingState.of(
            self.model,
            self.training_step.optimizer,
            self.average,
            step=self.step,
            epoch=self.epoch,
            batch=self.batch,
            conf=self.conf_yaml,
            snapshots=self.snapshots.saved,
        ).save(self.states_folder, name)

    def _require_finite(self) -> None:
        """The update of a finite loss may be infinite, too."""
        tensors = self.model.state_dict().items()
        broken = [name for name, tensor in tensors if not tensor.isfinite().all()]
        if broken:
            path = self._save_state(NOT_FINITE)
            raise InputError(
                f"step {self.step}: the weights are not finite ({broken[0]}); {CONTINUE}; state for inspection: {path}"
            )

    def _stop_at(self, losses: dict[str, float], chunks: Chunks) -> None:
        values = ", ".join(
            f"{name.removesuffix('_loss')} {loss:g}" for name, loss in losses.items() if "floor" not in name
        )
        names = sorted({self.recording_names[index] for index in chunks.recordings.tolist()})
        path = self._save_state(NOT_FINITE)
        raise InputError(
            f"step {self.step + 1}: the loss is not finite ({values}); {CONTINUE}; "
            f"recordings in the batch: {', '.join(names)}; state for inspection: {path}"
        )
