"""Train note ends on stored onset logits: several times as many steps per hour as TRAIN_ENDS=true of script 1.

    python fit_ends.py SNAPSHOT MEL.h5 ROLL.h5 FOLDER [--initial X.ends.torch] [--steps N] [--lr LR] [--seed SEED]

Script 1 runs the frozen network at every step. Here it runs once per recording of the train split and leaves its onset
logits in FOLDER; a later call reuses them. They are those of the recording without augmentation, so a few hundred
steps of script 1 (ENDS_INPATH=FOLDER/fitted.ends.torch) should follow.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ov_piano.constants import SOUNDING_KEY_ROWS
from ov_piano.data.hdf5 import StorePair, open_pair
from ov_piano.data.splits import split_indices
from ov_piano.machine.atomic import atomic_write
from ov_piano.model.base import OnsetVelocityBase, with_differences
from ov_piano.model.ends import add_end_stage, initialise_from, save_ends
from ov_piano.model.fast import optimize_for_inference
from ov_piano.model.networks import load_network
from ov_piano.training.augmentation import Augmentation
from ov_piano.training.ends import busiest_keys, end_loss
from ov_piano.training.schedule import WarmUpCyclicDecay
from ov_piano.training.step import adamw

AUGMENTATION = Augmentation(response_db=4, gain_db=6, noise=0.25)
BATCH, FRAMES = 6, 417  # chunks of 10 s
WEIGHT_DECAY, WARMUP_SHARE, SAVE_EVERY = 3e-4, 0.03, 2000


class StoredRecordings:
    """Log-mel, sounding velocities and onset logits of all recordings in memory, in half the precision."""

    def __init__(self, pair: StorePair, folder: Path, model: OnsetVelocityBase):
        self.recordings, run = [], optimize_for_inference(model).end_input
        for index in tqdm(split_indices(pair, "train"), desc="onset logits", disable=None):
            begin, end = int(pair.begins[index]), int(pair.ends[index])
            if end - begin <= FRAMES:
                continue
            logmel, path = pair.mel.read(begin, end), folder / f"{index}.npy"
            if not path.exists():
                with torch.inference_mode():
                    logits = run(torch.from_numpy(logmel)[None])[0][0]
                with atomic_write(path) as partial, open(partial, "wb") as file:
                    np.save(file, logits.half().numpy())
            velocities = pair.roll.read(begin, end)[SOUNDING_KEY_ROWS]
            self.recordings.append((logmel.astype(np.float16), velocities.astype(np.uint8), np.load(path)))
        lengths = np.array([logmel.shape[1] for logmel, _, _ in self.recordings], float)
        self._shares = lengths / lengths.sum()

    def batch(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-mels (b, mels, t), velocities (b, keys, t), onset logits (b, keys, t-1) of random chunks."""
        chunks = []
        for choice in rng.choice(len(self.recordings), BATCH, p=self._shares):
            logmel, velocities, logits = self.recordings[choice]
            begin = rng.integers(logmel.shape[1] - FRAMES)
            span, logit_span = slice(begin, begin + FRAMES), slice(begin, begin + FRAMES - 1)
            chunks.append((logmel[:, span], velocities[:, span], logits[:, logit_span]))
        return tuple(torch.from_numpy(np.stack(arrays)).float() for arrays in zip(*chunks, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("snapshot", type=Path)
    parser.add_argument("mel", type=Path)
    parser.add_argument("roll", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--initial", type=Path)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--lr", type=float, default=0.006)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    rng, model = np.random.default_rng(args.seed), load_network(args.snapshot)
    stored = StoredRecordings(open_pair(args.mel, args.roll), args.folder, model)
    stage = add_end_stage(model)
    if args.initial:
        initialise_from(args.initial, model)
    model.freeze_all_but_ends()
    model.train()
    optimizer, warmup = adamw(model, WEIGHT_DECAY), round(WARMUP_SHARE * args.steps)
    schedule = WarmUpCyclicDecay(args.lr, warmup, args.steps - warmup, decay=1.0, slowdown=1.0)
    progress, mean_loss = tqdm(range(1, args.steps + 1), desc="training", disable=None), math.nan
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = max(0.0, schedule(step)[0])
        logmel, velocities, onsets = stored.batch(rng)
        logmel, velocities = AUGMENTATION(logmel, velocities)
        keys = busiest_keys(velocities[:, :, 1:])
        chosen = velocities.gather(1, keys[:, :, None].expand(-1, -1, FRAMES))[:, :, 1:]
        spectrum = model.specnorm(with_differences(logmel))[:, 0].detach()
        logits = stage(onsets, spectrum, keys)
        loss = end_loss(logits.flatten(0, 1), chosen.flatten(0, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean_loss = loss.item() if step == 1 else 0.99 * mean_loss + 0.01 * loss.item()
        progress.set_postfix(loss=f"{mean_loss:.4f}")
        if step % SAVE_EVERY == 0 or step == args.steps:
            save_ends(model, args.folder / "fitted.ends.torch")


if __name__ == "__main__":
    main()
