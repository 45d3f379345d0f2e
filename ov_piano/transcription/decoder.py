"""Onset probabilities and velocities -> table of note events."""

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ov_piano.settings import DecoderSettings

COLUMNS = ("batch_idx", "key", "t_idx", "prob", "vel")


class Decoder:
    """Peak picking: smooth the probabilities over time and keep local maxima at or above a threshold."""

    def __init__(self, settings: DecoderSettings = DecoderSettings()):
        taps = torch.arange(settings.gauss_ksize, dtype=torch.float64) - settings.gauss_ksize // 2
        kernel = torch.exp(-0.5 * (taps / settings.gauss_std) ** 2)
        self.kernel = (kernel / kernel.sum()).float()  # (gauss_ksize,)
        self.reach = len(taps) // 2 + 1  # frames to either side that an event depends on: blur, then the neighbours

    @torch.no_grad()
    def __call__(self, onset_probs: Tensor, velocities: Tensor, threshold: float) -> pd.DataFrame:
        """Note events, sorted by batch entry, key and frame.

        The threshold does not affect which frames are maxima, so the events for a higher threshold are exactly
        the rows with ``prob >= threshold``. Every frame of a flat maximum is an event.

        :param onset_probs: (b, keys, t), 0..1
        :param velocities: (b, keys, t), 0..1
        :returns: columns batch_idx, key, t_idx (int64), prob (smoothed probability) and vel (mean over the
            frames t-1, t, t+1, reflected at the ends; both float64)
        :raises ValueError: the shapes differ or have no frames
        """
        columns = (x.double() if x.is_floating_point() else x for x in self.peaks(onset_probs, velocities, threshold))
        return pd.DataFrame({name: column.cpu().numpy() for name, column in zip(COLUMNS, columns, strict=True)})

    @torch.no_grad()
    def peaks(self, onset_probs: Tensor, velocities: Tensor, threshold: float) -> tuple[Tensor, ...]:
        """The columns of the table, (events,) each."""
        if onset_probs.ndim != 3 or onset_probs.shape != velocities.shape or onset_probs.shape[2] == 0:
            raise ValueError(
                "maps to decode: expected two of the same shape (b, keys, 1 or more), "
                f"found {tuple(onset_probs.shape)} and {tuple(velocities.shape)}"
            )
        if onset_probs.device.type == "mps":  # which has no float64
            onset_probs, velocities = onset_probs.cpu(), velocities.cpu()
        blurred = self._blur(onset_probs.float())  # (b, keys, t)
        is_maximum = blurred == F.max_pool1d(blurred, kernel_size=3, stride=1, padding=1)
        # In float64, like `prob` in the table: 0.7 has no exact float32.
        found = is_maximum & (blurred.double() >= threshold)
        batch_idx, key, frame = found.nonzero(as_tuple=True)  # (events,) each
        last = blurred.shape[2] - 1
        before = (frame - 1).abs().clamp(max=last)
        after = (last - (last - frame - 1).abs()).clamp(min=0)
        velocities = velocities.float()
        vel = sum(velocities[batch_idx, key, t] for t in (before, frame, after)) / 3
        return batch_idx, key, frame, blurred[batch_idx, key, frame], vel

    def _blur(self, x: Tensor) -> Tensor:
        """Gaussian smoothing along time with zero padding; shape (b, keys, t) in and out."""
        t, reach = x.shape[2], self.kernel.numel() // 2
        padded = F.pad(x, (reach, reach))
        weights = self.kernel[reach:].tolist()
        # Summed in mirrored pairs, so that equal neighbours stay exactly equal.
        blurred = padded[:, :, reach : reach + t] * weights[0]
        for shift in range(1, reach + 1):
            before, after = padded[:, :, reach - shift :][:, :, :t], padded[:, :, reach + shift :][:, :, :t]
            blurred.add_(before + after, alpha=weights[shift])
        return blurred
