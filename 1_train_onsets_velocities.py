"""Train an onset and velocity network on a pair of HDF5 files made by script 0a or 0b.

1. Cut the training recordings into overlapping chunks and shuffle them across recordings.
2. At each step, compute the loss against the piano rolls and update the weights; the
   learning rate follows a cosine with warm restarts, lower from cycle to cycle.
3. Before each update, read breakpoint.json, which can pause the run in the debugger.
4. Every XV_EVERY steps, transcribe and score every fifth validation recording and save a
   snapshot with the score in its name; also save one at the end of each cycle.
5. Save the training state as well: RESUME continues from it exactly.
"""

import ov_piano  # noqa: F401 -- first: it configures torch's threads before torch is imported

# isort: split
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ov_piano.cli import run
from ov_piano.config import to_yaml
from ov_piano.constants import KEY_ROWS, SOUNDING_KEY_ROWS
from ov_piano.data.chunks import ChunkDataset, RecordingDataset
from ov_piano.data.frame_cache import open_frame_cache
from ov_piano.data.hdf5 import StorePair, open_pair
from ov_piano.data.loader import training_loader
from ov_piano.data.splits import midi_paths, split_indices
from ov_piano.errors import InputError
from ov_piano.evaluation.ground_truth import load_ground_truths
from ov_piano.log import RunLog, timestamp
from ov_piano.machine.atomic import locked, remove_partials
from ov_piano.machine.memory import keep_freed_memory
from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.ends import add_end_stage, initialise_from
from ov_piano.model.networks import NETWORKS, load_weights
from ov_piano.model.sidecar import read_sidecar
from ov_piano.plots.learning_curve import LearningCurve
from ov_piano.provenance import git_commit
from ov_piano.training.batch_norm import random_logmels
from ov_piano.training.breakpoint import BreakpointFile, has_terminal
from ov_piano.training.conf import TrainConf as ConfDef
from ov_piano.training.cross_validation import CrossValidation, format_scores
from ov_piano.training.ends import EndForward, EndStep
from ov_piano.training.interrupt import StopRequest
from ov_piano.training.processes import Processes
from ov_piano.training.schedule import CyclicDecay, Schedule, WarmUpCyclicDecay
from ov_piano.training.snapshots import SnapshotFolder
from ov_piano.training.state import find_state
from ov_piano.training.step import TrainingForward, TrainingStep, adamw, sgd
from ov_piano.training.time_left import TimeLeft
from ov_piano.training.trainer import Trainer
from ov_piano.transcription.decoder import Decoder

XV_TAKE_ONE_EVERY = 5  # use every fifth validation recording


def training_chunks(conf: ConfDef, pair: StorePair) -> ChunkDataset:
    """Chunks of TRAIN_BATCH_SECS, about one per second of audio."""
    length, stride = conf.chunk_length_and_stride(pair.frame_secs)
    if conf.TRAIN_ENDS and not pair.roll_name.extend_sustain:
        raise InputError(f"{conf.HDF5_ROLL_PATH}: TRAIN_ENDS needs piano rolls made with MIDI_SUS_EXTEND=true")
    rows = SOUNDING_KEY_ROWS if conf.TRAIN_ENDS else KEY_ROWS
    return ChunkDataset(pair, split_indices(pair, "train"), length, stride, rows=rows)


def build_model(conf: ConfDef, mels: int, device: torch.device, snapshot: str | None) -> OnsetVelocityBase:
    """Build the network with seeded weights, or with those of a snapshot."""
    torch.manual_seed(conf.RANDOM_SEED)
    model = NETWORKS[conf.NETWORK](
        mels, batch_norm=conf.BATCH_NORM, leaky_relu_slope=conf.LEAKY_RELU_SLOPE, dropout=conf.DROPOUT
    )
    if snapshot is not None:
        load_weights(snapshot, model)
    if conf.TRAIN_ENDS:
        add_end_stage(model, batch_norm=conf.BATCH_NORM, leaky_relu_slope=conf.LEAKY_RELU_SLOPE)
        if snapshot is not None and conf.ENDS_INPATH is not None:
            initialise_from(conf.ENDS_INPATH, model)
        model.freeze_all_but_ends()
    if not conf.TRAINABLE_ONSETS:
        model.freeze_onsets()
    return model.to(device)


