"""The settings of script 1."""

from dataclasses import dataclass

from ov_piano.config import FRACTION, FRACTIONS, NON_NEGATIVE, POSITIVE, SEED, SHIFT, TOLERANCE, one_of, option
from ov_piano.constants import MELS_2023
from ov_piano.errors import InputError
from ov_piano.model.networks import NETWORKS
from ov_piano.settings import Chunking, DatasetConf, DecoderConf, MapsConf, SpeedConf, StoresConf, Tolerances
from ov_piano.training.augmentation import Augmentation


def of_2023(default: object) -> dict[str, object]:
    """Published default for the network of 2023."""
    return {"NETWORK=OnsetsAndVelocities": default}


def adamwr(default: object) -> dict[str, object]:
    """Published default for AdamWR."""
    return {"OPTIMIZER=AdamWR": default}


def ends(default: object) -> dict[str, object]:
    """Default for training the note ends."""
    return {"TRAIN_ENDS=true": default}


@dataclass
class Training(StoresConf, DatasetConf):
    """Data, optimiser, regularisation and loss."""

    HDF5_MEL_PATH: str = option(
        "datasets/MAESTROv3_logmel_sr=16000_stft=2048w384h_mel=250(50-8000).h5",
        "log-mels, from script 0a or 0b",
        presets=of_2023("datasets/MAESTROv3_logmel_sr=16000_stft=2048w384h_mel=229(50-8000).h5"),
    )
    SNAPSHOT_INPATH: str | None = option(None, "snapshot to start from; null: random weights")
    OUTPUT_DIR: str = option("out", "folder for logs, snapshots and training states")
    TRAIN_BS: int = option(30, "batch size, in chunks", POSITIVE, of_2023(40))
    TRAIN_BATCH_SECS: float = option(5.0, "chunk length in seconds", POSITIVE, ends(10.0))
    DATALOADER_WORKERS: int = option(8, "processes that load chunks; 0: load in the training process", NON_NEGATIVE)
    LR_MAX: float = option(6.0, "maximum learning rate of the first cycle", POSITIVE, ends(0.006) | adamwr(0.008))
    LR_MIN: float = option(1.0e-05, "minimum learning rate of the first cycle (SGDR)", NON_NEGATIVE)
    LR_PERIOD: int = option(1500, "length of the first cycle, in steps", POSITIVE, ends(2000) | adamwr(1000))
    LR_DECAY: float = option(0.95, "factor applied to both learning rates after each cycle", POSITIVE, adamwr(0.975))
    LR_SLOWDOWN: float = option(1.0, "factor applied to the cycle length after each cycle", POSITIVE)
    MOMENTUM: float = option(0.85, "momentum (SGDR)", FRACTION)
    WEIGHT_DECAY: float = option(0.0, "weight decay", NON_NEGATIVE, adamwr(0.0003))
    BATCH_NORM: float = option(
        0.85, "batch-norm momentum: weight of the newest batch", FRACTION, ends(0.1) | of_2023(0.95)
    )
    DROPOUT: float = option(0.15, "dropout probability", FRACTION)
    LEAKY_RELU_SLOPE: float = option(0.1, "negative slope of the leaky ReLUs", NON_NEGATIVE)
    ONSET_POSITIVES_WEIGHT: float = option(8.0, "weight of positives in the onset loss", POSITIVE)
    VEL_LOSS_LAMBDA: float = option(10.0, "weight of the velocity loss in the total loss", NON_NEGATIVE)
    EDGE_LOSS_WEIGHT: float = option(
        0.0,
        "loss weight of the last frames of each chunk; every second one then ends as a live stream does; 0: neither",
        NON_NEGATIVE,
    )
    TRAINABLE_ONSETS: bool = option(True, "false: train only the velocity stage")
    NUM_EPOCHS: int = option(30, "number of epochs", POSITIVE, of_2023(10))
    TRAIN_LOG_EVERY: int = option(10, "steps between log lines", POSITIVE)


