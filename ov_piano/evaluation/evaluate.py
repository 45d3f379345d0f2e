"""Recordings -> tables of note events, for cross-validation and test."""

import pandas as pd
import torch
from tqdm import tqdm

from ov_piano.data.chunks import RecordingDataset
from ov_piano.transcription.decoder import Decoder
from ov_piano.transcription.events import detect_events
from ov_piano.transcription.strided import Infer, chunk_frames


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
    """The event table of each recording, as `detect_events` describes it, in the dataset's order.

    One recording is held at a time, and of it one chunk on ``device``.

    :param infer: see `onset_velocity_pieces`
    :param threshold: probability from which on a peak is an event
    :param what: label of the progress bar, which shows on terminals only
    :raises InputError: chunk or overlap that do not fit the frames, unreadable data
    """
    frame_secs = dataset.pair.frame_secs
    chunk_size, chunk_overlap = chunk_frames(chunk_secs, overlap_secs, frame_secs)
    tables = []
    for index in tqdm(range(len(dataset)), desc=what, unit="recording", disable=None):
        logmel, _, _ = dataset[index]  # (mels, t)
        events = detect_events(
            lambda x: infer(x.to(device)),
            decoder,
            lambda begin, end, logmel=logmel: logmel[:, begin:end],
            logmel.shape[1],
            threshold=threshold,
            chunk_size=chunk_size,
            chunk_overlap=chunk_overlap,
            frame_secs=frame_secs,
        )
        tables.append(events)
    return tables
