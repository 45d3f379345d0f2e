"""Snapshots saved in training, named after network, time, step and scores like the published ones."""

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from ov_piano.log import timestamp
from ov_piano.model.onsets_and_velocities import OnsetsAndVelocities
from ov_piano.model.snapshot import save_snapshot


@dataclass
class SnapshotFolder:
    """``OUTPUT_DIR/model_snapshots``.

    :param keep: how many of the best (by onset F1) and how many of the newest snapshots of this run to keep; None: all
    """

    folder: Path
    keep: int | None = None
    _saved: list[tuple[float, Path]] = field(default_factory=list)  # onset F1 and path, oldest first

    def save(self, model: nn.Module, step: int, scores: dict[str, float] | None = None) -> Path:
        """Save ``model`` and return the path; ``scores`` are those of its cross-validation."""
        score = "" if scores is None else f"_f1={scores['F1']:.4f}"
        if scores is not None and isinstance(model, OnsetsAndVelocities):
            score += f"__{scores['F1_velocities']:.4f}"
        path = self.folder / f"{type(model).__name__}_{timestamp()}step={step}{score}.torch"
        save_snapshot(model, path)
        self._saved.append((-1.0 if scores is None else scores["F1"], path))
        if self.keep is not None:
            self._delete_all_but(self.keep)
        return path

    def _delete_all_but(self, keep: int) -> None:
        best = sorted(self._saved, key=lambda saved: saved[0], reverse=True)[:keep]
        kept = [saved for saved in self._saved if saved in best or saved in self._saved[-keep:]]
        for saved in self._saved:
            if saved not in kept:
                saved[1].unlink(missing_ok=True)
        self._saved = kept

    def has_validated(self, step: int) -> bool:
        """Whether a cross-validated snapshot of ``step`` exists."""
        return any(self.folder.glob(f"*step={step}_f1=*.torch"))
