"""The levels at the harmonics of each key: a spectrum laid out by key, so that one convolution fits all keys.

As in basic-pitch's harmonic stacking (Bittner et al. 2022, arXiv 2203.09893), but from mel bands: a level between two
bands is interpolated.
"""

from functools import cache

import torch
from torch import Tensor

from ov_piano.constants import KEYS, LOWEST_NOTE, MEL_FMAX, MEL_FMIN

HARMONICS = (0.5, 1, 2, 3, 4, 5, 6)


def harmonic_levels(levels: Tensor) -> Tensor:
    """(b, mels, t) -> (b, harmonics, keys, t); 0 for harmonics outside the mel bands."""
    lower, share, inside = (x.to(levels.device) for x in _bands(levels.shape[1]))
    below, above = levels[:, lower], levels[:, lower + 1]  # (b, harmonics, keys, t)
    return torch.lerp(below, above, share[:, :, None].expand_as(below)) * inside[:, :, None]


@cache
@torch.inference_mode(mode=False)  # the cached tensors also serve training
def _bands(mels: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each harmonic and key: the band below it, the share of the band above, and whether it is inside."""
    low, high = _mel(torch.tensor([MEL_FMIN, MEL_FMAX], dtype=torch.float64))
    fundamentals = 440 * 2 ** ((torch.arange(KEYS, dtype=torch.float64) + LOWEST_NOTE - 69) / 12)  # Hz
    hz = torch.tensor(HARMONICS, dtype=torch.float64)[:, None] * fundamentals  # (harmonics, keys)
    place = (_mel(hz) - low) / ((high - low) / (mels + 1)) - 1  # band centres are equidistant on the mel scale
    lower = place.clamp(0, mels - 2).floor()
    inside = (place > -0.5) & (place < mels - 0.5)
    return lower.long(), (place - lower).clamp(0, 1).float(), inside.float()


def _mel(hz: Tensor) -> Tensor:
    """HTK's mel scale, as in torchaudio's `MelSpectrogram`."""
    return 2595 * torch.log10(1 + hz / 700)
