"""Snapshots saved in training, named after network, time, step and scores like the published ones.

Training of the end stage saves its weights alone, as ``….ends.torch``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ov_piano.log import timestamp
from ov_piano.model.ends import SUFFIX as ENDS_SUFFIX
from ov_piano.model.ends import has_end_stage, save_ends
from ov_piano.model.onsets_and_velocities import OnsetsAndVelocities
from ov_piano.model.sidecar import sidecar_path, write_sidecar
from ov_piano.model.snapshot import save_snapshot
from ov_piano.settings import LogMelSettings


@dataclass
class SnapshotFolder:
    """``OUTPUT_DIR/model_snapshots``. A YAML file beside each snapshot says how it was made.

    :param leaky_relu_slope: of the network in training
    :param logmel: settings of the log-mels that it is trained on
    :param origin: plain values that record where it comes from, such as dataset and commit
    :param keep: how many of the best (by onset F1) and how many of the newest snapshots of this run to keep; None: all
    """

    folder: Path
    keep: int | None = None
    leaky_relu_slope: float | None = None
    logmel: LogMelSettings | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    saved: list[tuple[float, str]] = field(default_factory=list)  # F1 and file name, oldest first

    def save(self, model: nn.Module, step: int, scores: dict[str, float] | None = None) -> Path:
        """Save ``model`` and return the path; ``scores`` are those of its cross-validation."""
        has_ends = has_end_stage(model)
        best = -1.0 if scores is None else scores["F1_offsets" if has_ends else "F1"]
        score = "" if scores is None else f"_f1={best:.4f}"
        if scores is not None and isinstance(model, OnsetsAndVelocities) and not has_ends:
            score += f"__{scores['F1_velocities']:.4f}"
        save, suffix = (save_ends, ENDS_SUFFIX) if has_ends else (save_snapshot, ".torch")
        path = self.folder / f"{type(model).__name__}_{timestamp()}step={step}{score}{suffix}"
        sidecar = write_sidecar(path, self._entries(model, step, scores))  # first: no snapshot is ever without it
        try:
            save(model, path)
        except BaseException:
            sidecar.unlink(missing_ok=True)
            raise
        self.saved.append((float(best), path.name))
        if self.keep is not None:
            self._delete_all_but(self.keep)
        return path

    def _entries(self, model: nn.Module, step: int, scores: dict[str, float] | None) -> dict[str, Any]:
        training = {**self.origin, "steps": step}
        if scores is not None:
            training["scores"] = {name: float(score) for name, score in scores.items()}
        entries = {
            "network": type(model).__name__,
            "leaky_relu_slope": self.leaky_relu_slope,
            "logmel": None if self.logmel is None else asdict(self.logmel),
            "training": training,
        }
        return {name: value for name, value in entries.items() if value is not None}

    def _delete_all_but(self, keep: int) -> None:
        best = sorted(self.saved, key=lambda saved: saved[0], reverse=True)[:keep]
        kept = [saved for saved in self.saved if saved in best or saved in self.saved[-keep:]]
        for saved in self.saved:
            if saved not in kept:
                path = self.folder / saved[1]
                path.unlink(missing_ok=True)
                sidecar_path(path).unlink(missing_ok=True)
        self.saved = kept

    def resume(self, saved: list[tuple[float, str]]) -> None:
        """Count the snapshots that the resumed run has saved, where they still exist."""
        self.saved = [(best, name) for best, name in saved if (self.folder / name).exists()]

    def has_validated(self, step: int) -> bool:
        """Whether this run has saved a cross-validated snapshot of ``step``."""
        return any(f"step={step}_f1=" in name for _, name in self.saved)