def build_step(conf: ConfDef, model: OnsetVelocityBase, processes: Processes) -> TrainingStep | EndStep:
    """The training step of the network, or with TRAIN_ENDS that of its end stage."""
    fast = conf.FAST and processes.world == 1  # the kernels' batch norms do not synchronise processes
    optimizer, schedule = build_optimizer(conf, model)
    if conf.TRAIN_ENDS:
        forward = processes.parallel(EndForward(model, fast))
        return EndStep(forward, optimizer, schedule, over_processes=processes.mean, bf16=conf.BF16)
    return TrainingStep(
        processes.parallel(TrainingForward(model, conf.TRAINABLE_ONSETS, fast)),
        optimizer,
        schedule,
        positives_weight=conf.ONSET_POSITIVES_WEIGHT,
        velocity_weight=conf.VEL_LOSS_LAMBDA,
        train_onsets=conf.TRAINABLE_ONSETS,
        edge_weight=conf.EDGE_LOSS_WEIGHT,
        bf16=conf.BF16,
    )


def build_optimizer(conf: ConfDef, model: OnsetVelocityBase) -> tuple[torch.optim.Optimizer, Schedule]:
    """The optimiser that OPTIMIZER names and its learning-rate schedule."""
    cycles = (conf.LR_PERIOD, conf.LR_DECAY, conf.LR_SLOWDOWN)
    if conf.OPTIMIZER == "AdamWR":
        warmup = round(conf.LR_WARMUP * conf.LR_PERIOD)
        return adamw(model, conf.WEIGHT_DECAY), WarmUpCyclicDecay(conf.LR_MAX, warmup, *cycles)
    return sgd(model, conf.MOMENTUM, conf.WEIGHT_DECAY), CyclicDecay(conf.LR_MAX, conf.LR_MIN, *cycles)


def build_cross_validation(conf: ConfDef, pair: StorePair, processes: Processes) -> CrossValidation:
    """Cross-validation on every fifth validation recording."""
    indices = split_indices(pair, "validation")[::XV_TAKE_ONE_EVERY]
    return CrossValidation(
        RecordingDataset(pair, indices),
        references=load_ground_truths(midi_paths(pair, indices, conf.folders)),
        decoder=Decoder(conf.decoder),
        thresholds=conf.XV_THRESHOLDS,
        shift_secs=conf.XV_SHIFT,
        chunking=conf.chunking(pair.frame_secs),
        tolerances=conf.tolerances,
        processes=processes,
    )


def build_trainer(conf: ConfDef, pair: StorePair, chunks: ChunkDataset, processes: Processes) -> Trainer:
    """The trainer at step 0, or at the state that RESUME names."""
    states_folder = Path(conf.OUTPUT_DIR) / "training_states"
    remove_partials(states_folder)  # left by a run killed during its last save
    state = find_state(conf.RESUME, states_folder)
    snapshot = None if state else conf.SNAPSHOT_INPATH  # not needed to resume, and may be gone by then
    if snapshot is not None:
        read_sidecar(snapshot).check(conf.LEAKY_RELU_SLOPE, pair.mel_name.settings, conf.HDF5_MEL_PATH)
    if conf.TRAIN_ENDS and state is None and snapshot is None:
        raise InputError("setting TRAIN_ENDS=true: expected SNAPSHOT_INPATH, the network to train note ends for")
    model = processes.synchronise_norms(build_model(conf, pair.mel.height, processes.device, snapshot))
    batches = (conf.BN_REESTIMATE_BATCHES, conf.TRAIN_BS, conf.RANDOM_SEED)
    average = None
    if conf.AVERAGE_DECAY:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(conf.AVERAGE_DECAY))
    trainer = Trainer(
        model,
        build_step(conf, model, processes),
        build_cross_validation(conf, pair, processes),
        processes,
        conf.RANDOM_SEED,
        recording_names=[metadata.basename for metadata in pair.metadata],
        augment=conf.augmentation((pair.mel_name.settings.fmin, pair.mel_name.settings.fmax)),
        wants_pause=BreakpointFile("breakpoint.json", processes.world == 1 and has_terminal()).wants_pause,
        snapshots=SnapshotFolder(
            Path(conf.OUTPUT_DIR) / "model_snapshots",
            conf.KEEP_SNAPSHOTS,
            conf.LEAKY_RELU_SLOPE,
            pair.mel_name.settings,
            {"dataset": pair.dataset, "commit": git_commit()},
        ),
        states_folder=states_folder,
        conf_yaml=to_yaml(conf),
        norm_batches=partial(random_logmels, chunks, *batches) if conf.BN_REESTIMATE_BATCHES else None,
        fast=conf.FAST,
        average=average,
    )
    if state:
        trainer.resume(state)
    return trainer


