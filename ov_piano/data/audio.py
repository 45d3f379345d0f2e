"""Audio file -> mono wave -> log-mel spectrogram, in blocks, so that memory does not depend on the sampling rate.

Equal to torchaudio's `Resample`, `MelSpectrogram` and `AmplitudeToDB` on the whole file, up to
float32 rounding.
"""

import math
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile as sf
import torch
import torchaudio
from torch import Tensor, nn

from ov_piano.constants import SAMPLE_RATE, TOP_DB
from ov_piano.data import mp3
from ov_piano.errors import InputError
from ov_piano.settings import LogMelSettings

RATES = range(1000, 1_000_001)  # Hz, of audio files
LARGEST_KERNEL = 2**24  # entries; torchaudio needs five times the memory, gigabytes for an odd ratio of rates
LARGEST_SAMPLE = 1e9  # full scale is 1; beyond this the power spectrogram could overflow
# Byte order and name of the chunk that holds the samples
SAMPLES_CHUNK = {
    (b"RIFF", b"WAVE"): ("<", b"data"),
    (b"FORM", b"AIFF"): (">", b"SSND"),
    (b"FORM", b"AIFC"): (">", b"SSND"),
}
# Length of the data chunk in WAV files that a program writes to a pipe: sox, arecord, ffmpeg
UNKNOWN_LENGTHS = range(0x7FFFEF00, 0x7FFFF001), range(0x80000000, 0x80000001), range(0xFFFFFF00, 2**32)
SILENCE_DB = -100.0  # dB, log-mel of digital silence: AmplitudeToDB's floor of 1e-10
BLOCK_SECS = 10  # read and resampled at once
LARGEST_BLOCK = 2**24  # values; limits blocks with many channels or a high sampling rate
BAND_MELS = 50  # mel bins computed at once, from the few spectrum bins that they overlap
BAND_OUTPUTS = 20  # resampled samples computed at once, from the few inputs around them
BLOCK_FRAMES = 256  # spectrogram frames computed at once: fits the CPU cache


class AudioInfo(NamedTuple):
    """Length, sampling rate and channels of an audio file."""

    samples: int  # per channel
    sample_rate: int  # Hz
    channels: int

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate


