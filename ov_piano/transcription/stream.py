"""Audio of any length -> log-mel on disk, read back in chunks, so that memory use does not depend on its length."""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ov_piano.constants import FRAME_SECS, TOP_DB
from ov_piano.data.audio import LARGEST_SAMPLE, RATES, LogMel, resample, resampled_blocks
from ov_piano.data.audio_stream import MOST_CHANNELS
from ov_piano.errors import InputError
from ov_piano.settings import LogMelSettings

BLOCK = 400_000  # samples of an array to process at once
PCM = {np.dtype("u1"): (128, 2**7), np.dtype("i2"): (0, 2**15), np.dtype("i4"): (0, 2**31)}  # offset, full scale


class SpooledLogMel:
    """Log-mel of a whole recording in a temporary file (150 MB per hour), deleted with this object.

    :meth:`read` applies the floor, since it is relative to the maximum of the whole recording.
    """

    def __init__(self, blocks: Iterable[Tensor], settings: LogMelSettings, progress: Callable[[float], None]):
        self.settings, self.mels = settings, settings.mels
        self.frames, maximum_db = 0, -np.inf
        try:
            self._file = tempfile.TemporaryFile(prefix="ov_piano_logmel_")  # noqa: SIM115 -- closed with this object
            for block in blocks:  # (mels, frames)
                self._file.write(block.T.contiguous().numpy().tobytes())
                self.frames += block.shape[1]
                maximum_db = max(maximum_db, float(block.max()))
                progress(block.shape[1] * FRAME_SECS)
            self._file.flush()
        except OSError as error:
            if error.filename is not None:  # of the audio file
                raise
            raise OSError(error.errno, f"{error.strerror} (temporary spectrogram)", tempfile.gettempdir()) from error
        self.floor_db = maximum_db - TOP_DB
        self.seconds = self.frames * FRAME_SECS

    def read(self, begin: int, end: int) -> Tensor:
        """(mels, end - begin) in dB."""
        frame_bytes = 4 * self.mels  # float32
        self._file.seek(begin * frame_bytes)
        stored = np.frombuffer(self._file.read((end - begin) * frame_bytes), np.float32).reshape(-1, self.mels)
        return torch.from_numpy(stored.T.copy()).clamp_(min=self.floor_db)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def spool_logmel(
    audio: str | Path | np.ndarray | Tensor,
    sample_rate: float | None = None,
    progress: Callable[[float], None] = lambda secs: None,
    settings: LogMelSettings = LogMelSettings(),
) -> SpooledLogMel:
    """Log-mel of a file, or of an array at ``sample_rate``.

    An array has the shape (samples,), (samples, channels) or (channels, samples) and contains floating-point numbers
    with full scale 1, or PCM integers: int16, int32, uint8.
    ``settings`` are those of the network's training, with the usual sampling rate and hop.
    ``progress`` is called after each block with its duration in seconds.

    :raises InputError: the audio is unreadable, not finite or too short
    """
    logmel = LogMel(settings)
    if not isinstance(audio, str | Path):
        return SpooledLogMel(logmel.in_blocks(_array_blocks(audio, sample_rate)), settings, progress)
    try:
        return SpooledLogMel(logmel.in_blocks(resampled_blocks(audio)), settings, progress)
    except InputError as error:
        raise error if str(audio) in str(error) else InputError(f"{audio}: {error}") from None


def _array_blocks(audio: np.ndarray | Tensor, sample_rate: float | None) -> Iterable[Tensor]:
    """Mono blocks at ``SAMPLE_RATE`` of a wave in memory."""
    if sample_rate is None or sample_rate not in RATES:  # accepts 44100.0
        raise InputError(
            f"audio given as an array: expected its sample_rate in Hz, a whole number from {RATES[0]} to {RATES[-1]}, "
            f"found {sample_rate}"
        )
    wave = torch.from_numpy(_mono(audio))
    return resample(wave.split(BLOCK), len(wave), int(sample_rate))


def _mono(audio: np.ndarray | Tensor) -> np.ndarray:
    """Downmix an array that `spool_logmel` accepts: (samples,) float32 with full scale 1."""
    if isinstance(audio, Tensor):
        audio = audio.detach().cpu()
        audio = (audio.float() if audio.is_floating_point() else audio).numpy()
    try:
        wave = np.asarray(audio)
    except ValueError:  # rows of different lengths
        raise InputError("audio: expected an array of samples") from None
    if wave.dtype.kind != "f" and wave.dtype.newbyteorder("=") not in PCM:
        raise InputError(f"audio given as an array: expected floating-point or PCM samples, found {wave.dtype}")
    if wave.ndim == 2 and wave.shape[0] < wave.shape[1]:  # (channels, samples), as torchaudio and librosa load files
        wave = wave.T
    if wave.ndim not in (1, 2) or (wave.ndim == 2 and not 1 <= wave.shape[1] <= MOST_CHANNELS):
        expected = "(samples,), (samples, channels) or (channels, samples)"
        raise InputError(f"audio: expected shape {expected}, found {np.shape(audio)}")
    offset, full_scale = PCM.get(wave.dtype.newbyteorder("="), (0, 1))
    wave = (wave.mean(axis=1, dtype=np.float64) if wave.ndim == 2 else wave).astype(np.float32)
    wave = (wave - offset) / np.float32(full_scale)
    if len(wave) and not np.abs(wave).max() <= LARGEST_SAMPLE:  # also catches NaN
        raise InputError("audio given as an array: contains samples that are NaN, infinite or far beyond full scale")
    return wave
