"""Piano roll -> training targets."""

import torch
from torch import Tensor
from torch.nn import functional

from ov_piano.constants import MIDI_VALUES


def training_targets(key_velocities: Tensor) -> tuple[Tensor, Tensor]:
    """``(onset_target, velocity_target)``, both (b, keys, t-1), from onset velocities 0-127 (b, keys, t).

    The first frame is dropped, as in the network's output. Each onset then spans three frames:
    every frame becomes the maximum of itself and the previous one, twice.
    Onsets are 0 or 1, velocities 0 to 1.
    """
    widened = key_velocities[..., 1:]
    for _ in range(2):
        widened = torch.maximum(widened, functional.pad(widened, (1, 0))[..., :-1])
    return widened.clamp(0, 1), widened / (MIDI_VALUES - 1)