def audio_info(path: str | Path) -> AudioInfo:
    """:raises InputError: missing, empty, truncated (in a format that tells its length) or not audio."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    _check_length(path)
    try:
        with _opened(path) as file:
            info = AudioInfo(file.frames, file.samplerate, file.channels)
    except InputError:
        raise
    except (sf.SoundFileError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not an audio file, or of an unsupported format: {error}") from None
    if info.sample_rate not in RATES:
        raise InputError(f"{path}: sampling rate {info.sample_rate} Hz, expected {RATES[0]} to {RATES[-1]} Hz")
    if info.samples <= 0:
        raise InputError(f"{path}: contains no samples")
    return info


def _opened(path: str | Path) -> sf.SoundFile:
    """The file opened for reading, with its real length."""
    file = sf.SoundFile(path)
    if file.format != "MP3" or (repaired := mp3.repaired(path, file.frames)) is None:
        return file
    file.close()
    return sf.SoundFile(repaired)


def _check_length(path: Path) -> None:
    """Detect truncated WAV and AIFF files by the length of their samples; libsndfile reads them without an error."""
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{path}: empty file")
    with path.open("rb") as file:
        form, _, kind = struct.unpack("<4sI4s", file.read(12).ljust(12))
        if (form, kind) not in SAMPLES_CHUNK:
            return
        order, samples = SAMPLES_CHUNK[form, kind]
        while len(head := file.read(8)) == 8:
            name, length = struct.unpack(f"{order}4sI", head)
            if name == samples:
                missing = file.tell() + length - size
                if missing > 0 and not any(length in lengths for lengths in UNKNOWN_LENGTHS):
                    raise InputError(f"{path}: truncated, {missing} of {length} bytes of its samples are missing")
                return
            file.seek(length + length % 2, 1)


def resampled_length(samples: int, rate_in: int, rate_out: int) -> int:
    """Samples after resampling: ceil(samples * rate_out / rate_in)."""
    return -(-samples * rate_out // rate_in)


def logmel_frames(samples_in: int, rate_in: int, settings: LogMelSettings = LogMelSettings()) -> int:
    """Number of log-mel frames of a file with ``samples_in`` samples at ``rate_in`` Hz."""
    samples = resampled_length(samples_in, rate_in, settings.sample_rate)
    return 1 + (samples + 2 * (settings.window // 2) - settings.window) // settings.hop


def resampling_step(rate_in: int, rate_out: int) -> int:
    """Number of input samples after which the resampling phase repeats.

    :raises InputError: the ratio of the rates is not simple
    """
    divisor = math.gcd(rate_in, rate_out)
    if rate_in // divisor * (rate_out // divisor) > LARGEST_KERNEL:
        raise InputError(f"sampling rate {rate_in} Hz has no simple ratio to {rate_out} Hz: resample the file first")
    return rate_in // divisor


class _Resampler:
    """Block-wise version of torchaudio's `Resample`, as a matrix product instead of a strided convolution.

    Every ``step`` input samples yield one row of output samples, computed from the inputs around them.
    """

    def __init__(self, rate_in: int, rate_out: int):
        self.step = resampling_step(rate_in, rate_out)
        transform = torchaudio.transforms.Resample(rate_in, rate_out)
        self.width = transform.width
        self.kernel = transform.kernel[:, 0].T.contiguous()  # (taps, outputs per step)
        self.bands = _bands(self.kernel, BAND_OUTPUTS)
        self.pending = torch.zeros(self.width)

    def __call__(self, block: Tensor) -> Tensor:
        wave = torch.cat([self.pending, block])
        taps = len(self.kernel)
        if len(wave) < taps:
            self.pending = wave
            return wave[:0]
        rows = wave.unfold(0, taps, self.step)
        self.pending = wave[len(rows) * self.step :]
        resampled = wave.new_empty(len(rows), self.kernel.shape[1])
        for inputs, outputs in self.bands:
            resampled[:, outputs] = rows[:, inputs] @ self.kernel[inputs, outputs]
        return resampled.flatten()

    def finish(self) -> Tensor:
        return self(torch.zeros(self.width + self.step))


def load_mono(path: str | Path, sample_rate: int = SAMPLE_RATE) -> Tensor:
    """The file as mono (mean over channels), resampled to ``sample_rate``: (samples,) float32.

    :raises InputError: the file cannot be read to its end, or contains NaN or infinite samples.
    """
    return torch.cat(list(resampled_blocks(path, sample_rate)))  # not preallocated: the header may be wrong


def resampled_blocks(path: str | Path, sample_rate: int = SAMPLE_RATE) -> Iterator[Tensor]:
    """Like :func:`load_mono`, in blocks of about ten seconds: (samples,) float32 each."""
    info = audio_info(path)
    try:
        yield from resample(_mono_blocks(path, info), info.samples, info.sample_rate, sample_rate)
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from None


def resample(blocks: Iterable[Tensor], samples: int, rate_in: int, rate_out: int = SAMPLE_RATE) -> Iterator[Tensor]:
    """Resample consecutive ``blocks`` (n,) with ``samples`` samples in total.

    :raises InputError: the ratio of the rates is not simple
    """
    if rate_in == rate_out:
        yield from blocks
        return
    resampler = _Resampler(rate_in, rate_out)
    missing = resampled_length(samples, rate_in, rate_out)
    for block in blocks:
        resampled = resampler(block)[:missing]
        missing -= len(resampled)
        yield resampled
    yield resampler.finish()[:missing]


def _mono_blocks(path: str | Path, info: AudioInfo):
    """The whole file as mono (mean over channels) in blocks: (samples,) float32."""
    frames = min(BLOCK_SECS * info.sample_rate, info.samples, max(1, LARGEST_BLOCK // info.channels))
    read = 0
    try:
        with _opened(path) as file:
            # Scale 16-bit samples here, with equal results: libsndfile takes several times as long
            dtype, full_scale = (np.int16, 2**15) if file.subtype == "PCM_16" else (np.float32, 1)
            buffer = np.empty((frames, info.channels), dtype)
            weights = torch.full((info.channels,), 1 / (info.channels * full_scale))
            while read < info.samples and len(block := file.read(out=buffer)):
                mono = torch.from_numpy(block).float() @ weights  # a new tensor: the buffer is reused
                lowest, highest = mono.aminmax()
                if not -LARGEST_SAMPLE <= lowest <= highest <= LARGEST_SAMPLE:  # false for NaN, too
                    raise InputError(f"{path}: contains samples that are NaN, infinite or far beyond full scale")
                read += len(block)
                yield mono
    except (sf.SoundFileError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read beyond sample {read}: {error}") from None
    if read != info.samples:
        raise InputError(f"{path}: truncated: {info.samples} samples expected, {read} found")


class LogMel(nn.Module):
    """Wave (samples,) -> log-mel (mels, frames) in dB.

    Centred power spectrogram with a Hann window and reflection padding; HTK mel scale without
    normalisation; clamped to ``TOP_DB`` below the maximum of the whole wave.
    """

    def __init__(self, settings: LogMelSettings = LogMelSettings()):
        super().__init__()
        self.hop = settings.hop
        bins = settings.window // 2 + 1
        filters = torchaudio.functional.melscale_fbanks(
            bins, settings.fmin, settings.fmax, settings.mels, settings.sample_rate
        )
        self.register_buffer("window", torch.hann_window(settings.window), persistent=False)
        self.register_buffer("filters", filters, persistent=False)  # (bins, mels)
        self._bands = _bands(filters, BAND_MELS)

    def forward(self, wave: Tensor) -> Tensor:
        half = len(self.window) // 2
        self._check_length(len(wave))
        logmel = self.decibels(nn.functional.pad(wave[None], (half, half), mode="reflect")[0])
        return logmel.clamp_(min=float(logmel.max()) - TOP_DB)

    def in_blocks(self, waves: Iterable[Tensor]) -> Iterator[Tensor]:
        """The log-mel of consecutive ``waves`` in blocks (mels, frames), not yet clamped.

        Clamp each block to ``TOP_DB`` below the maximum of all blocks. The hop must be less than
        half the window.
        """
        size, half = len(self.window), len(self.window) // 2
        pending, padded = self.window.new_empty(0), False
        for wave in waves:
            pending = torch.cat([pending, wave])
            if not padded and len(pending) > half:
                pending, padded = torch.cat([pending[1 : half + 1].flip(0), pending]), True
            if padded and len(pending) >= size:
                block = self.decibels(pending)
                pending = pending[block.shape[1] * self.hop :]  # at least half a window is left
                yield block
        if not padded:
            self._check_length(len(pending))
        pending = torch.cat([pending, pending[-half - 1 : -1].flip(0)])
        if len(pending) >= size:
            yield self.decibels(pending)

    def _check_length(self, samples: int) -> None:
        if samples <= len(self.window) // 2:
            raise InputError(f"expected more than {len(self.window) // 2} samples, found {samples}")

    def decibels(self, padded: Tensor) -> Tensor:
        """Log-mel (mels, frames) of the windows inside the wave (samples,), without padding or clamping."""
        frames = padded.unfold(0, len(self.window), self.hop)  # (frames, window), a view
        logmel = padded.new_empty(self.filters.shape[1], len(frames))
        for begin in range(0, len(frames), BLOCK_FRAMES):
            block = slice(begin, begin + BLOCK_FRAMES)
            spectrum = torch.fft.rfft(frames[block] * self.window)
            power = spectrum.real.square() + spectrum.imag.square()
            for bins, mels in self._bands:
                logmel[mels, block] = (power[:, bins] @ self.filters[bins, mels]).T
        return logmel.clamp_(min=10 ** (SILENCE_DB / 10)).log10_().mul_(10)


def _bands(matrix: Tensor, size: int) -> list[tuple[slice, slice]]:
    """Bands of a sparse matrix (inputs, outputs): every ``size`` outputs with the range of their nonzero inputs."""
    bands = []
    for begin in range(0, matrix.shape[1], size):
        outputs = slice(begin, begin + size)
        used = matrix[:, outputs].any(1).nonzero()
        inputs = slice(int(used.min()), int(used.max()) + 1) if len(used) else slice(0, 1)
        bands.append((inputs, outputs))
    return bands
