"""Train the onset and velocity network on a pair of HDF5 files made by script 0a or 0b.

1. Cut the training recordings into overlapping chunks, shuffled over all recordings.
2. At every step, compare the network's onsets and velocities with the rolls and descend;
   the learning rate falls along a cosine and restarts, lower, cycle after cycle.
3. Before each descent look into breakpoint.json: it can stop the run in the debugger.
4. Every XV_EVERY steps, transcribe every fifth validation recording, score it, and save a
   snapshot with the score in its name; one more at each cycle's end.
5. Beside the snapshots, save the training state: RESUME continues from it exactly.
"""

import ov_piano  # noqa: F401 -- first, since torch's threads are configured when torch is imported

# isort: split
import copy
import sys
import time
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
import torch

from ov_piano.atomic import remove_leftovers
from ov_piano.cli import run
from ov_piano.config import FRACTION, FRACTIONS, NON_NEGATIVE, POSITIVE, SEED, one_of, option, to_yaml
from ov_piano.constants import MELS_2023
from ov_piano.data.chunks import ChunkDataset, RecordingDataset
from ov_piano.data.frame_cache import open_frame_cache
from ov_piano.data.hdf5 import StorePair, open_pair
from ov_piano.data.loader import training_loader
from ov_piano.data.splits import midi_paths, split_indices
from ov_piano.errors import InputError
from ov_piano.evaluation.ground_truth import load_ground_truths
from ov_piano.log import RunLog, timestamp
from ov_piano.memory import keep_freed_memory
from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.fast import optimize_for_inference
from ov_piano.model.networks import NETWORKS, load_weights
from ov_piano.model.snapshot import save_snapshot
from ov_piano.plots.learning_curve import LearningCurve
from ov_piano.provenance import git_commit
from ov_piano.settings import Chunking, DatasetConf, DecoderConf, MapsConf, SpeedConf, StoresConf, Tolerances
from ov_piano.training.augmentation import Augmentation
from ov_piano.training.batch_norm import reestimate_statistics
from ov_piano.training.breakpoint import BreakpointFile
from ov_piano.training.cross_validation import CrossValidation, in_words, summary
from ov_piano.training.interrupt import StopRequest
from ov_piano.training.processes import Processes
from ov_piano.training.run import TrainingRun
from ov_piano.training.schedule import CyclicDecay, Schedule, WarmUpCyclicDecay
from ov_piano.training.state import find_state
from ov_piano.training.step import TrainingForward, TrainingStep, adamw, sgd
from ov_piano.transcription.decoder import Decoder

XV_TAKE_ONE_EVERY = 5  # validation recordings


def of_2023(default: object) -> dict[str, object]:
    """The published default of the second network."""
    return {"NETWORK=OnsetsAndVelocities": default}


def adamwr(default: object) -> dict[str, object]:
    """The published default of the second optimiser."""
    return {"OPTIMIZER=AdamWR": default}


