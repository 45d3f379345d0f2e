"""Log-mel of any length -> table of note events, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator

import pandas as pd
import torch
from torch import Tensor

from ov_piano.constants import FRAME_SECS, LOWEST_NOTE
from ov_piano.settings import Chunking
from ov_piano.transcription.decoder import Decoder
from ov_piano.transcription.strided import Infer, Read, onset_velocity_pieces

MAX_VELOCITY = 127  # MIDI velocity of the network's 1.0


def detect_events(
    infer: Infer,
    decoder: Decoder,
    read: Read,
    frames: int,
    *,
    threshold: float,
    chunking: Chunking,
    frame_secs: float = FRAME_SECS,
    progress: Callable[[float], None] = lambda secs: None,
) -> pd.DataFrame:
    """Events of a whole recording, ordered by onset, then note.

    Columns: ``onset_secs``, ``note`` (MIDI), ``velocity`` (0-127, not rounded), ``prob``.
    For the parameters see `onset_velocity_pieces`.

    :param threshold: probability from which on a peak is an event
    :param progress: called with the duration of each chunk in seconds, once it is done
    """

    def reporting(pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        for piece in pieces:
            progress(piece.shape[2] * frame_secs)
            yield piece

    pieces = reporting(onset_velocity_pieces(infer, read, frames, chunking))
    found = pd.concat(list(decode_pieces(decoder, pieces, threshold)), ignore_index=True)
    events = pd.DataFrame(
        {
            "onset_secs": found["t_idx"] * frame_secs,
            "note": found["key"] + LOWEST_NOTE,
            "velocity": found["vel"] * MAX_VELOCITY,
            "prob": found["prob"],
        }
    )
    return events.sort_values(["onset_secs", "note"], ignore_index=True)


def decode_pieces(decoder: Decoder, pieces: Iterable[Tensor], threshold: float) -> Iterator[pd.DataFrame]:
    """What ``decoder`` finds in the joined ``pieces`` (2, keys, t), as tables that follow one another in time.

    An event depends on ``reach`` frames to either side, so each piece is decoded with the end of the one before.
    """
    reach = len(decoder.kernel) // 2 + 1  # blur, then comparison with the neighbours
    kept, begin, settled = None, 0, 0  # maps from frame `begin` on; events before frame `settled` are out
    for piece in pieces:
        kept = piece if kept is None else torch.cat([kept, piece], dim=2)
        ready = begin + kept.shape[2] - reach
        if ready > settled:
            yield _decode(decoder, kept, threshold, begin, range(settled, ready))
            settled = ready
            keep_from = max(begin, settled - reach)
            kept, begin = kept[:, :, keep_from - begin :], keep_from
    yield _decode(decoder, kept, threshold, begin, range(settled, begin + kept.shape[2]))


def _decode(decoder: Decoder, maps: Tensor, threshold: float, begin: int, wanted: range) -> pd.DataFrame:
    """Events of the ``wanted`` frames, of maps that begin at frame ``begin``."""
    found = decoder(maps[None, 0], maps[None, 1], threshold)
    found["t_idx"] += begin
    return found[found["t_idx"].between(wanted.start, wanted.stop, inclusive="left")]
