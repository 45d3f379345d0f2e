"""Train note ends on stored onset logits: several times as many steps per hour as TRAIN_ENDS=true of script 1.

    python fit_ends.py SNAPSHOT STORES[,STORES] FOLDER [--initial X.ends.torch] [--steps N] [--lr LR] [--without KEY]

STORES are folders with the HDF5 files of script 0a. Script 1 runs the frozen network at every step. Here it runs once
per recording of the train split and leaves its onset logits in a subfolder of FOLDER; a later call with this network
reuses those of unchanged log-mels. The logits are those of the recording without augmentation. The ends,
FOLDER/fitted.ends.torch, are a moving average of the weights.

Their notes must end where they do in the audio, so --without KEY leaves out the recordings whose file name begins
with ``KEY_`` (see `join.py`). A second target, dropped afterwards, teaches the path of all keys the sustain pedal.
"""

import argparse
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from ov_piano.constants import SOUNDING_KEY_ROWS, SUSTAIN_ROW
from ov_piano.data.hdf5 import StorePair, open_pair
from ov_piano.data.splits import split_indices
from ov_piano.errors import InputError
from ov_piano.machine.atomic import atomic_write
from ov_piano.model.base import OnsetVelocityBase, with_differences
from ov_piano.model.end_stage import CHANNELS, STEP, EndStage
from ov_piano.model.ends import add_end_stage, fingerprint, initialise_from, save_ends
from ov_piano.model.fast import optimize_for_inference
from ov_piano.model.networks import load_network
from ov_piano.training.augmentation import Augmentation
from ov_piano.training.ends import busiest_keys, end_loss
from ov_piano.training.schedule import WarmUpCyclicDecay
from ov_piano.training.step import adamw

AUGMENTATION = Augmentation(response_db=4, gain_db=6, noise=0.25, transpose=2)
BATCH, FRAMES = 6, 417  # chunks of 10 s
WEIGHT_DECAY, WARMUP_SHARE, AVERAGE_DECAY, SAVE_EVERY = 3e-4, 0.03, 0.997, 1000
PEDAL_DOWN = 64
PEDAL_WEIGHT, LIFT_WEIGHT = 0.2, 2.0  # in the loss: of the pedal's state, and of the frames where it comes up
SILENT = -20.0  # logit of keys that a transposition brings in


def one_file(folder: Path, pattern: str) -> Path:
    """:raises InputError: the folder does not hold exactly one such file"""
    paths = list(folder.glob(pattern))
    if len(paths) != 1:
        raise InputError(f"{folder}: expected one file {pattern}, found {len(paths)}")
    return paths[0]


class StoredRecordings:
    """Log-mel, sounding velocities, pedal and onset logits of all train recordings, in memory in half the precision.

    :raises InputError: missing HDF5 files, none of pedalled notes, or no recordings in them
    """

    def __init__(self, stores: list[Path], folder: Path, model: OnsetVelocityBase, without: list[str]):
        self.recordings, self._run = [], optimize_for_inference(model).end_input
        self._folder = folder / f"logits_{bytes(fingerprint(model).tolist()).hex()}"
        self._folder.mkdir(parents=True, exist_ok=True)
        for store in stores:
            pair = open_pair(*(one_file(store, f"*_{kind}_*.h5") for kind in ("logmel", "roll")))
            if not pair.roll_name.extend_sustain:
                raise InputError(f"{store}: expected piano rolls made with MIDI_SUS_EXTEND=true")
            for index in tqdm(split_indices(pair, "train"), desc="onset logits", disable=None):
                if pair.metadata[index].basename.split("_")[0] not in without:
                    self._add(pair, index)
        if not self.recordings:
            raise InputError(f"{', '.join(map(str, stores))}: expected train recordings longer than 10 s, found none")
        lengths = np.array([logmel.shape[1] for logmel, *_ in self.recordings], float)
        self._shares = lengths / lengths.sum()

    def _add(self, pair: StorePair, index: int) -> None:
        begin, end = int(pair.begins[index]), int(pair.ends[index])
        if end - begin <= FRAMES:
            return
        logmel = pair.mel.read(begin, end)
        path = self._folder / f"{pair.metadata[index].basename}_{zlib.crc32(logmel.tobytes()):08x}.npy"
        if not path.exists():
            with torch.inference_mode():
                onsets = self._run(torch.from_numpy(logmel)[None])[0][0]
            with atomic_write(path) as partial, open(partial, "wb") as file:
                np.save(file, onsets.half().numpy())
        roll = pair.roll.read(begin, end)
        pedal, velocities = roll[SUSTAIN_ROW] >= PEDAL_DOWN, roll[SOUNDING_KEY_ROWS].astype(np.uint8)
        self.recordings.append((logmel.astype(np.float16), velocities, pedal, np.load(path)))

    def batch(self, rng: np.random.Generator) -> list[torch.Tensor]:
        """Random chunks: log-mels (b, mels, t), velocities (b, keys, t), pedal (b, t), onset logits (b, keys, t-1)."""
        chunks = []
        for choice in rng.choice(len(self.recordings), BATCH, p=self._shares):
            logmel, velocities, pedal, logits = self.recordings[choice]
            begin = rng.integers(logmel.shape[1] - FRAMES)
            span, logit_span = slice(begin, begin + FRAMES), slice(begin, begin + FRAMES - 1)
            chunks.append((logmel[:, span], velocities[:, span], pedal[span], logits[:, logit_span]))
        return [torch.from_numpy(np.stack(arrays)).float() for arrays in zip(*chunks, strict=True)]


