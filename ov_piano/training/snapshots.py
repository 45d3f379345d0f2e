"""The snapshots of a training: their names say network, time, step and scores, as the published ones do."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ov_piano.log import timestamp
from ov_piano.model.onsets_and_velocities import OnsetsAndVelocities
from ov_piano.model.snapshot import save_snapshot


@dataclass(frozen=True)
class SnapshotFolder:
    """``OUTPUT_DIR/model_snapshots``."""

    folder: Path

    def save(self, model: nn.Module, step: int, scores: dict[str, float] | None = None) -> Path:
        """Save ``model`` under a name of its own and return it; ``scores`` are those of its cross-validation."""
        score = "" if scores is None else f"_f1={scores['F1']:.4f}"
        if scores is not None and isinstance(model, OnsetsAndVelocities):
            score += f"__{scores['F1_velocities']:.4f}"
        path = self.folder / f"{type(model).__name__}_{timestamp()}step={step}{score}.torch"
        save_snapshot(model, path)
        return path

    def has_validated(self, step: int) -> bool:
        """Whether there is a cross-validated snapshot of ``step``."""
        return any(self.folder.glob(f"*step={step}_f1=*.torch"))