@dataclass
class Training(StoresConf, DatasetConf):
    """What is trained, on what, and how."""

    HDF5_MEL_PATH: str = option(
        "datasets/MAESTROv3_logmel_sr=16000_stft=2048w384h_mel=250(50-8000).h5",
        "log-mels, from script 0a or 0b",
        presets=of_2023("datasets/MAESTROv3_logmel_sr=16000_stft=2048w384h_mel=229(50-8000).h5"),
    )
    SNAPSHOT_INPATH: str | None = option(None, "snapshot whose weights to start from")
    OUTPUT_DIR: str = option("out", "folder for logs, snapshots and training states")
    TRAIN_BS: int = option(30, "chunks in a batch", POSITIVE, of_2023(40))
    TRAIN_BATCH_SECS: float = option(5.0, "length of a chunk in seconds", POSITIVE)
    DATALOADER_WORKERS: int = option(8, "processes that read chunks; 0 reads in the training process", NON_NEGATIVE)
    LR_MAX: float = option(6.0, "learning rate at the start of the first cycle", POSITIVE, adamwr(0.008))
    LR_MIN: float = option(1.0e-05, "learning rate at the end of the first cycle (SGDR)", NON_NEGATIVE)
    LR_PERIOD: int = option(1500, "steps in the first cycle", POSITIVE, adamwr(1000))
    LR_DECAY: float = option(0.95, "factor of both rates after each cycle", POSITIVE, adamwr(0.975))
    LR_SLOWDOWN: float = option(1.0, "factor of the period after each cycle", POSITIVE)
    MOMENTUM: float = option(0.85, "momentum of the descent (SGDR)", FRACTION)
    WEIGHT_DECAY: float = option(0.0, "weight decay", NON_NEGATIVE, adamwr(0.0003))
    BATCH_NORM: float = option(0.85, "weight of the newest batch in the batch-norm statistics", FRACTION, of_2023(0.95))
    DROPOUT: float = option(0.15, "dropout probability", FRACTION)
    LEAKY_RELU_SLOPE: float = option(0.1, "slope of the leaky ReLUs below zero", NON_NEGATIVE)
    ONSET_POSITIVES_WEIGHT: float = option(8.0, "weight of onsets against non-onsets in the loss", POSITIVE)
    VEL_LOSS_LAMBDA: float = option(10.0, "weight of the velocity loss", NON_NEGATIVE)
    TRAINABLE_ONSETS: bool = option(True, "false trains the velocity stage alone")
    NUM_EPOCHS: int = option(30, "passes over the training chunks", POSITIVE, of_2023(10))
    TRAIN_LOG_EVERY: int = option(10, "steps between log lines", POSITIVE)


@dataclass
class Validation:
    """When and how to cross-validate."""

    XV_EVERY: int = option(500, "steps between cross-validations", POSITIVE, of_2023(1000))
    XV_CHUNK_SIZE: float = option(600.0, "length in seconds that is transcribed in one piece", POSITIVE)
    XV_CHUNK_OVERLAP: float = option(2.5, "overlap in seconds of such pieces", NON_NEGATIVE)
    XV_THRESHOLDS: list[float] = option(
        [0.6, 0.675, 0.7, 0.725, 0.75, 0.775, 0.8],
        "onset probabilities to try as thresholds",
        FRACTIONS,
        of_2023([0.7, 0.725, 0.75, 0.775, 0.8]),
    )


@dataclass
class Scoring:
    """What counts as correct in cross-validation."""

    XV_TOLERANCE_SECS: float = option(0.05, "how far a correct onset may be off, in seconds", POSITIVE)
    XV_TOLERANCE_VEL: float = option(0.1, "how far a correct velocity may be off, of 0-1", POSITIVE)
    XV_SHIFT: float = option(-0.01, "seconds added to detected onsets before scoring")


@dataclass
class Running:
    """How long the run goes on, and what else it does."""

    RANDOM_SEED: int = option(0, "makes a run repeatable: weights, order of the chunks, dropout", SEED)
    MAX_STEPS: int | None = option(None, "stop after so many steps, if the epochs have not ended before", POSITIVE)
    SAVE_EVERY: int = option(100, "steps between saves of the training state", POSITIVE)
    RESUME: str | None = option(
        None, "training state to continue from; auto: the newest in OUTPUT_DIR, or from the start where there is none"
    )
    BN_REESTIMATE_BATCHES: int = option(
        0, "batches over which batch-norm statistics are averaged before cross-validation; 0 keeps them", NON_NEGATIVE
    )
    AUGMENT_RESPONSE_DB: float = option(
        0.0, "standard deviation in dB of a random frequency response for each chunk", NON_NEGATIVE
    )
    AUGMENT_GAIN_DB: float = option(0.0, "largest random change of a chunk's level in dB", NON_NEGATIVE)
    AUGMENT_TRANSPOSE: int = option(0, "largest random transposition of a chunk in semitones", NON_NEGATIVE)
    AUGMENT_MIX: float = option(0.0, "probability of mixing a chunk with another one of the batch", FRACTION)
    AUGMENT_NOISE: float = option(0.0, "probability of background noise in a chunk", FRACTION)
    AUGMENT_MASK: float = option(0.0, "probability of silencing a band of mels in a chunk", FRACTION)
    FRAME_CACHE: bool = option(
        True, "read chunks from an uncompressed copy beside the log-mels, made at the first use if the disk has room"
    )


