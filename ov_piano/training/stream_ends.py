"""Chunks that end as live streams do, so that one set of weights serves whole recordings and streams.

A stream decides about frames that have hardly any sound after them, which is rare in training: the last frames are few.
Here each chunk ends as `StreamingTranscriber` presents the end of a stream, and its last frames weigh more in the loss.
"""

import torch
from torch import Tensor

from ov_piano.transcription.streaming import EDGE_FRAMES

HEAVY_FRAMES = 8  # as many as a stream recomputes


def with_stream_end(logmel: Tensor) -> Tensor:
    """Log-mel (b, mels, t) with repetitions of an earlier frame in place of the last `EDGE_FRAMES`."""
    heard = logmel.shape[2] - EDGE_FRAMES
    if heard < 1:
        return logmel
    return torch.cat([logmel[:, :, :heard], logmel[:, :, heard - 1 : heard].expand(-1, -1, EDGE_FRAMES)], dim=2)


def frame_weights(frames: int, weight: float, device: torch.device | None = None) -> Tensor:
    """Loss weights (frames,) with mean 1: ``weight`` for the last frames heard, none for the repetitions after them."""
    weights = torch.ones(frames, device=device)
    if frames > EDGE_FRAMES:
        weights[-EDGE_FRAMES:] = 0
        weights[-EDGE_FRAMES - HEAVY_FRAMES : -EDGE_FRAMES] = weight
    return weights / weights.mean()