def validate(trainer: Trainer, log: RunLog, curve: LearningCurve) -> None:
    """Cross-validate, log the scores and save a snapshot."""
    model, scores, secs = trainer.validate()
    log.record(step=trainer.step, xv=scores, xv_secs=secs)
    curve.refresh()
    log.info("step %d, cross-validation in %.0f s: %s", trainer.step, secs, format_scores(scores))
    trainer.save(model, scores)


def main(conf: ConfDef) -> None:
    """Train until the last epoch ends, MAX_STEPS, or Ctrl-C (which saves the training state)."""
    keep_freed_memory()
    with (
        Processes.from_environment(conf.DEVICE, conf.TF32) as processes,
        RunLog(conf.OUTPUT_DIR, timestamp(), processes.is_first) as log,
        locked(Path(conf.OUTPUT_DIR) / "training_states", wait=False) if processes.is_first else nullcontext(),
        LearningCurve(conf.OUTPUT_DIR, log.writer) as curve,
    ):
        log.note(f"{to_yaml(conf)}\ncommit: {git_commit()}\n")
        pair = open_pair(conf.HDF5_MEL_PATH, conf.HDF5_ROLL_PATH)
        conf.check_mel_bands(pair.mel.height)
        chunks = training_chunks(conf, pair)
        trainer = build_trainer(conf, pair, chunks, processes)
        with processes.first_before_others():  # after all that a wrong setting could stop: it may take many minutes
            chunks.cache = open_frame_cache(pair) if conf.FRAME_CACHE else None
        if processes.world > 1 and processes.device.type == "cpu":
            log.logger.warning("training in several processes on the CPU is experimental and no faster than in one")
        if conf.FAST and processes.world > 1:
            log.info("training in several processes: using plain PyTorch, as with FAST=false")
        share = {"rank": processes.rank, "world": processes.world, "pin_memory": processes.device.type == "cuda"}
        with (
            training_loader(chunks, conf.TRAIN_BS, conf.DATALOADER_WORKERS, conf.RANDOM_SEED, **share) as loader,
            StopRequest() as stop,
        ):
            log.info("%d chunks, %d batches per epoch", len(chunks), loader.batches_per_epoch)
            steps = conf.NUM_EPOCHS * loader.batches_per_epoch
            time_left = TimeLeft(trainer.step, min(steps, conf.MAX_STEPS or steps))
            for batch in trainer.batches(loader, conf.NUM_EPOCHS, conf.MAX_STEPS):
                report = trainer.train_on(batch)
                log.record(step=trainer.step, epoch=trainer.epoch, **report.record())
                if trainer.step % conf.TRAIN_LOG_EVERY == 0:
                    left = time_left(trainer.step)
                    log.info("epoch %d step %d: %s, %s left", trainer.epoch, trainer.step, report, left)
                if trainer.step % conf.XV_EVERY == 0:
                    validate(trainer, log, curve)
                elif report.cycle_ends:
                    trainer.save(trainer.model_for_use())
                stops = processes.any(bool(stop))
                if stops or trainer.step % conf.SAVE_EVERY == 0:
                    trainer.save_state()
                if stops:
                    raise KeyboardInterrupt
            if not trainer.is_validated:
                validate(trainer, log, curve)


if __name__ == "__main__":
    run(main, ConfDef)
