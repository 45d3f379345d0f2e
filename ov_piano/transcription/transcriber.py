"""Transcribe recordings: audio in, table of note events out.

transcriber = Transcriber()                      # the default snapshot
events = transcriber("recording.wav")            # onset_secs, offset_secs, note, velocity, prob
events = transcriber(wave, sample_rate=44_100)   # numpy array or tensor
"""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from ov_piano.errors import InputError
from ov_piano.machine.device import DEFAULT_DEVICE, select_device
from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.ends import has_end_stage, load_with_ends
from ov_piano.model.fast import optimize_for_inference
from ov_piano.model.incremental import plain_parts
from ov_piano.model.networks import load_network
from ov_piano.model.sidecar import PUBLISHED, read_sidecar
from ov_piano.resources import default_snapshot
from ov_piano.settings import Chunking, DecoderSettings, LogMelSettings
from ov_piano.transcription.decoder import Decoder
from ov_piano.transcription.events import detect_events
from ov_piano.transcription.note_ends import end_by_next_onset, has_ends, shifted
from ov_piano.transcription.stream import SpooledLogMel, spool_logmel

log = logging.getLogger(__name__)


def load_model(
    snapshot: str | Path | None = None, device: str = "cpu", leaky_relu_slope: float | None = None
) -> OnsetVelocityBase:
    """Load the network of ``snapshot`` (None: the default one) with its weights, in eval mode.

    The weights determine which published network it is and its number of mel bands (``in_bins``).
    """
    return load_network(snapshot or default_snapshot(), leaky_relu_slope).to(select_device(device))


class Transcriber:
    """Network, decoder and operating point of one snapshot.

    :param snapshot: path to the weights; None: the default snapshot
    :param threshold: minimum probability of an event; None: the snapshot's own
    :param shift: seconds added to all times; None: the snapshot's own
    :param device: "cpu", "cuda", "cuda:1" …
    :param chunking: how to split long recordings; default: chunks of 300 s with an overlap of 11 s
    :param ends: path to the weights for note ends; None: the file beside the snapshot, if any
    :param leaky_relu_slope: the value used in training the snapshot; None: the snapshot's own, else 0.1
    :param fast: use the optimised kernels on the CPU; False: plain PyTorch
    :raises InputError: an invalid file or value
    """

    def __init__(
        self,
        snapshot: str | Path | None = None,
        *,
        threshold: float | None = None,
        shift: float | None = None,
        device: str = DEFAULT_DEVICE,
        chunking: Chunking = Chunking.from_secs(),
        decoder: DecoderSettings = DecoderSettings(),
        leaky_relu_slope: float | None = None,
        fast: bool = True,
        ends: str | Path | None = None,
    ):
        if threshold is not None and not 0 <= threshold <= 1:
            raise InputError(f"threshold {threshold}: expected a number from 0 to 1")
        if shift is not None and not math.isfinite(shift):
            raise InputError(f"shift {shift}: expected a number of seconds")
        if leaky_relu_slope is not None and not 0 <= leaky_relu_slope < math.inf:
            raise InputError(f"leaky_relu_slope {leaky_relu_slope}: expected a number of at least 0")
        self.snapshot = Path(snapshot or default_snapshot())
        self.device = select_device(device)
        model = load_with_ends(self.snapshot, leaky_relu_slope, ends).to(self.device)
        self.has_ends = has_end_stage(model)
        sidecar = read_sidecar(self.snapshot)
        self.logmel = sidecar.logmel or LogMelSettings(mels=model.in_bins)
        _check_supported(self.logmel, sidecar.path)
        self.mels = model.in_bins
        self.infer = optimize_for_inference(model) if fast else model.infer
        self.parts = self.infer.parts if fast else plain_parts(model)
        self.chunking = chunking
        self.decoder = Decoder(decoder)
        point = sidecar.point
        if point is None and None in (threshold, shift):
            point = PUBLISHED[type(model).__name__]
            log.warning(
                "no operating point found for %s (script 2 with SAVE_OPERATING_POINT=true finds it): using the "
                "published threshold %g and shift %g s unless given",
                self.snapshot,
                *point,
            )
        self.threshold = point.threshold if threshold is None else threshold
        self.shift = point.shift if shift is None else shift

    def __call__(self, audio: str | Path | np.ndarray | Tensor, sample_rate: float | None = None) -> pd.DataFrame:
        """Transcribe a file, or an array at ``sample_rate``; see `spool_logmel` for the accepted arrays.

        Returns note events ordered by onset: ``onset_secs``, ``note`` (MIDI), ``velocity`` (0-127), ``prob``; with
        note ends (``has_ends``) also ``offset_secs``. Memory use does not depend on the length of a file.

        :raises InputError: the audio cannot be read or is invalid
        """
        return self.detect(spool_logmel(audio, sample_rate, settings=self.logmel))

    def detect(self, logmel: SpooledLogMel, progress: Callable[[float], None] = lambda secs: None) -> pd.DataFrame:
        """Transcribe a log-mel; ``progress`` is called with the duration of each chunk in seconds."""
        events = detect_events(
            lambda chunk: self.infer(chunk.to(self.device)),
            self.decoder,
            logmel.read,
            logmel.frames,
            threshold=self.threshold,
            chunking=self.chunking,
            progress=progress,
        )
        return shifted(end_by_next_onset(events) if has_ends(events) else events, self.shift)


def _check_supported(logmel: LogMelSettings, path: Path) -> None:
    """:raises InputError: log-mels that the transcription does not compute"""
    rate, hop = LogMelSettings.sample_rate, LogMelSettings.hop
    if (logmel.sample_rate, logmel.hop) != (rate, hop) or logmel.window <= 2 * hop or logmel.window % 2:
        raise InputError(
            f"{path}: transcription needs log-mels with sample_rate={rate}, hop={hop} and an even window of "
            f"more than {2 * hop}, found {logmel.sample_rate}, {logmel.hop} and {logmel.window}"
        )