class PedalReadout(nn.Module):
    """The sustain pedal from the path of all keys of an end stage, which it listens to; in training only."""

    def __init__(self, stage: EndStage):
        super().__init__()
        self.readout = nn.Conv2d(CHANNELS, 2 * STEP, 1)
        stage.to_keys.register_forward_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: tuple, common: torch.Tensor) -> None:
        self._common = common  # (b, CHANNELS, 1, t / STEP)

    def loss(self, pedal: torch.Tensor) -> torch.Tensor:
        """Loss of the stage's last run against the pedal (b, t), 0 or 1; t is odd, the first frame has no output."""
        lifts = (pedal[:, :-1] > pedal[:, 1:]).float()
        logits = self.readout(self._common)[:, :, 0].unflatten(1, (2, STEP))
        state, lift = (x.transpose(1, 2).flatten(1) for x in logits.unbind(1))  # (b, t-1) each
        return PEDAL_WEIGHT * bce(state, pedal[:, 1:]) + LIFT_WEIGHT * bce(lift, lifts)


def augmented(logmel: torch.Tensor, velocities: torch.Tensor, logits: torch.Tensor) -> list[torch.Tensor]:
    """A batch with random acoustics, transposed together with its onset logits."""
    of_keys = torch.cat([velocities, logits - SILENT], dim=2)  # keys that a transposition brings in become 0
    logmel, of_keys = AUGMENTATION(logmel, of_keys)
    return [logmel, of_keys[:, :, :FRAMES], of_keys[:, :, FRAMES:] + SILENT]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("snapshot", type=Path)
    parser.add_argument("stores", type=lambda text: [Path(folder) for folder in text.split(",")])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--initial", type=Path)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--lr", type=float, default=0.004)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", action="append", default=[], metavar="KEY")
    args = parser.parse_args()
    if args.steps < 2:
        parser.error(f"--steps {args.steps}: expected at least 2")
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    try:
        model = load_network(args.snapshot)
        stage = add_end_stage(model)
        if args.initial:
            initialise_from(args.initial, model)
        stored = StoredRecordings(args.stores, args.folder, model, args.without)
    except InputError as error:
        parser.error(str(error))
    model.freeze_all_but_ends()
    model.train()
    average = AveragedModel(stage, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE_DECAY), use_buffers=True)
    pedals = PedalReadout(stage)
    optimizer, warmup = adamw(model, WEIGHT_DECAY), round(WARMUP_SHARE * args.steps)
    optimizer.add_param_group({"params": pedals.parameters()})
    schedule = WarmUpCyclicDecay(args.lr, warmup, args.steps - warmup, decay=1.0, slowdown=1.0)
    progress, mean_loss = tqdm(range(1, args.steps + 1), desc="training", disable=None), math.nan
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = max(0.0, schedule(step)[0])
        logmel, velocities, pedal, onsets = stored.batch(rng)
        logmel, velocities, onsets = augmented(logmel, velocities, onsets)
        keys = busiest_keys(velocities[:, :, 1:])
        chosen = velocities.gather(1, keys[:, :, None].expand(-1, -1, FRAMES))[:, :, 1:]
        spectrum = model.specnorm(with_differences(logmel))[:, 0].detach()
        logits = stage(onsets, spectrum, keys)
        loss = end_loss(logits.flatten(0, 1), chosen.flatten(0, 1))
        optimizer.zero_grad()
        (loss + pedals.loss(pedal)).backward()
        optimizer.step()
        average.update_parameters(stage)
        mean_loss = loss.item() if step == 1 else 0.99 * mean_loss + 0.01 * loss.item()
        progress.set_postfix(loss=f"{mean_loss:.4f}")
        if step % SAVE_EVERY == 0 or step == args.steps:
            model.end_stage = average.module
            save_ends(model, args.folder / "fitted.ends.torch")
            model.end_stage = stage


if __name__ == "__main__":
    main()
