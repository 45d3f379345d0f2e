"""Learning rate of stochastic gradient descent with warm restarts (arXiv 1608.03983)."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class CyclicDecay:
    """A cosine quarter per cycle, from ``lr_max`` down to ``lr_min``.

    After each cycle both bounds shrink by ``decay`` and the period grows by ``slowdown``.
    The schedule is a function of the step alone, so that resuming needs no state of it.
    """

    lr_max: float
    lr_min: float
    period: int  # steps
    decay: float
    slowdown: float

    def __call__(self, step: int) -> tuple[float, bool]:
        """Learning rate at the 1-based ``step``, and whether the step is its cycle's last.

        The first cycle has one step more: it starts on the quarter's mirrored side (s = -1).
        The cosine is taken in single precision, as published: at a cycle's end it is
        -4.4e-8 and not 0, which takes the rate a little below its minimum.
        """
        lr_max, lr_min, period = self.lr_max, self.lr_min, self.period
        s = step - 2
        while s >= period:
            s -= period
            lr_max, lr_min = lr_max * self.decay, lr_min * self.decay
            period = max(2, round(period * self.slowdown))
        quarter = torch.tensor(math.pi / 2 * s / (period - 1), dtype=torch.float32).cos().item()
        return lr_min + quarter * (lr_max - lr_min), s == period - 1
