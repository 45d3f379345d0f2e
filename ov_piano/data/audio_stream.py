"""Streaming samples -> log-mel columns, independent of the block sizes of the stream.

Each group of columns is computed from the same samples by the same operations on the same shapes, so that the columns
are bit-identical for any block sizes.
"""

import numpy as np
import torch
import torchaudio
from torch import Tensor

from ov_piano.constants import SAMPLE_RATE
from ov_piano.data.audio import LARGEST_SAMPLE, RATES, LogMel, resampled_length, resampling_step
from ov_piano.errors import InputError

MOST_CHANNELS = 64  # with more, the axes are probably swapped


def mono_block(samples: np.ndarray | Tensor) -> np.ndarray:
    """A block (n,) or (n, channels) of floating-point samples -> its mean over channels, (n,) float32.

    :raises InputError: another shape or type, samples that are NaN, infinite or far beyond full scale
    """
    block = samples.detach().cpu().numpy() if isinstance(samples, Tensor) else np.asarray(samples)
    if not np.issubdtype(block.dtype, np.floating):
        raise InputError(f"block of samples: expected floating-point numbers, found {block.dtype}")
    if block.ndim not in (1, 2) or (block.ndim == 2 and not 1 <= block.shape[1] <= MOST_CHANNELS):
        expected = f"(n,) or (n, channels) with 1 to {MOST_CHANNELS} channels"
        raise InputError(f"block of samples: expected shape {expected}, found {block.shape}")
    block = block.astype(np.float32)
    if block.ndim == 2:
        block = block.mean(axis=1)
    if len(block) and not np.abs(block).max() <= LARGEST_SAMPLE:  # false for NaN, too
        raise InputError("block of samples: holds values that are NaN, infinite or far beyond full scale")
    return block


class Queue:
    """Appends blocks of any length and reads samples by their position in the stream."""

    def __init__(self, lead: int = 0):
        self._joined, self._blocks = np.zeros(lead, np.float32), []
        self._begin, self.end = -lead, 0  # positions of the first sample kept, and after the last

    def append(self, block: np.ndarray) -> None:
        self._blocks.append(block)
        self.end += len(block)

    def read(self, begin: int) -> np.ndarray:
        """The samples from position ``begin`` on; discards those before it."""
        joined = np.concatenate([self._joined, *self._blocks]) if self._blocks else self._joined
        self._joined, self._blocks = joined[begin - self._begin :].copy(), []  # a view would keep all samples in memory
        self._begin = begin
        return self._joined


class StreamResampler:
    """Streaming version of torchaudio's `Resample`: computes each output as soon as its inputs have arrived.

    :raises InputError: the rate is out of range or has no simple ratio to ``rate_out``
    """

    def __init__(self, rate_in: int, rate_out: int = SAMPLE_RATE):
        if rate_in not in RATES:
            raise InputError(f"sampling rate {rate_in} Hz, expected a whole number from {RATES[0]} to {RATES[-1]} Hz")
        rate_in = int(rate_in)  # 44100.0 is in RATES, too
        self.rate_in, self.rate_out = rate_in, rate_out
        if rate_in == rate_out:
            self._first, self._kernel, self._step = np.zeros(1, np.int64), np.ones((1, 1), np.float32), 1
        else:
            self._step = resampling_step(rate_in, rate_out)
            transform = torchaudio.transforms.Resample(rate_in, rate_out)
            kernel = transform.kernel[:, 0].numpy()  # (phases, taps), mostly zeros
            used = kernel != 0
            first = used.argmax(axis=1)
            taps = int((kernel.shape[1] - used[:, ::-1].argmax(axis=1) - first).max())
            first = np.minimum(first, kernel.shape[1] - taps)
            self._kernel = np.take_along_axis(kernel, first[:, None] + np.arange(taps), axis=1)
            self._first = first - transform.width  # first input of each phase, relative to its row
        self._inputs, self._done = Queue(lead=max(0, -int(self._first.min()))), 0

    def append(self, block: np.ndarray) -> None:
        """Samples (n,) at ``rate_in``."""
        self._inputs.append(block)

    def finish(self) -> int:
        """The stream has ended; returns its length after resampling."""
        length = resampled_length(self._inputs.end, self.rate_in, self.rate_out)
        self._inputs.append(np.zeros(self._kernel.shape[1] + self._step, np.float32))
        return length

    def can_take(self, outputs: int) -> bool:
        """Whether the inputs of the next ``outputs`` samples have arrived."""
        last = self._done + outputs - 1
        return self._begin_of(last) + self._kernel.shape[1] <= self._inputs.end

    def take(self, outputs: int) -> np.ndarray:
        """The next samples at ``rate_out``: (outputs,) float32."""
        if not outputs:
            return np.zeros(0, np.float32)
        index = np.arange(self._done, self._done + outputs)
        begins = self._begin_of(index)
        lowest = int(begins.min())
        inputs = self._inputs.read(lowest)
        windows = np.lib.stride_tricks.sliding_window_view(inputs, self._kernel.shape[1])[begins - lowest]
        self._done += outputs
        return np.einsum("ij,ij->i", windows, self._kernel[index % len(self._kernel)])

    def _begin_of(self, output):
        """Position of the first input needed for an output."""
        phases = len(self._kernel)
        return output // phases * self._step + self._first[output % phases]


class StreamLogMel:
    """Samples -> log-mel columns like :class:`LogMel`, not yet clamped, ``group`` columns at a time.

    :param group: number of columns to compute together
    """

    def __init__(self, logmel: LogMel, sample_rate: int, group: int):
        self._logmel, self._group = logmel, group
        self._resampler = StreamResampler(sample_rate)
        self._window, self._half = len(logmel.window), len(logmel.window) // 2
        self._wave = np.zeros(0, np.float32)  # from the next column's first sample on; the start is reflected
        self._samples = 0  # resampled so far
        self.columns = 0

    def append(self, block: np.ndarray) -> None:
        """Mono samples (n,) float32."""
        self._resampler.append(block)

    def next_columns(self) -> Tensor | None:
        """The next group (mels, group) in dB, or None if it needs more samples."""
        needed = self._needed(self.columns + self._group - 1)
        if not self._resampler.can_take(needed - self._samples):
            return None
        self._take(needed - self._samples)
        return self._transform(self._group)

    def finish(self) -> Tensor:
        """The stream has ended: its last columns (mels, n), with the end reflected; n may be 0."""
        length = self._resampler.finish()
        missing = (1 + length // self._logmel.hop if length > self._half else 0) - self.columns
        if missing <= 0:
            return torch.zeros(self._logmel.filters.shape[1], 0)
        self._take(length - self._samples)
        self._wave = np.concatenate([self._wave, self._wave[-self._half - 1 : -1][::-1]])
        return self._transform(missing)

    def _needed(self, column: int) -> int:
        """Number of resampled samples needed for a column."""
        return max(column * self._logmel.hop + self._half, self._half + 1)  # one more for the start's reflection

    def _take(self, samples: int) -> None:
        wave = self._resampler.take(samples)
        if not self._samples:
            wave = np.concatenate([wave[1 : self._half + 1][::-1], wave])
        self._wave = np.concatenate([self._wave, wave])
        self._samples += samples

    def _transform(self, columns: int) -> Tensor:
        span = (columns - 1) * self._logmel.hop + self._window
        logmel = self._logmel.decibels(torch.from_numpy(self._wave[:span].copy()))
        self._wave = self._wave[columns * self._logmel.hop :].copy()
        self.columns += columns
        return logmel
