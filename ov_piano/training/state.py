"""All that a training needs to continue as if it had never stopped.

Randomness needs no saving: the order of the chunks and the dropout masks are functions of the
seed and the step (``seed_step``), so a state holds numbers, tensors and text only and loads
without executing anything.
"""

import logging
import re
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from ov_piano.errors import InputError
from ov_piano.model.snapshot import save_atomically
from ov_piano.provenance import git_commit

NAME = "training_state_step={step}.pt"
NOT_FINITE = "not_finite_after_step={step}.pt"  # for inspection: RESUME=auto passes it over
KEPT = 2

log = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """Model and optimizer as state dicts, and the position within the run."""

    model: dict[str, Any]
    optimizer: dict[str, Any]
    step: int  # steps done
    epoch: int  # 0-based epoch of the next batch
    batch: int  # 0-based index of the next batch in its epoch, counted in global batches
    conf: str  # resolved settings as YAML
    commit: str

    @classmethod
    def of(cls, model: nn.Module, optimizer: torch.optim.Optimizer, **position: Any) -> "TrainingState":
        """The state of ``model`` and ``optimizer``; ``position`` gives the remaining fields."""
        return cls(model=model.state_dict(), optimizer=optimizer.state_dict(), commit=git_commit(), **position)

    def save(self, folder: str | Path, name: str = NAME) -> Path:
        """Write the state into ``folder`` in one piece; keep it and the one before, delete the others.

        States of later steps are an earlier run's, which this one replaces.
        """
        folder = Path(folder)
        path = folder / name.format(step=self.step)
        save_atomically({field.name: getattr(self, field.name) for field in fields(self)}, path)
        states = saved_states(folder)
        own = [state for state in states if _step(state) <= self.step]
        for state in states:
            if state not in own[-KEPT:]:
                state.unlink()
        return path

    @classmethod
    def load(cls, path: str | Path) -> "TrainingState":
        """Read a state.

        :raises InputError: ``path`` is missing or no training state
        """
        if not Path(path).is_file():
            raise InputError(f"{path}: no such training state")
        try:
            return cls(**torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # whatever a broken or foreign file makes the unpickler raise
            raise InputError(f"{path}: not a training state saved by script 1 ({type(error).__name__})") from None

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, path: str | Path) -> None:
        """Put weights and moments back; momentum and weight decay of ``optimizer`` stay as they are set.

        :raises InputError: they do not fit; ``path`` is for the message
        """
        kept = ("momentum", "betas", "weight_decay")  # of SGD and AdamW
        settings = [{name: group[name] for name in kept if name in group} for group in optimizer.param_groups]
        saved = [{name for name in kept if name in group} for group in self.optimizer.get("param_groups", [])]
        if saved != [set(group) for group in settings]:
            raise InputError(f"{path}: state of another optimiser than {type(optimizer).__name__} (setting OPTIMIZER)")
        try:
            model.load_state_dict(self.model)
            optimizer.load_state_dict(self.optimizer)
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(f"{path}: state of another model: {str(error).splitlines()[0]}") from None
        for group, kept_settings in zip(optimizer.param_groups, settings, strict=True):
            group.update(kept_settings)

    def differences(self, conf: str) -> list[str]:
        """Settings that differ in ``conf``, also YAML: ``KEY: old -> new``."""
        old, new = yaml.safe_load(self.conf), yaml.safe_load(conf)
        keys = [key for key in new if key != "RESUME" and old.get(key) != new[key]]
        return [f"{key}: {old.get(key)} -> {new[key]}" for key in keys]


def find_state(resume: str | None, folder: str | Path) -> Path | None:
    """The state that RESUME means: a path, or for ``auto`` the one of the last step in ``folder``.

    ``auto`` without any state is a start from scratch, so that one command begins a run and
    continues it after whatever ended it.
    """
    states = saved_states(folder)
    if resume is None and states:
        log.warning(
            "%s: holds states of an earlier run (RESUME=auto would continue it), this one replaces them", folder
        )
    if resume != "auto":
        return None if resume is None else Path(resume)
    return states[-1] if states else None


def saved_states(folder: str | Path) -> list[Path]:
    """The states in ``folder``, ordered by step: the times of files change when folders are copied."""
    return sorted((path for path in Path(folder).glob(NAME.format(step="*")) if _step(path) >= 0), key=_step)


def _step(path: Path) -> int:
    """The step that a state's name gives, -1 for other files."""
    match = re.search(r"=(\d+)\.pt$", path.name)
    return int(match[1]) if match else -1


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch for one step, so that its dropout masks depend on nothing that came before."""
    torch.manual_seed(zlib.crc32(f"{seed} {step} {rank}".encode()))
