"""Log-mel of any length -> table of note events, in constant memory."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ov_piano.constants import FRAME_SECS, LOWEST_NOTE
from ov_piano.settings import Chunking
from ov_piano.transcription.decoder import Decoder
from ov_piano.transcription.note_ends import END_IN_FRAME, STRIKE, NoteEnds
from ov_piano.transcription.strided import Infer, Read, onset_velocity_pieces

MAX_VELOCITY = 127  # MIDI velocity of a network output of 1.0


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
    """Note events of a whole recording, ordered by onset, then note.

    Columns: ``onset_secs``, ``note`` (MIDI), ``velocity`` (0-127, not rounded), ``prob``. If ``infer`` has an
    end stage, there is ``offset_secs`` after the onsets: the note's end, unless its key is struck again before
    (see ``note_ends.py``). See `onset_velocity_pieces` for the other parameters.

    :param threshold: minimum probability of an event
    :param progress: called after each chunk with its duration in seconds
    """

    ends: NoteEnds | None = None

    def reporting(pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        nonlocal ends
        for piece in pieces:
            progress(piece.shape[2] * frame_secs)
            if len(piece) > 2:
                ends = ends or NoteEnds()
                ends.add(piece[2])
            yield piece

    tables = []
    pieces = reporting(onset_velocity_pieces(infer, read, frames, chunking))
    for table, until in decode_pieces(decoder, pieces, min(threshold, STRIKE)):
        tables.append(table[table["prob"] >= threshold])
        if ends is not None:
            strikes = table[table["prob"] >= STRIKE]
            ends.strike(strikes["key"].to_numpy(), strikes["t_idx"].to_numpy())
            ends.ask(tables[-1]["key"].to_numpy(), tables[-1]["t_idx"].to_numpy(), until)
    found = pd.concat(tables, ignore_index=True)
    events = pd.DataFrame(
        {
            "onset_secs": found["t_idx"] * frame_secs,
            "note": found["key"] + LOWEST_NOTE,
            "velocity": found["vel"] * MAX_VELOCITY,
            "prob": found["prob"],
        }
    )
    if ends is not None:
        events.insert(1, "offset_secs", np.minimum(ends.finish() + END_IN_FRAME, frames) * frame_secs)
    return events.sort_values(["onset_secs", "note"], ignore_index=True)


def decode_pieces(decoder: Decoder, pieces: Iterable[Tensor], threshold: float) -> Iterator[tuple[pd.DataFrame, int]]:
    """Events of consecutive ``pieces`` (2 or more, keys, t), as if decoded in one go.

    Yields tables in order of time, each with the frame before which there are no further events. An event depends on
    frames to either side, so each piece is decoded with the end of the previous one.
    """
    kept, begin, settled = None, 0, 0  # maps from frame `begin` on; events before frame `settled` are yielded
    for piece in pieces:
        kept = piece if kept is None else torch.cat([kept, piece], dim=2)
        ready = begin + kept.shape[2] - decoder.reach
        if ready > settled:
            yield _decode(decoder, kept, threshold, begin, range(settled, ready)), ready
            settled = ready
            keep_from = max(begin, settled - decoder.reach)
            kept, begin = kept[:, :, keep_from - begin :], keep_from
    end = begin + kept.shape[2]
    yield _decode(decoder, kept, threshold, begin, range(settled, end)), end


def _decode(decoder: Decoder, maps: Tensor, threshold: float, begin: int, wanted: range) -> pd.DataFrame:
    """Events within the ``wanted`` frames; ``maps`` start at frame ``begin``."""
    found = decoder(maps[None, 0], maps[None, 1], threshold)
    found["t_idx"] += begin
    return found[found["t_idx"].between(wanted.start, wanted.stop, inclusive="left")]
