"""Learning rates with warm restarts (arXiv 1608.03983) as functions of the step: they have no state to save."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

Schedule = Callable[[int], tuple[float, bool]]  # 1-based step -> learning rate, whether the step ends a cycle


@dataclass(frozen=True)
class CyclicDecay:
    """The schedule of 2022 (SGDR): a cosine quarter per cycle, from ``lr_max`` down to ``lr_min``.

    After each cycle both bounds shrink by ``decay`` and the period grows by ``slowdown``.
    """

    lr_max: float
    lr_min: float
    period: int  # steps
    decay: float
    slowdown: float

    def __call__(self, step: int) -> tuple[float, bool]:
        """The first cycle has one extra step at its start, on the mirrored side of the cosine (s = -1)."""
        (lr_max, lr_min), cosine, ends = _cycle_at(
            step - 2, (self.lr_max, self.lr_min), self.period, self.decay, self.slowdown
        )
        return lr_min + cosine * (lr_max - lr_min), ends


@dataclass(frozen=True)
class WarmUpCyclicDecay:
    """The schedule of 2023 (AdamW with warm restarts): from 0 up to ``lr_max``, then a cosine quarter per cycle to 0.

    After each cycle the maximum shrinks by ``decay`` and the period grows by ``slowdown``.
    """

    lr_max: float
    warmup: int  # steps
    period: int  # steps
    decay: float
    slowdown: float

    def __call__(self, step: int) -> tuple[float, bool]:
        s = step - 1
        if s < self.warmup:
            return self.lr_max * s / self.warmup, False
        (lr_max,), cosine, ends = _cycle_at(s - self.warmup, (self.lr_max,), self.period, self.decay, self.slowdown)
        return lr_max * cosine, ends


def _cycle_at(
    s: int, bounds: tuple[float, ...], period: int, decay: float, slowdown: float
) -> tuple[tuple[float, ...], float, bool]:
    """``s`` steps after the start of the first cycle: bounds, cosine (1 ... 0), and whether this step ends the cycle.

    The cosine is computed in single precision, as published: at the end of a cycle it is
    -4.4e-8 rather than 0, which puts the rate slightly below its minimum.
    """
    while s >= period:
        s -= period
        bounds = tuple(bound * decay for bound in bounds)
        period = max(2, round(period * slowdown))
    cosine = torch.tensor(math.pi / 2 * s / (period - 1), dtype=torch.float32).cos().item()
    return bounds, cosine, s == period - 1
