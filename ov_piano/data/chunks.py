"""The pair of HDF5 stores as torch datasets: whole recordings, and fixed-length chunks of them.

A chunk may extend beyond the ends of its recording, so that the first and last notes occur at
every position, too. The roll is padded with 0, the log-mel with the minimum of the chunk's
frames inside the recording.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ov_piano.constants import KEY_ROWS, KEYS
from ov_piano.data.frame_cache import FrameCache
from ov_piano.data.hdf5 import StorePair
from ov_piano.errors import InputError

logger = logging.getLogger(__name__)


class Chunks(NamedTuple):
    """A batch of chunks.

    logmel: (b, mels, length) in dB; key_velocities: (b, 88, length), the MIDI velocity (1-127) at a
    key's onset frames or, with ``SOUNDING_KEY_ROWS``, while it sounds, else 0; recordings: (b,) indices
    into the stores' metadata.
    """

    logmel: Tensor
    key_velocities: Tensor
    recordings: Tensor


class ReadError(InputError):
    """A recording's data cannot be read; the message names the recording and the reason."""


def chunk_bounds(
    begin: int, end: int, length: int, stride: int, with_outside: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bounds of the chunks of a recording from frame ``begin`` to ``end`` (exclusive).

    With ``with_outside``, the first chunk starts ``length - stride`` frames before the recording and
    the last ends at most as many after it; otherwise all are inside. The bound of the starts is
    exclusive, so a recording of exactly ``length`` frames has no chunk inside.

    :returns: begins, ends: (n,) absolute frames; padding: (n,) frames outside, negative before
        the recording, positive after it (also if it is both), 0 inside.
    """
    outside = length - stride if with_outside else 0
    begins = np.arange(begin - outside, end - length + outside, stride, dtype=np.int64)
    ends = begins + length
    padding = np.where(ends > end, ends - end, np.minimum(begins - begin, 0))
    return begins, ends, padding


class RecordingDataset(Dataset):
    """Whole recordings: ``(logmel (mels, t) in dB, roll (259, t), metadata tuple)``."""

    def __init__(self, pair: StorePair, indices: Sequence[int]) -> None:
        """:param indices: the recordings, as indices into the stores' metadata."""
        self.pair = pair
        self.indices = np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, tuple]:
        index = int(self.indices[item])
        mel, roll = self.pair.mel, self.pair.roll
        begin, end = int(self.pair.begins[index]), int(self.pair.ends[index])
        try:
            arrays = mel.read(begin, end), roll.read(begin, end)
        except Exception as error:
            raise _read_error(self.pair, index, error) from error
        return *map(torch.from_numpy, arrays), self.pair.metadata[index]


class ChunkDataset(Dataset):
    """Chunks of ``length`` frames every ``stride`` frames: items are `Chunks` without the batch axis."""

    def __init__(
        self,
        pair: StorePair,
        indices: Sequence[int],
        length: int,
        stride: int,
        cache: FrameCache | None = None,
        rows: slice = KEY_ROWS,
    ) -> None:
        """:param indices: the recordings, as indices into the stores' metadata.
        :param cache: copy of the stores to read from instead; it contains ``KEY_ROWS`` only.
        :param rows: rows of the roll to return as key velocities: ``KEY_ROWS`` or ``SOUNDING_KEY_ROWS``

        :raises InputError: length or stride not positive, or no chunks.
        """
        if length < 1 or stride < 1:
            raise InputError(f"chunk length {length} and stride {stride}: expected at least 1 frame each")
        self.pair, self.length, self.cache, self.rows = pair, length, cache, rows
        # Arrays, not lists: worker processes share their memory with the parent.
        begins = [chunk_bounds(pair.begins[i], pair.ends[i], length, stride)[0] for i in indices]
        self.begins = np.concatenate([np.empty(0, np.int64), *begins])
        self.recordings = np.repeat(np.asarray(indices, np.int64), [len(b) for b in begins])
        if not len(self.begins):
            raise InputError(f"{pair.mel.path}: {len(indices)} recordings hold no chunk of {length} frames")

    def __len__(self) -> int:
        return len(self.begins)

    def __getitem__(self, item: int) -> Chunks:
        return Chunks(*(field[0] for field in self.__getitems__([item])))

    def __getitems__(self, items: Sequence[int]) -> Chunks:
        """The batch of these items (torch's data loader prefers this to `__getitem__`)."""
        logmel = torch.empty(len(items), self.pair.mel.height, self.length)
        key_velocities = torch.zeros(len(items), KEYS, self.length)
        for row, item in enumerate(items):
            index = int(self.recordings[item])
            try:
                self._fill(logmel[row].numpy(), key_velocities[row].numpy(), int(self.begins[item]), index)
            except Exception as error:
                raise _read_error(self.pair, index, error) from error
        return Chunks(logmel, key_velocities, torch.from_numpy(self.recordings[np.asarray(items)]))

    def _fill(self, logmel: np.ndarray, key_velocities: np.ndarray, begin: int, index: int) -> None:
        """Write the chunk that starts at frame ``begin`` into (mels, length) and the zeros of (88, length)."""
        begins, ends = self.pair.begins, self.pair.ends
        first = max(begin, int(begins[index]))
        last = min(begin + self.length, int(ends[index]))
        inside = slice(first - begin, last - begin)
        logmel[:, inside], key_velocities[:, inside] = self._read(first, last)
        if last - first < self.length:
            floor = logmel[:, inside].min()
            logmel[:, : inside.start] = floor
            logmel[:, inside.stop :] = floor

    def _read(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Log-mel (mels, t) and key velocities (88, t) of absolute frames."""
        if self.cache:
            try:
                logmel, onsets = self.cache.read(begin, end)
                return logmel, onsets if self.rows == KEY_ROWS else self.pair.roll.read(begin, end)[self.rows]
            except OSError as error:
                logger.warning("frame cache cannot be read, reading the HDF5 files from now on: %s", error)
                self.cache = None
        return self.pair.mel.read(begin, end), self.pair.roll.read(begin, end)[self.rows]

    def close(self) -> None:
        """Close the files; they open again at the next read."""
        for opened in (self.pair.mel, self.pair.roll, self.cache):
            if opened is not None:
                opened.close()


def _read_error(pair: StorePair, index: int, error: Exception) -> ReadError:
    return ReadError(f"{pair.mel.path}: recording {pair.metadata[index].basename}: {type(error).__name__}: {error}")
