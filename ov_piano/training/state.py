"""The training state: everything a run needs to resume exactly.

No generator state is saved: chunk order and dropout masks are functions of the seed and the
step (``seed_step``). A state holds only numbers, tensors and text, so that loading it executes
no code.
"""

import logging
import re
import zlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from ov_piano.errors import InputError
from ov_piano.model.snapshot import save_atomically
from ov_piano.provenance import git_commit

NAME = "training_state_step={step}.pt"
NOT_FINITE = "not_finite_after_step={step}.pt"  # for inspection; RESUME=auto ignores it
KEPT = 2

log = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """State dicts of model and optimizer, and the position in the run."""

    model: dict[str, Any]
    optimizer: dict[str, Any]
    step: int  # steps done
    epoch: int  # 0-based epoch of the next batch
    batch: int  # 0-based index of the next batch in its epoch, in global batches
    conf: str  # resolved settings as YAML
    commit: str
    average: dict[str, Any] | None = None  # of the averaged weights, if any
    snapshots: list[tuple[float, str]] = field(default_factory=list)  # saved by the run: F1 and file name

    @classmethod
    def of(
        cls, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None = None, **position: Any
    ) -> "TrainingState":
        """The state of ``model``, ``optimizer`` and ``average``; ``position``: the remaining fields."""
        return cls(
            model=model.state_dict(),
            optimizer=optimizer.state_dict(),
            average=None if average is None else average.state_dict(),
            commit=git_commit(),
            **position,
        )

    def save(self, folder: str | Path, name: str = NAME) -> Path:
        """Write the state to ``folder`` atomically.

        A state to resume from, called `NAME`, replaces all others but the previous one. States of later steps belong to
        an earlier run, which this run replaces.
        """
        folder = Path(folder)
        path = folder / name.format(step=self.step)
        save_atomically({entry.name: getattr(self, entry.name) for entry in fields(self)}, path)
        if name != NAME:
            return path
        states = saved_states(folder)
        own = [state for state in states if _step(state) <= self.step]
        for state in states:
            if state not in own[-KEPT:]:
                state.unlink()
        return path

    @classmethod
    def load(cls, path: str | Path) -> "TrainingState":
        """Load a state.

        :raises InputError: ``path`` is missing or not a training state
        """
        if not Path(path).is_file():
            raise InputError(f"{path}: training state not found (RESUME=auto finds the newest in OUTPUT_DIR)")
        try:
            return cls(**torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # the unpickler may raise anything on a damaged or foreign file
            raise InputError(f"{path}: not a training state saved by script 1 ({type(error).__name__})") from None

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, path: str | Path, average: nn.Module | None = None
    ) -> None:
        """Restore weights and optimizer moments; ``optimizer`` keeps its current momentum and weight decay.

        An ``average`` that was not saved has the restored weights, until it starts with those of the next step.

        :raises InputError: the state does not fit; ``path`` is used in the message
        """
        kept = ("momentum", "betas", "weight_decay")  # of SGD and AdamW
        settings = [{name: group[name] for name in kept if name in group} for group in optimizer.param_groups]
        saved = [{name for name in kept if name in group} for group in self.optimizer.get("param_groups", [])]
        if saved != [set(group) for group in settings]:
            raise InputError(f"{path}: state of an optimiser other than {type(optimizer).__name__} (setting OPTIMIZER)")
        try:
            model.load_state_dict(self.model)
            optimizer.load_state_dict(self.optimizer)
            if average is not None and self.average is not None:
                average.load_state_dict(self.average)
            elif average is not None:
                average.module.load_state_dict(self.model)
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(f"{path}: state of a different model: {' '.join(str(error).split())}") from None
        for group, kept_settings in zip(optimizer.param_groups, settings, strict=True):
            group.update(kept_settings)

    def differences(self, conf: str) -> list[str]:
        """Settings that differ from ``conf`` (YAML), as ``KEY: old -> new``."""
        old, new = yaml.safe_load(self.conf), yaml.safe_load(conf)
        keys = [key for key in new if key != "RESUME" and old.get(key) != new[key]]
        return [f"{key}: {old.get(key)} -> {new[key]}" for key in keys]


def find_state(resume: str | None, folder: str | Path) -> Path | None:
    """The state that RESUME names: a path, or for ``auto`` the one with the highest step in ``folder``.

    With ``auto`` and no saved state, training starts afresh, so that the same command starts a
    run and resumes it.
    """
    states = saved_states(folder)
    if resume is None and states:
        log.warning(
            "%s: replacing the states of an earlier run (pass RESUME=auto to continue that run instead)", folder
        )
    if resume != "auto":
        return None if resume is None else Path(resume)
    return states[-1] if states else None


def saved_states(folder: str | Path) -> list[Path]:
    """The states in ``folder``, ordered by step, since file times change when folders are copied."""
    return sorted((path for path in Path(folder).glob(NAME.format(step="*")) if _step(path) >= 0), key=_step)


def _step(path: Path) -> int:
    """The step in the file name of a state; -1 for other files."""
    match = re.search(r"=(\d+)\.pt$", path.name)
    return int(match[1]) if match else -1


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch for one step, so that its random draws do not depend on earlier steps."""
    torch.manual_seed(zlib.crc32(f"{seed} {step} {rank}".encode()))
