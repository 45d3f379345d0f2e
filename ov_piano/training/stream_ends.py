"""Chunks that end as live streams do, so that one set of weights serves whole recordings and streams.

A stream decides about frames that have hardly any sound after them, which is rare in training: the last frames are few.
Here every second chunk ends as `StreamingTranscriber` presents the end of a stream, and the last frames weigh more.
"""

import torch
from torch import Tensor

from ov_piano.transcription.streaming import EDGE_FRAMES

HEAVY_FRAMES = 8  # those that a stream may still decide about: its look-ahead and its waiting


def with_stream_end(logmel: Tensor) -> Tensor:
    """Log-mel (b, mels, t); in every second chunk, the last `EDGE_FRAMES` repeat the frame before them.

    The others end as recordings do, so that the network also learns what to do there. A chunk alone is drawn by lot.
    """
    heard = logmel.shape[2] - EDGE_FRAMES
    if heard < 1:
        return logmel
    first = 0 if len(logmel) > 1 else int(torch.randint(2, ()))
    ended = logmel.clone()
    ended[first::2, :, heard:] = logmel[first::2, :, heard - 1 : heard]
    return ended


def frame_weights(frames: int, weight: float, device: torch.device | None = None) -> Tensor:
    """Loss weights (frames,) with mean 1: ``weight`` just before the last `EDGE_FRAMES`, equal elsewhere."""
    weights = torch.ones(frames, device=device)
    if frames > EDGE_FRAMES:
        weights[-EDGE_FRAMES - HEAVY_FRAMES : -EDGE_FRAMES] = weight
    return weights / weights.mean()