@dataclass
class Method:
    """Which of the published networks, and how it learns."""

    NETWORK: str = option(
        "OnsetVelocityNet",
        "what to train: OnsetVelocityNet (2022) or OnsetsAndVelocities (2023, 229 mel bands)",
        one_of(*NETWORKS),
    )
    OPTIMIZER: str = option(
        "SGDR",
        "SGDR: gradient descent with momentum, AdamWR: AdamW; both with warm restarts",
        one_of("SGDR", "AdamWR"),
        of_2023("AdamWR"),
    )
    LR_WARMUP: float = option(
        0.5, "steps of linear warm-up before the first cycle, in LR_PERIODs (AdamWR)", NON_NEGATIVE
    )


@dataclass
class ConfDef(Method, SpeedConf, Running, MapsConf, Scoring, DecoderConf, Validation, Training):
    """All settings, each overridden by KEY=value; printed from the last group named here to the first."""

    def __post_init__(self) -> None:
        if self.OPTIMIZER == "SGDR" and self.LR_MIN > self.LR_MAX:
            raise InputError(f"setting LR_MIN={self.LR_MIN}: expected at most LR_MAX={self.LR_MAX}")
        if self.LR_PERIOD < 2:
            raise InputError(f"setting LR_PERIOD={self.LR_PERIOD}: expected at least 2 steps")


def open_stores(conf: ConfDef) -> StorePair:
    """The pair of HDF5 files; the network of 2023 is one for 229 mel bands, that of 2022 takes any number."""
    pair = open_pair(conf.HDF5_MEL_PATH, conf.HDF5_ROLL_PATH)
    if conf.NETWORK == "OnsetsAndVelocities" and pair.mel.height != MELS_2023:
        raise InputError(
            f"{conf.HDF5_MEL_PATH}: NETWORK={conf.NETWORK} needs log-mels of {MELS_2023} bands (script 0a or 0b with "
            f"MELBINS={MELS_2023}), found {pair.mel.height}"
        )
    return pair


def training_chunks(conf: ConfDef, pair: StorePair, processes: Processes) -> ChunkDataset:
    """Chunks of TRAIN_BATCH_SECS, about one a second."""
    length = round(conf.TRAIN_BATCH_SECS / pair.frame_secs)
    if length < 2:
        raise InputError(f"setting TRAIN_BATCH_SECS={conf.TRAIN_BATCH_SECS:g}: expected two frames or more")
    stride = min(length, round(length / conf.TRAIN_BATCH_SECS))  # below a second: one after the other
    with processes.first_before_others():
        cache = open_frame_cache(pair) if conf.FRAME_CACHE else None
    return ChunkDataset(pair, split_indices(pair, "train"), length, stride, cache)


def build_model(conf: ConfDef, mels: int, device: torch.device, snapshot: str | None) -> OnsetVelocityBase:
    """The network with seeded weights, or those of a snapshot."""
    torch.manual_seed(conf.RANDOM_SEED)
    model = NETWORKS[conf.NETWORK](
        mels, batch_norm=conf.BATCH_NORM, leaky_relu_slope=conf.LEAKY_RELU_SLOPE, dropout=conf.DROPOUT
    )
    if snapshot is not None:
        load_weights(snapshot, model)
    if not conf.TRAINABLE_ONSETS:
        model.freeze_onsets()
    return model.to(device)


def build_optimizer(conf: ConfDef, model: OnsetVelocityBase) -> tuple[torch.optim.Optimizer, Schedule]:
    """OPTIMIZER with its learning rates."""
    cycles = (conf.LR_PERIOD, conf.LR_DECAY, conf.LR_SLOWDOWN)
    if conf.OPTIMIZER == "AdamWR":
        warmup = round(conf.LR_WARMUP * conf.LR_PERIOD)
        return adamw(model, conf.WEIGHT_DECAY), WarmUpCyclicDecay(conf.LR_MAX, warmup, *cycles)
    return sgd(model, conf.MOMENTUM, conf.WEIGHT_DECAY), CyclicDecay(conf.LR_MAX, conf.LR_MIN, *cycles)


