"""Inference on inputs of any length, in chunks and constant memory."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ov_piano.constants import KEYS
from ov_piano.settings import Chunking

Infer = Callable[[Tensor], tuple[Tensor, ...]]
Read = Callable[[int, int], Tensor]


class Span(NamedTuple):
    """A chunk ``begin:end`` of the input, and its frames ``keep_begin:keep_end`` to keep."""

    begin: int
    end: int
    keep_begin: int
    keep_end: int


def chunk_spans(frames: int, chunking: Chunking) -> Iterator[Span]:
    """Overlapping chunks that together keep each of ``frames`` frames once, in order.

    Each chunk discards half of the overlap at an end that it shares with a neighbour. Without overlap it reads
    one extra frame at its start, since the network's output lacks the first frame of its input.
    """
    margin = chunking.overlap // 2
    for begin in range(0, max(1, frames - chunking.overlap), chunking.size - chunking.overlap):
        end = min(begin + chunking.size, frames)
        yield Span(
            begin=begin if chunking.overlap else max(0, begin - 1),
            end=end,
            keep_begin=begin + margin if begin > 0 else 0,
            keep_end=end - margin if end < frames else frames,
        )


@torch.no_grad()
def onset_velocity_pieces(infer: Infer, read: Read, frames: int, chunking: Chunking) -> Iterator[Tensor]:
    """Onset probabilities and velocities of a recording in consecutive pieces, (2, keys, t) in 0..1 each.

    A network with an end stage adds a third map: the probability that a note that still sounds ends in this frame.

    The network's output lacks the first frame, which is 0 here. It depends slightly on the whole chunk
    (through the gates of the context-aware modules), so results differ slightly between chunk sizes.

    :param infer: log-mel (1, mels, t) -> the logits of these maps, (1, keys, t-1) each, on any device
    :param read: (begin, end) -> log-mel of these frames, (mels, t) in dB
    :param frames: number of frames of the recording, at least 1
    """
    for begin, end, keep_begin, keep_end in chunk_spans(frames, chunking):
        logmel = read(begin, end)[None]  # (1, mels, t)
        if end - begin < 2:  # a one-frame recording
            maps = len(infer(F.pad(logmel, (0, 1), mode="replicate")))
            yield logmel.new_zeros(maps, KEYS, end - begin)
            continue
        logits = torch.cat(infer(logmel)).float()  # (maps, keys, t-1)
        maps = F.pad(logits.sigmoid(), (1, 0))  # (maps, keys, t)
        yield maps[:, :, keep_begin - begin : keep_end - begin]


def onset_velocity_maps(infer: Infer, logmel: Tensor, chunking: Chunking) -> tuple[Tensor, Tensor]:
    """The joined :func:`onset_velocity_pieces` of a log-mel (mels, t) on its device: (keys, t) each."""
    if logmel.ndim != 2 or logmel.shape[1] == 0:
        raise ValueError(f"log-mel: expected shape (mels, 1 or more), found {tuple(logmel.shape)}")
    frames = logmel.shape[1]
    maps, done = logmel.new_empty(2, KEYS, frames, dtype=torch.float32), 0
    for piece in onset_velocity_pieces(infer, lambda begin, end: logmel[:, begin:end], frames, chunking):
        maps[:, :, done : done + piece.shape[2]] = piece[:2]
        done += piece.shape[2]
    return maps[0], maps[1]
