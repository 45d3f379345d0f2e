"""A file that HDF5 can write even when the disk is full.

HDF5 cannot close a file whose last blocks cannot be written: it repeats the error at every later call and may end
the process. This file reports failed writes to HDF5 as successful and keeps the error; the writer checks for it with
:meth:`SteadyFile.check`.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py


class SteadyFile(io.FileIO):
    """A new file to read and write; after a failed write its contents are invalid, see :meth:`check`."""

    def __init__(self, path: Path):
        super().__init__(path, "w+")
        self._error: OSError | KeyboardInterrupt | None = None

    def write(self, data: bytes) -> int:
        view = memoryview(data).cast("B")
        written = 0
        try:
            while self._error is None and written < len(view):
                written += super().write(view[written:])
        except (OSError, KeyboardInterrupt) as error:
            self._error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            if self._error is None:
                return super().truncate(size)
        except OSError as error:
            self._error = error
        return size or 0

    def readinto(self, buffer: bytearray) -> int:
        count = super().readinto(buffer)
        if self._error is None:
            return count
        memoryview(buffer).cast("B")[count:] = bytes(len(buffer) - count)
        return len(buffer)

    def check(self) -> None:
        """:raises OSError: a write has failed; the error contains the path."""
        if isinstance(self._error, KeyboardInterrupt):
            raise self._error
        if self._error is not None:
            raise OSError(self._error.errno, self._error.strerror, str(self.name))


@contextmanager
def new_hdf5(path: Path) -> Iterator[tuple[h5py.File, SteadyFile]]:
    """A new HDF5 file, closed at the end of the block, and its `SteadyFile`, to check for errors in the block.

    :raises OSError: a write failed, for example because the disk is full.
    """
    with SteadyFile(path) as raw:
        with h5py.File(raw, "w") as file:
            yield file, raw
        raw.check()
