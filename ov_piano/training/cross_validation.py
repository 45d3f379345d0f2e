"""Score a model in training on validation recordings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ov_piano.data.chunks import RecordingDataset
from ov_piano.evaluation.evaluate import transcribe_dataset
from ov_piano.evaluation.search import OFFSET_COLUMNS, ONSET_COLUMNS, VELOCITY_COLUMNS, best_row, search
from ov_piano.settings import Chunking, Tolerances
from ov_piano.training.processes import Processes
from ov_piano.transcription.decoder import Decoder
from ov_piano.transcription.strided import Infer


@dataclass(frozen=True)
class CrossValidation:
    """Transcribe ``recordings`` and score them at several thresholds.

    :param references: ground truth (n, 4) of each recording
    :param shift_secs: added to detected onsets before scoring
    """

    recordings: RecordingDataset
    references: Sequence[np.ndarray]
    decoder: Decoder
    thresholds: Sequence[float]
    shift_secs: float
    chunking: Chunking
    tolerances: Tolerances
    processes: Processes

    def __call__(self, infer: Infer) -> pd.DataFrame:
        """Mean scores over the recordings, one row per threshold, as `search` returns them.

        Each process transcribes its share of the recordings; all of them get the result.
        """
        mine = RecordingDataset(self.recordings.pair, self.processes.share(self.recordings.indices))
        events = transcribe_dataset(
            infer,
            self.decoder,
            mine,
            min(self.thresholds),
            chunking=self.chunking,
            device=self.processes.device,
            what="cross-validation",
        )
        events = self.processes.collect(events)
        return search(self.references, events, self.thresholds, [self.shift_secs], self.tolerances)


def summary(scores: pd.DataFrame) -> dict[str, float]:
    """The rows with the best onset F1 and the best onset+velocity F1, as one dict.

    With note ends also their scores at the threshold of the best onset F1.
    """
    onset, velocity = best_row(scores, "F1"), best_row(scores, "F1_velocities")
    return {
        "onset_threshold": onset["threshold"],
        **onset[ONSET_COLUMNS],
        "velocity_threshold": velocity["threshold"],
        **velocity[VELOCITY_COLUMNS],
        **onset[[column for column in OFFSET_COLUMNS if column in onset]],
    }


def format_scores(scores: dict[str, float]) -> str:
    """The output of `summary` as one line."""
    ends = ""
    if "F1_offsets" in scores:
        ends = ", onsets+offsets F1 {F1_offsets:.4f} (P {P_offsets:.4f}, R {R_offsets:.4f}, t={onset_threshold:g})"
    return (
        "onsets F1 {F1:.4f} (P {P:.4f}, R {R:.4f}, t={onset_threshold:g}), onsets+velocities F1 {F1_velocities:.4f} "
        "(P {P_velocities:.4f}, R {R_velocities:.4f}, t={velocity_threshold:g})" + ends
    ).format(**scores)