def build_augmentation(conf: ConfDef, pair: StorePair) -> Augmentation:
    """The variations of chunks that the configuration asks for."""
    return Augmentation(
        response_db=conf.AUGMENT_RESPONSE_DB,
        gain_db=conf.AUGMENT_GAIN_DB,
        transpose=conf.AUGMENT_TRANSPOSE,
        mix=conf.AUGMENT_MIX,
        noise=conf.AUGMENT_NOISE,
        mask=conf.AUGMENT_MASK,
        mel_range_hz=(pair.mel_name.settings.fmin, pair.mel_name.settings.fmax),
    )


def build_run(conf: ConfDef, pair: StorePair, processes: Processes) -> TrainingRun:
    """The training at its first step, or where RESUME says."""
    states_folder = Path(conf.OUTPUT_DIR) / "training_states"
    remove_leftovers(states_folder)  # of a run killed at its last save, after which no other follows
    state = find_state(conf.RESUME, states_folder)
    snapshot = None if state else conf.SNAPSHOT_INPATH  # which may be gone by the time that a run is continued
    model = processes.synchronise_norms(build_model(conf, pair.mel.height, processes.device, snapshot))
    fast = conf.FAST and processes.world == 1  # its batch norms know of one process only
    optimizer, schedule = build_optimizer(conf, model)
    training_step = TrainingStep(
        processes.parallel(TrainingForward(model, conf.TRAINABLE_ONSETS, fast)),
        optimizer,
        schedule,
        positives_weight=conf.ONSET_POSITIVES_WEIGHT,
        velocity_weight=conf.VEL_LOSS_LAMBDA,
        train_onsets=conf.TRAINABLE_ONSETS,
        bf16=conf.BF16,
    )
    has_terminal = sys.stdin is not None and sys.stdin.isatty()  # None: it was closed
    training = TrainingRun(
        model,
        training_step,
        processes,
        conf.RANDOM_SEED,
        names=[metadata.basename for metadata in pair.metadata],
        augment=build_augmentation(conf, pair),
        wants_pause=BreakpointFile("breakpoint.json", processes.world == 1 and has_terminal).wants_pause,
        states_folder=states_folder,
        conf_yaml=to_yaml(conf),
    )
    if state:
        training.resume(state)
    return training


def build_cross_validation(conf: ConfDef, pair: StorePair, processes: Processes) -> CrossValidation:
    """Every fifth validation recording with its ground truth."""
    indices = split_indices(pair, "validation")[::XV_TAKE_ONE_EVERY]
    return CrossValidation(
        RecordingDataset(pair, indices),
        references=load_ground_truths(midi_paths(pair, indices, conf.folders)),
        decoder=Decoder(conf.decoder),
        thresholds=conf.XV_THRESHOLDS,
        shift_secs=conf.XV_SHIFT,
        chunking=Chunking.from_secs(conf.XV_CHUNK_SIZE, conf.XV_CHUNK_OVERLAP, pair.frame_secs),
        tolerances=Tolerances(conf.XV_TOLERANCE_SECS, conf.XV_TOLERANCE_VEL),
        processes=processes,
    )


