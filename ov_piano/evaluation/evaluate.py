"""Recordings -> tables of note events: the one path for cross-validation, test and users."""

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from ov_piano.constants import LOWEST_NOTE
from ov_piano.data.chunks import RecordingDataset
from ov_piano.transcription.decoder import Decoder
from ov_piano.transcription.strided import Infer, chunk_frames, onset_velocity_maps

MAX_VELOCITY = 127  # MIDI velocity of the network's 1.0


def transcribe_dataset(
    infer: Infer,
    decoder: Decoder,
    dataset: RecordingDataset,
    threshold: float,
    *,
    chunk_secs: float,
    overlap_secs: float,
    device: torch.device | str = "cpu",
    what: str = "transcribing",
) -> list[pd.DataFrame]:
    """The event table of each recording, as :func:`event_table` describes it, in the dataset's order.

    One recording is held at a time, and of it one chunk on ``device``.

    :param infer: see `onset_velocity_maps`
    :param threshold: probability from which on a peak is an event
    :param what: label of the progress bar, which shows on terminals only
    :raises InputError: chunk or overlap that do not fit the frames, unreadable data
    """
    frame_secs = dataset.pair.frame_secs
    chunking = chunk_frames(chunk_secs, overlap_secs, frame_secs)
    tables = []
    for index in tqdm(range(len(dataset)), desc=what, unit="recording", disable=None):
        logmel, _, _ = dataset[index]  # (mels, t)
        probs, velocities = onset_velocity_maps(lambda x: infer(x.to(device)), logmel, *chunking)  # (keys, t) each
        tables.append(event_table(decoder, probs, velocities, threshold, frame_secs))
    return tables


def event_table(
    decoder: Decoder, probs: Tensor, velocities: Tensor, threshold: float, frame_secs: float
) -> pd.DataFrame:
    """Events of one recording's maps (keys, t), sorted by key and time.

    Columns: ``onset_secs``, ``note`` (MIDI), ``velocity`` (0-127, not rounded), ``prob``.
    """
    found = decoder(probs[None], velocities[None], threshold)
    return pd.DataFrame(
        {
            "onset_secs": found["t_idx"] * frame_secs,
            "note": found["key"] + LOWEST_NOTE,
            "velocity": found["vel"] * MAX_VELOCITY,
            "prob": found["prob"],
        }
    )
