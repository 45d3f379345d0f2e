"""Recordings -> tables of note events, for cross-validation and test."""

import pandas as pd
import torch
from tqdm import tqdm

from ov_piano.data.chunks import RecordingDataset
from ov_piano.settings import Chunking
from ov_piano.transcription.decoder import Decoder
from ov_piano.transcription.events import detect_events
from ov_piano.transcription.strided import Infer


def transcribe_dataset(
    infer: Infer,
    decoder: Decoder,
    dataset: RecordingDataset,
    threshold: float,
    *,
    chunking: Chunking,
    device: torch.device | str = "cpu",
    what: str = "transcribing",
) -> list[pd.DataFrame]:
    """The event table of each recording (see `detect_events`), in the dataset's order.

    Holds one recording in memory at a time, and one chunk of it on ``device``.

    :param infer: see `onset_velocity_pieces`
    :param threshold: lowest probability of a peak to be an event
    :param what: label of the progress bar, which shows on terminals only
    :raises InputError: unreadable data
    """
    frame_secs = dataset.pair.frame_secs
    tables = []
    for index in tqdm(range(len(dataset)), desc=what, unit="recording", disable=None):
        logmel, _, _ = dataset[index]  # (mels, t)
        events = detect_events(
            lambda x: infer(x.to(device)),
            decoder,
            lambda begin, end, logmel=logmel: logmel[:, begin:end],
            logmel.shape[1],
            threshold=threshold,
            chunking=chunking,
            frame_secs=frame_secs,
        )
        tables.append(events)
    return tables
