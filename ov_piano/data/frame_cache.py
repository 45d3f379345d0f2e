"""An uncompressed, frame-by-frame copy of the training data, beside the log-mel store.

A training chunk overlaps 1.6 of the stores' compressed 8 s blocks on average, and each block
must be decompressed whole; with chunks shuffled over hours of music, caching blocks does not
help. In the frame cache a chunk is one contiguous read. It needs more disk space: 1088 bytes
per frame, 163 MB per hour, 33 GB for MAESTRO v3.

Layout: a header of `HEADER_BYTES` (JSON, padded with spaces) that identifies the source stores;
log-mels (frames, mels) float32; MIDI velocities at onsets (frames, 88) uint8.
"""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from ov_piano.constants import KEY_ROWS, KEYS, MIDI_VALUES
from ov_piano.data.hdf5 import StorePair
from ov_piano.errors import InputError
from ov_piano.machine.atomic import atomic_write, locked, remove_partials

logger = logging.getLogger(__name__)
HEADER_BYTES = 4096
BUILD_FRAMES = 10_000  # at a time


class FrameCache:
    """Read-only view of the copy; picklable, each process opens the file itself when it first reads."""

    def __init__(self, path: Path, pair: StorePair) -> None:
        self.path, self.mels, self.frames = path, pair.mel.height, int(pair.mel.ends[-1])
        self._file: BinaryIO | None = None
        self._pid = 0

    def read(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames ``begin`` to ``end``: log-mel (mels, t) float32 in dB, key velocities (88, t) uint8."""
        logmel = np.empty((end - begin, self.mels), np.float32)
        keys = np.empty((end - begin, KEYS), np.uint8)
        for array, offset in zip((logmel, keys), self._offsets(begin), strict=True):
            self._opened.seek(offset)
            if self._opened.readinto(array) != array.nbytes:
                raise OSError(f"{self.path} ends before frame {end}")
        return logmel.T, keys.T

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_file": None}

    @property
    def _opened(self) -> BinaryIO:
        if self._file is None or self._pid != os.getpid():  # a forked process would share the file position
            self._file, self._pid = self.path.open("rb", buffering=0), os.getpid()
        return self._file

    def _offsets(self, frame: int) -> tuple[int, int]:
        """Where the log-mel and the velocities of a frame are in the file, in bytes."""
        mel_bytes = np.dtype(np.float32).itemsize * self.mels
        return HEADER_BYTES + frame * mel_bytes, HEADER_BYTES + self.frames * mel_bytes + frame * KEYS

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self._offsets(self.frames)[1]

    def is_made_from(self, pair: StorePair) -> bool:
        """Whether the file is complete and the stores have not changed since."""
        try:
            with open(self.path, "rb") as file:
                return file.read(HEADER_BYTES) == _header(pair) and os.fstat(file.fileno()).st_size == self.size
        except FileNotFoundError:
            return False

    def write(self, pair: StorePair, file: BinaryIO) -> None:
        """Write the whole copy into ``file``.

        :raises InputError: a roll with other values than MIDI velocities.
        """
        for begin in tqdm(range(0, self.frames, BUILD_FRAMES), desc=self.path.name, disable=None):
            end = min(begin + BUILD_FRAMES, self.frames)
            velocities = pair.roll.read(begin, end)[KEY_ROWS].T
            keys = velocities.clip(0, MIDI_VALUES - 1).astype(np.uint8)
            if not np.array_equal(keys, velocities):
                raise InputError(f"{pair.roll.path}: onset rows: expected whole numbers from 0 to {MIDI_VALUES - 1}")
            for array, offset in zip((pair.mel.read(begin, end).T, keys), self._offsets(begin), strict=True):
                file.seek(offset)
                file.write(np.ascontiguousarray(array))
        file.seek(0)
        file.write(_header(pair))


def open_frame_cache(pair: StorePair) -> FrameCache | None:
    """The up-to-date copy of the two stores, made if necessary; None, with a warning, if it cannot be made.

    Several processes may call this at once: one makes the copy, the others wait. It takes at most
    half of the free disk space.

    :raises InputError: a roll contains values that are not MIDI velocities.
    """
    cache = FrameCache(pair.mel.path.with_suffix(".frames"), pair)
    try:
        if cache.is_made_from(pair):
            return cache
        with locked(cache.path):
            os.listdir(cache.path.parent)  # network file systems cache for a while that a file is missing
            if not cache.is_made_from(pair):  # another process may have made it in the meantime
                _make(cache, pair)
    except OSError as error:
        logger.warning("%s: no frame cache, training reads the HDF5 files directly: %s", cache.path, error)
        return None
    return cache


def _make(cache: FrameCache, pair: StorePair) -> None:
    """Make the copy atomically; remove unfinished copies of killed processes."""
    remove_partials(cache.path.parent)
    cache.path.unlink(missing_ok=True)
    free = shutil.disk_usage(cache.path.parent).free
    gigabytes = cache.size / 1e9
    if cache.size > free / 2:
        raise OSError(f"{gigabytes:.1f} GB is more than half of the {free / 1e9:.1f} GB free on the disk")
    logger.info("frame cache: writing %.1f GB to %s (FRAME_CACHE=false disables it)", gigabytes, cache.path)
    try:
        with atomic_write(cache.path) as partial, open(partial, "wb") as file:
            cache.write(pair, file)
        if not cache.is_made_from(pair):
            raise OSError("changed while it was made")
    finally:
        pair.mel.close()
        pair.roll.close()


def _header(pair: StorePair) -> bytes:
    """Identifies the stores by size in bytes and modification time in ns."""
    stats = [os.stat(store.path) for store in (pair.mel, pair.roll)]
    made_from = {"stores": [[stat.st_size, stat.st_mtime_ns] for stat in stats], "mels": pair.mel.height}
    return json.dumps({"frame_cache": 1, **made_from}).encode().ljust(HEADER_BYTES)
