"""Training step, and inference from log-mel to events."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ov_piano.constants import FRAME_SECS, KEYS
from ov_piano.data.audio import LogMel, load_mono
from ov_piano.evaluation.scoring import score
from ov_piano.machine.memory import keep_freed_memory
from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.fast import optimize_for_inference
from ov_piano.model.fast_training import fast_forward
from ov_piano.model.networks import load_network
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.onsets_and_velocities import OnsetsAndVelocities
from ov_piano.settings import LogMelSettings, Tolerances
from ov_piano.training.schedule import CyclicDecay
from ov_piano.training.step import TrainingStep, sgd
from ov_piano.transcription.decoder import Decoder
from tests.benchmarks.paired import paired
from tests.golden_weights import golden_state

BATCH, FRAMES = 8, 208  # 5 s
INFERENCE_FRAMES = 12_500  # 5 min
ASSETS = Path(__file__).parents[2] / "assets"


def train_step(network: type[OnsetVelocityBase], rounds: int = 3) -> dict:
    """Forward, backward and update on batches of 8 x 5 s: optimised kernels against plain PyTorch."""
    torch.manual_seed(0)
    logmel = torch.randn(BATCH, network(init=False).in_bins, FRAMES) * 20 - 40  # dB
    return paired(*(training_stepper(logmel, fast, network) for fast in (True, False)), rounds)


def training_stepper(
    logmel: Tensor, fast: bool, network: type[OnsetVelocityBase] = OnsetVelocityNet
) -> Callable[[], None]:
    """A function that trains a new network on random notes for ``logmel`` (b, mels, t), one step per call."""
    key_velocities = torch.rand(len(logmel), KEYS, logmel.shape[2]).sub(0.99).clamp(min=0) * 12700
    model = network().train()
    forward = (lambda x: fast_forward(model, x)) if fast else model
    schedule = CyclicDecay(lr_max=0.001, lr_min=1e-5, period=1000, decay=1.0, slowdown=1.0)
    step = TrainingStep(forward, sgd(model, 0.85, 0.0), schedule, positives_weight=8.0, velocity_weight=10.0)
    return lambda: step.update(step.losses(logmel, key_velocities), 1)


def inference(network: type[OnsetVelocityBase], dtype: torch.dtype, rounds: int = 3) -> dict:
    """5 minutes of log-mel to events: optimised kernels against plain PyTorch, in float32.

    The log-mel is the sample's, repeated. Also reports how well the events agree: mir_eval's F1 of onsets with
    velocities, within a frame and 2 % of the velocity range.
    """
    model = _trained_model(network)
    fast = optimize_for_inference(model, dtype)
    logmel = _sample_logmel(model.in_bins)[None]

    @torch.inference_mode()
    def plain(x: Tensor) -> tuple[Tensor, Tensor]:
        onset_stages, velocities = model(x)
        return onset_stages[-1], velocities

    decoder = Decoder()

    def events(infer: Callable) -> Callable:
        def run():
            onsets, velocities = infer(logmel)
            return decoder(onsets.sigmoid(), velocities.sigmoid(), 0.7)

        return run

    difference = (fast(logmel)[0].sigmoid() - plain(logmel)[0].sigmoid()).abs().max().item()
    tolerances = Tolerances(FRAME_SECS, 0.02)
    agreement = score(_reference(events(plain)()), _estimate(events(fast)()), tolerances).onsets_velocities.f1
    what = f"inference of {network.__name__} in {dtype}"
    print(f"{what}: F1 {agreement:.4f} of its events against those of the plain network", flush=True)
    entry = paired(events(fast), events(plain), rounds)
    return {**entry, "max_probability_difference": difference, "events_f1": agreement}


def _sample_logmel(mels: int) -> Tensor:
    """(mels, INFERENCE_FRAMES) in dB: the sample's recordings, concatenated and repeated."""
    paths = sorted((ASSETS / "sample").glob("*/*.wav"))
    logmels = [LogMel(LogMelSettings(mels=mels))(load_mono(path)) for path in paths]
    repeats = INFERENCE_FRAMES // sum(logmel.shape[1] for logmel in logmels) + 1
    return torch.cat(logmels * repeats, dim=1)[:, :INFERENCE_FRAMES].contiguous()


def _estimate(events: pd.DataFrame) -> np.ndarray:
    """Decoded events as estimates for the scorer, (m, 3)."""
    return np.column_stack([events["t_idx"] * FRAME_SECS, events["key"], events["vel"] * 127])


def _reference(events: pd.DataFrame) -> np.ndarray:
    """Decoded events as references for the scorer, (n, 4), with offsets that it ignores."""
    return np.insert(_estimate(events), 1, 0, axis=1)


def _trained_model(network: type[OnsetVelocityBase]) -> OnsetVelocityBase:
    """The default snapshot if it is of this network, or random weights with plausible statistics."""
    snapshots = sorted(ASSETS.glob(f"{network.__name__}_*.torch"))
    if snapshots:
        return load_network(snapshots[-1])
    model = network(init=False).eval()
    model.load_state_dict(golden_state(model))
    return model


def benchmarks() -> dict[str, dict]:
    """All entries of this file."""
    keep_freed_memory()
    return {
        "train_step": train_step(OnsetVelocityNet),
        "train_step_2023": train_step(OnsetsAndVelocities),
        "inference": inference(OnsetVelocityNet, torch.float32),
        "inference_2023": inference(OnsetsAndVelocities, torch.float32),
        "inference_bf16": inference(OnsetVelocityNet, torch.bfloat16),
        "inference_bf16_2023": inference(OnsetsAndVelocities, torch.bfloat16),
    }