@dataclass
class Validation:
    """When and how to cross-validate."""

    XV_EVERY: int = option(500, "steps between cross-validations", POSITIVE, of_2023(1000))
    XV_CHUNK_SIZE: float = option(600.0, "chunk length for transcription, in seconds", POSITIVE)
    XV_CHUNK_OVERLAP: float = option(2.5, "overlap of neighbouring chunks, in seconds", NON_NEGATIVE)
    XV_THRESHOLDS: list[float] = option(
        [0.6, 0.675, 0.7, 0.725, 0.75, 0.775, 0.8],
        "onset thresholds to try",
        FRACTIONS,
        of_2023([0.7, 0.725, 0.75, 0.775, 0.8]),
    )


@dataclass
class Scoring:
    """What counts as correct in cross-validation."""

    XV_TOLERANCE_SECS: float = option(0.05, "onset tolerance in seconds", TOLERANCE)
    XV_TOLERANCE_VEL: float = option(0.1, "velocity tolerance on a scale of 0-1", TOLERANCE)
    XV_SHIFT: float = option(-0.01, "seconds added to detected onsets before scoring", SHIFT)


@dataclass
class Running:
    """Length of the run, resuming, batch-norm statistics, augmentation and caching."""

    RANDOM_SEED: int = option(0, "seed for initial weights, chunk order and dropout", SEED)
    MAX_STEPS: int | None = option(None, "maximum number of steps; null: no limit", POSITIVE, ends(2100))
    SAVE_EVERY: int = option(100, "steps between saves of the training state", POSITIVE)
    RESUME: str | None = option(
        None, "training state to resume from; auto: the newest in OUTPUT_DIR, or start afresh if there is none"
    )
    BN_REESTIMATE_BATCHES: int = option(
        0, "batches to re-estimate batch-norm statistics from before cross-validation; 0: keep them", NON_NEGATIVE
    )
    AVERAGE_DECAY: float = option(
        0.0,
        "decay per step of a moving average of the weights, which is then validated and saved (use it with "
        "BN_REESTIMATE_BATCHES); 0: no average",
        FRACTION,
    )
    AUGMENT_RESPONSE_DB: float = option(
        0.0, "standard deviation of a random frequency response per chunk, in dB", NON_NEGATIVE
    )
    AUGMENT_GAIN_DB: float = option(0.0, "maximum random gain per chunk, up or down, in dB", NON_NEGATIVE)
    AUGMENT_TRANSPOSE: int = option(0, "maximum random transposition per chunk, in semitones", NON_NEGATIVE)
    AUGMENT_MIX: float = option(0.0, "probability of mixing a chunk with another of the batch", FRACTION)
    AUGMENT_NOISE: float = option(0.0, "probability of adding background noise to a chunk", FRACTION)
    AUGMENT_MASK: float = option(0.0, "probability of masking a range of mel bands in a chunk", FRACTION)
    FRAME_CACHE: bool = option(
        True, "read chunks from an uncompressed copy of the log-mels, created on first use if the disk has room"
    )
    KEEP_SNAPSHOTS: int | None = option(
        None, "how many of the best and of the newest snapshots of this run to keep; null keeps all", POSITIVE
    )


@dataclass
class Method:
    """Network and optimiser."""

    NETWORK: str = option(
        "OnsetVelocityNet",
        "network to train: OnsetVelocityNet (2022) or OnsetsAndVelocities (2023, 229 mel bands)",
        one_of(*NETWORKS),
    )
    OPTIMIZER: str = option(
        "SGDR",
        "SGDR (SGD with momentum) or AdamWR (AdamW), both with warm restarts",
        one_of("SGDR", "AdamWR"),
        ends("AdamWR") | of_2023("AdamWR"),
    )
    LR_WARMUP: float = option(
        0.5, "linear warm-up before the first cycle, as a multiple of LR_PERIOD (AdamWR)", NON_NEGATIVE, ends(0.05)
    )
    TRAIN_ENDS: bool = option(
        False, "train the end stage for note ends instead, on the frozen network of SNAPSHOT_INPATH"
    )
    ENDS_INPATH: str | None = option(
        None, "note ends to start from (TRAIN_ENDS), also those of another snapshot; null: random weights"
    )


