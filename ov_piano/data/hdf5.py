"""The pair of HDF5 files: log-mels in one, piano rolls in the other, readable with plain h5py.

Each file is a *store*: recordings concatenated along time in one resizable dataset ``data``
(height, frames); ``metadata``, one string per recording, a tuple literal; ``data_idxs``
(2, recordings), begin and end (exclusive) frame of each. The file name holds the parameters.
"""

import ast
import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from ov_piano.data.steady_file import new_hdf5
from ov_piano.data.store_names import METADATA_CLASSES, MelName, RollName, parse_mel_name, parse_roll_name
from ov_piano.errors import InputError
from ov_piano.machine.atomic import atomic_write


def create_frames(file: h5py.File, name: str, height: int, chunk_frames: int) -> h5py.Dataset:
    """An empty dataset (height, 0) that grows along time."""
    shapes = {"shape": (height, 0), "maxshape": (height, None), "chunks": (height, chunk_frames)}
    return file.create_dataset(name, dtype=np.float32, compression="lzf", **shapes)


class StoreWriter:
    """Writes a store that appears at ``path`` when the ``with`` block ends without an error.

    :raises OSError: the file cannot be written, for example because the disk is full.
    """

    def __init__(self, path: str | os.PathLike, height: int, chunk_frames: int):
        self.path = Path(path)
        self.chunk_frames = chunk_frames
        if self.path.exists():
            raise InputError(f"{path}: exists already and is not overwritten")
        with ExitStack() as stack:
            self._file, self._raw = stack.enter_context(new_hdf5(stack.enter_context(atomic_write(self.path))))
            self._data = create_frames(self._file, "data", height, chunk_frames)
            text = h5py.string_dtype(encoding="utf-8")
            self._metadata = self._file.create_dataset("metadata", (0,), text, maxshape=(None,), chunks=(1024,))
            self._idxs = self._file.create_dataset("data_idxs", (2, 0), np.int64, maxshape=(2, None), chunks=(2, 1024))
            self._stack = stack.pop_all()

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def frames(self) -> int:
        return self._data.shape[1]

    def append(self, array: np.ndarray, metadata: tuple) -> None:
        """Add one recording, ``array``: (height, frames)."""
        begin = self._extend(array.shape[1], metadata)
        self._data[:, begin:] = array

    def append_chunked(self, source: h5py.Dataset, lead: int, metadata: tuple) -> None:
        """Add one recording from ``source``: (height, lead + frames), stored like ``data``.

        If the recording's chunks in ``source`` and ``data`` are aligned (which depends on ``lead``),
        whole chunks are copied without decompressing them.
        """
        begin = self._extend(source.shape[1] - lead, metadata)
        size, shift = self.chunk_frames, begin - lead
        for left in range(0, source.shape[1], size):
            right = min(left + size, source.shape[1])
            inside = max(left, lead)
            if shift % size == 0 and inside == left and right - left == size:
                mask, chunk = source.id.read_direct_chunk((0, left))
                self._data.id.write_direct_chunk((0, left + shift), chunk, mask)
            elif inside < right:
                self._data[:, inside + shift : right + shift] = source[:, inside:right]

    def _extend(self, frames: int, metadata: tuple) -> int:
        """Make room for ``frames`` and describe them; return their begin."""
        self._raw.check()
        begin, count = self._data.shape[1], self._metadata.shape[0]
        self._data.resize(begin + frames, axis=1)
        self._metadata.resize(count + 1, axis=0)
        self._metadata[count] = repr(tuple(metadata))
        self._idxs.resize(count + 1, axis=1)
        self._idxs[:, count] = begin, begin + frames
        return begin


class Store:
    """Read-only view of a store; picklable, opened lazily by each process for itself.

    :raises InputError: the file is missing, truncated, being written, or not a store of
        this height.
    """

    def __init__(self, path: str | os.PathLike, height: int | None = None):
        self.path = Path(path)
        self._file, self._data, self._pid = None, None, None
        if not self.path.is_file():
            raise InputError(f"{path}: no such file (HDF5_MEL_PATH and HDF5_ROLL_PATH name those of script 0a or 0b)")
        try:
            with h5py.File(self.path, "r") as file:
                self.height, self.metadata, self.begins, self.ends = _check_store(file, height)
        except BlockingIOError:
            raise InputError(f"{path}: is being written by another process") from None
        except (OSError, RuntimeError, KeyError, TypeError, ValueError, SyntaxError, MemoryError) as error:
            raise InputError(f"{path}: not a complete HDF5 file of recordings: {error}") from None

    def __len__(self) -> int:
        return len(self.metadata)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_file": None, "_data": None, "_pid": None}

    @property
    def data(self) -> h5py.Dataset:
        """The dataset (height, total frames), opened by the calling process."""
        if self._file is None or self._pid != os.getpid():  # HDF5 handles must not be shared across a fork
            self._file, self._pid = h5py.File(self.path, "r"), os.getpid()
            self._data = self._file["data"]  # kept: reopening would read the chunk index again
        return self._data

    def read(self, begin: int, end: int) -> np.ndarray:
        """Frames ``begin`` to ``end`` of the whole file: (height, end - begin) float32."""
        return self.data[:, begin:end]

    def close(self) -> None:
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = self._data = None


