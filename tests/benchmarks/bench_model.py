"""Network: training step."""

import torch

from ov_piano.model.fast_training import fast_forward
from ov_piano.model.native import keep_freed_memory
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.training.sgdr import CyclicDecay
from ov_piano.training.step import TrainingStep, sgd
from tests.benchmarks.paired import paired

BATCH, FRAMES = 8, 208  # 5 s


def train_step(rounds: int = 3) -> dict:
    """Forward, backward and update on batches of 8 x 5 s: the fast forward pass against the readable module."""
    torch.manual_seed(0)
    logmel = torch.randn(BATCH, 250, FRAMES) * 20 - 40  # dB
    key_velocities = torch.rand(BATCH, 88, FRAMES).sub(0.99).clamp(min=0) * 12700

    def stepper(fast: bool):
        model = OnsetVelocityNet().train()
        forward = (lambda x: fast_forward(model, x)) if fast else model
        schedule = CyclicDecay(lr_max=0.001, lr_min=1e-5, period=1000, decay=1.0, slowdown=1.0)
        step = TrainingStep(forward, sgd(model, 0.85, 0.0), schedule, positives_weight=8.0, velocity_weight=10.0)
        return lambda: step.update(step.losses(logmel, key_velocities), 1)

    return paired(stepper(fast=True), stepper(fast=False), rounds)


def benchmarks() -> dict[str, dict]:
    """All entries of this file."""
    keep_freed_memory()
    return {"train_step": train_step()}


if __name__ == "__main__":
    for name, entry in benchmarks().items():
        print(name, entry)