@dataclass
class TrainConf(Method, SpeedConf, Running, MapsConf, Scoring, DecoderConf, Validation, Training):
    """All settings, each overridden by KEY=value; printed from the last base class to the first."""

    def __post_init__(self) -> None:
        if self.OPTIMIZER == "SGDR" and self.LR_MIN > self.LR_MAX:
            raise InputError(f"setting LR_MIN={self.LR_MIN}: expected at most LR_MAX={self.LR_MAX}")
        if self.LR_PERIOD < 2:
            raise InputError(f"setting LR_PERIOD={self.LR_PERIOD}: expected at least 2 steps")
        if self.AVERAGE_DECAY == 1:
            raise InputError("setting AVERAGE_DECAY=1: expected less, or the average never changes")
        if self.ENDS_INPATH is not None and not self.TRAIN_ENDS:
            raise InputError(f"setting ENDS_INPATH={self.ENDS_INPATH}: expected TRAIN_ENDS=true")
        if self.TRAIN_ENDS and self.EDGE_LOSS_WEIGHT:
            raise InputError(f"setting EDGE_LOSS_WEIGHT={self.EDGE_LOSS_WEIGHT:g}: expected 0 with TRAIN_ENDS=true")
        if self.TRAIN_ENDS and self.AUGMENT_MIX:
            raise InputError(f"setting AUGMENT_MIX={self.AUGMENT_MIX:g}: expected 0 with TRAIN_ENDS=true")
        if self.TRAIN_ENDS and not self.TRAINABLE_ONSETS:
            raise InputError("setting TRAIN_ENDS=true: expected TRAINABLE_ONSETS=true (the network is frozen anyway)")

    @property
    def tolerances(self) -> Tolerances:
        return Tolerances(self.XV_TOLERANCE_SECS, self.XV_TOLERANCE_VEL)

    def check_mel_bands(self, mels: int) -> None:
        """:raises InputError: NETWORK cannot use log-mels of ``mels`` bands; that of 2022 takes any number"""
        if self.NETWORK == "OnsetsAndVelocities" and mels != MELS_2023:
            raise InputError(
                f"{self.HDF5_MEL_PATH}: NETWORK={self.NETWORK} needs log-mels of {MELS_2023} bands (script 0a or 0b "
                f"with MELBINS={MELS_2023}), found {mels}"
            )

    def chunk_length_and_stride(self, frame_secs: float) -> tuple[int, int]:
        """Frames in a training chunk and from one to the next: about one chunk per second of audio."""
        length = round(self.TRAIN_BATCH_SECS / frame_secs)
        least = 3 if self.TRAIN_BS == 1 else 2  # batch norms need two values; the first frame of a chunk is context
        if length < least:
            raise InputError(f"setting TRAIN_BATCH_SECS={self.TRAIN_BATCH_SECS:g}: expected at least {least} frames")
        return length, min(length, round(length / self.TRAIN_BATCH_SECS))  # shorter than a second: without overlap

    def chunking(self, frame_secs: float) -> Chunking:
        """How cross-validation splits recordings; :raises InputError: the settings do not fit the frames"""
        return Chunking.from_secs(self.XV_CHUNK_SIZE, self.XV_CHUNK_OVERLAP, frame_secs)

    def augmentation(self, mel_range_hz: tuple[float, float]) -> Augmentation:
        """The augmentation that the AUGMENT_ settings describe."""
        return Augmentation(
            response_db=self.AUGMENT_RESPONSE_DB,
            gain_db=self.AUGMENT_GAIN_DB,
            transpose=self.AUGMENT_TRANSPOSE,
            mix=self.AUGMENT_MIX,
            noise=self.AUGMENT_NOISE,
            mask=self.AUGMENT_MASK,
            mel_range_hz=mel_range_hz,
        )