def model_in_use(conf: ConfDef, training: TrainingRun, chunks: ChunkDataset) -> OnsetVelocityBase:
    """A copy of the model for use now, in eval mode; with averaged batch-norm statistics, if so configured."""
    model = copy.deepcopy(training.model).eval()
    if conf.BN_REESTIMATE_BATCHES:
        order = np.random.default_rng(conf.RANDOM_SEED).permutation(len(chunks))
        items = order[: conf.BN_REESTIMATE_BATCHES * conf.TRAIN_BS]
        batches = np.array_split(items, max(1, len(items) // conf.TRAIN_BS))
        reestimate_statistics(model, (chunks.__getitems__(b).logmel.to(training.processes.device) for b in batches))
    return model


def snapshot_path(conf: ConfDef, step: int, scores: dict[str, float] | None = None) -> Path:
    """Where the snapshot of a step goes; cross-validated ones have their scores in their name, as published."""
    score = "" if scores is None else f"_f1={scores['F1']:.4f}"
    if scores is not None and conf.NETWORK == "OnsetsAndVelocities":
        score += f"__{scores['F1_velocities']:.4f}"
    return Path(conf.OUTPUT_DIR) / "model_snapshots" / f"{conf.NETWORK}_{timestamp()}step={step}{score}.torch"


def is_validated(conf: ConfDef, step: int) -> bool:
    """Whether a cross-validated snapshot of ``step`` is there: the run that is resumed came to its end."""
    return any((Path(conf.OUTPUT_DIR) / "model_snapshots").glob(f"*step={step}_f1=*.torch"))


def main(conf: ConfDef) -> None:
    """Train to the end of the last epoch, MAX_STEPS, or Ctrl-C, which saves the state first."""
    keep_freed_memory()
    with (
        Processes.from_environment(conf.DEVICE, conf.TF32) as processes,
        RunLog(conf.OUTPUT_DIR, timestamp(), processes.is_first) as log,
        LearningCurve(conf.OUTPUT_DIR, log.writer) as curve,
    ):
        log.note(f"{to_yaml(conf)}\ncommit: {git_commit()}\n")
        pair = open_stores(conf)
        chunks = training_chunks(conf, pair, processes)
        cross_validation = build_cross_validation(conf, pair, processes)
        training = build_run(conf, pair, processes)
        if conf.FAST and processes.world > 1:
            log.info("several processes: the network is computed as it is written down, as with FAST=false")

        def validate() -> None:
            started = time.perf_counter()
            model = model_in_use(conf, training, chunks)
            scores = summary(cross_validation(optimize_for_inference(model) if conf.FAST else model.infer))
            secs = time.perf_counter() - started
            log.record(step=training.step, xv=scores, xv_secs=secs)
            curve.refresh()
            log.info("step %d, cross-validation in %.0f s: %s", training.step, secs, in_words(scores))
            save(model, scores)

        def save(model: torch.nn.Module, scores: dict[str, float] | None = None) -> None:
            if processes.is_first:
                path = snapshot_path(conf, training.step, scores)
                save_snapshot(model, path)
                log.info("saved %s", path)

        def finished() -> bool:
            return training.epoch >= conf.NUM_EPOCHS or training.step >= (conf.MAX_STEPS or inf)

        share = {"rank": processes.rank, "world": processes.world, "pin_memory": processes.device.type == "cuda"}
        with (
            training_loader(chunks, conf.TRAIN_BS, conf.DATALOADER_WORKERS, conf.RANDOM_SEED, **share) as loader,
            StopRequest() as stop,
        ):
            log.info("%d chunks, %d batches an epoch", len(chunks), loader.batches_per_epoch)
            validated = training.step if is_validated(conf, training.step) else None
            while not finished():
                for batch in loader.batches(training.epoch, training.batch):
                    report = training.learn(batch)
                    log.record(step=training.step, epoch=training.epoch, **report._asdict())
                    if training.step % conf.TRAIN_LOG_EVERY == 0:
                        log.info("epoch %d step %d: %s", training.epoch, training.step, report)
                    if training.step % conf.XV_EVERY == 0:
                        validate()
                        validated = training.step
                    elif report.cycle_ends:
                        save(model_in_use(conf, training, chunks))
                    stops = processes.any(bool(stop))
                    if stops or report.cycle_ends or validated == training.step or training.step % conf.SAVE_EVERY == 0:
                        training.save_state()
                    if stops:
                        raise KeyboardInterrupt
                    if finished():
                        break
                else:
                    training.next_epoch()
            if training.step != validated:
                validate()
                training.save_state()


if __name__ == "__main__":
    run(main, ConfDef)
