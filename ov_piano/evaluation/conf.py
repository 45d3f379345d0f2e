"""The settings of script 2."""

from dataclasses import dataclass

from ov_piano.config import FRACTION, FRACTIONS, NON_NEGATIVE, POSITIVE, REQUIRED, SHIFTS, TOLERANCE, option
from ov_piano.errors import InputError
from ov_piano.settings import DatasetConf, DecoderConf, InferenceConf, MapsConf, SpeedConf, StoresConf, Tolerances


@dataclass
class Output:
    """Where results go."""

    OUTPUT_DIR: str = option("out", "results go to its subfolder eval")


@dataclass
class Search:
    """The snapshot, and the thresholds and shifts to search."""

    SNAPSHOT_INPATH: str = option(REQUIRED, "snapshot to evaluate, saved by script 1")
    XV_TAKE_ONE_EVERY: int = option(5, "use every n-th validation recording for the search", POSITIVE)
    SEARCH_THRESHOLDS: list[float] = option([0.77], "onset probability thresholds to try", FRACTIONS)
    SEARCH_SHIFTS: list[float] = option([-0.01], "time shifts to try, in seconds, added to detected onsets", SHIFTS)
    SEARCH_TIE: float = option(
        0.0, "among shifts within this margin of the best onset F1, choose the most accurate onset times", FRACTION
    )


@dataclass
class Scoring:
    """Tolerances for correct notes."""

    TOLERANCE_SECS: float = option(0.05, "onset tolerance in seconds", TOLERANCE)
    TOLERANCE_VEL: float = option(0.1, "velocity tolerance on a scale of 0-1", TOLERANCE)


@dataclass
class Network:
    """Network settings that the weights do not contain."""

    LEAKY_RELU_SLOPE: float | None = option(
        None, "negative slope of the leaky ReLUs, as in training; null: the snapshot's own, else 0.1", NON_NEGATIVE
    )


@dataclass
class Saving:
    """What to save besides the results."""

    SAVE_OPERATING_POINT: bool = option(
        False, "save the best threshold and shift beside the snapshot, where ov-piano transcribe finds them"
    )


@dataclass
class Subset:
    """Which recordings of the test split and which note ends to evaluate."""

    TEST_RECORDINGS: str | None = option(
        None, "text file with the names of the test recordings to evaluate, one per line; null: all"
    )
    ENDS_INPATH: str | None = option(
        None, "note ends saved by script 1 with TRAIN_ENDS=true; null: X.ends.torch beside the snapshot X.torch, if any"
    )


@dataclass
class EvalConf(
    Subset,
    SpeedConf,
    Saving,
    MapsConf,
    Network,
    InferenceConf,
    Scoring,
    DecoderConf,
    Search,
    StoresConf,
    Output,
    DatasetConf,
):
    """All settings; listed and printed from the last base class to the first."""

    def __post_init__(self) -> None:
        if self.INFERENCE_CHUNK_OVERLAP >= self.INFERENCE_CHUNK_SIZE:
            raise InputError(
                f"setting INFERENCE_CHUNK_OVERLAP={self.INFERENCE_CHUNK_OVERLAP:g}: "
                f"expected less than INFERENCE_CHUNK_SIZE={self.INFERENCE_CHUNK_SIZE:g}"
            )
        if self.SAVE_OPERATING_POINT and not self.is_search:
            raise InputError(
                "setting SAVE_OPERATING_POINT=true: expected two or more SEARCH_THRESHOLDS or SEARCH_SHIFTS"
            )
        if self.SAVE_OPERATING_POINT and max(map(abs, self.SEARCH_SHIFTS)) >= 1:
            raise InputError("setting SAVE_OPERATING_POINT=true: expected SEARCH_SHIFTS below 1 s, up or down")

    @property
    def is_search(self) -> bool:
        return len(self.SEARCH_THRESHOLDS) * len(self.SEARCH_SHIFTS) > 1

    @property
    def tolerances(self) -> Tolerances:
        return Tolerances(self.TOLERANCE_SECS, self.TOLERANCE_VEL)