def _check_store(file: h5py.File, height: int | None) -> tuple[int, list[tuple], np.ndarray, np.ndarray]:
    """Height, metadata, begins, ends of an open store; raises `ValueError` if it is malformed."""
    missing = [name for name in ("data", "metadata", "data_idxs") if not isinstance(file.get(name), h5py.Dataset)]
    if missing:
        raise ValueError(f"lacks the dataset {missing[0]!r}")
    data, idxs, metadata = file["data"], file["data_idxs"], file["metadata"]
    if data.ndim != 2 or data.dtype != np.float32:
        raise ValueError(f"data: expected two-dimensional float32, found {data.ndim} dimensions of {data.dtype}")
    if height is not None and data.shape[0] != height:
        raise ValueError(f"data: expected {height} rows, as the name says, found {data.shape[0]}")
    if metadata.ndim != 1:
        raise ValueError(f"metadata: expected one dimension, found shape {metadata.shape}")
    if idxs.shape != (2, len(metadata)):
        raise ValueError(f"data_idxs: expected shape {(2, len(metadata))}, found {idxs.shape}")
    metadata = [ast.literal_eval(text) for text in metadata.asstr()[()]]
    if not all(isinstance(entry, tuple) for entry in metadata):
        raise ValueError("metadata: expected tuples")
    begins, ends = idxs[()].astype(np.int64)
    bounds = np.concatenate([begins[:1], ends])
    if not metadata or bounds[0] != 0 or bounds[-1] != data.shape[1] or (begins != bounds[:-1]).any():
        raise ValueError(f"data_idxs: expected adjoining recordings from frame 0 to {data.shape[1]}")
    if (ends <= begins).any():
        raise ValueError("data_idxs: a recording without frames")
    return data.shape[0], metadata, begins, ends


class StorePair(NamedTuple):
    """Log-mels and rolls of the same recordings, frame by frame."""

    mel: Store
    roll: Store
    mel_name: MelName
    roll_name: RollName
    metadata: Sequence[tuple]  # MaestroMetadata or MapsMetadata, one per recording

    @property
    def dataset(self) -> str:
        return self.mel_name.dataset

    @property
    def frame_secs(self) -> float:
        return self.roll_name.frame_secs

    @property
    def begins(self) -> np.ndarray:
        return self.mel.begins

    @property
    def ends(self) -> np.ndarray:
        return self.mel.ends


def open_pair(mel_path: str | os.PathLike, roll_path: str | os.PathLike) -> StorePair:
    """Both stores, checked to contain the same recordings at the same frames.

    :raises InputError: invalid file or file name, or files that do not belong together.
    """
    mel_name, roll_name = parse_mel_name(mel_path), parse_roll_name(roll_path)
    mel, roll = Store(mel_path, mel_name.height), Store(roll_path, roll_name.height)
    both = f"{mel_path} and {roll_path} do not belong together"
    if mel_name.dataset != roll_name.dataset:
        raise InputError(f"{both}: {mel_name.dataset} and {roll_name.dataset}")
    if not math.isclose(mel_name.frame_secs, roll_name.frame_secs, rel_tol=1e-6):
        raise InputError(f"{both}: frames of {mel_name.frame_secs:g} s and {roll_name.frame_secs:g} s")
    if len(mel) != len(roll):
        raise InputError(f"{both}: {len(mel)} and {len(roll)} recordings")
    for ours, other in zip(mel.metadata, roll.metadata, strict=True):
        if ours != other:
            raise InputError(f"{both}: {ours} in the first, {other} in the second at the same position")
    different = np.flatnonzero((mel.ends != roll.ends) | (mel.begins != roll.begins))
    if different.size:
        lengths = [int((store.ends - store.begins)[different[0]]) for store in (mel, roll)]
        raise InputError(f"{both}: {mel.metadata[different[0]][0]} has {lengths[0]} and {lengths[1]} frames")
    metadata_class = METADATA_CLASSES[mel_name.dataset]
    try:
        metadata = [metadata_class(*entry) for entry in mel.metadata]
    except TypeError:
        raise InputError(f"{mel_path}: metadata: expected {metadata_class._fields}") from None
    return StorePair(mel, roll, mel_name, roll_name, metadata)
