"""Training, validation and test splits of a pair of stores, and the recordings' MIDI files."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from ov_piano.data import maestro, maps
from ov_piano.data.hdf5 import StorePair
from ov_piano.errors import InputError
from ov_piano.settings import DatasetFolders

log = logging.getLogger(__name__)


def split_indices(pair: StorePair, split: str) -> list[int]:
    """Indices of the recordings of one split: MAESTRO's published split, or `maps.standard_split` for MAPS.

    :param split: "train", "validation" or "test"
    :raises InputError: no recordings in this split
    """
    if pair.dataset == "MAPS":
        splits = maps.standard_split(pair.metadata)
        absent = sorted(set(maps.DISKLAVIERS) - {m.instrument for m in pair.metadata})
        if split == "train" and absent:
            missing = ", ".join(absent)
            log.warning("%s: no recordings of %s: training may include test pieces", pair.mel.path, missing)
    else:
        splits = [m.split for m in pair.metadata]
    indices = [index for index, name in enumerate(splits) if name == split]
    if not indices:
        raise InputError(f"{pair.mel.path}: holds no {split} recordings (of {len(splits)} in all)")
    return indices


def only_listed(pair: StorePair, indices: Sequence[int], path: str | os.PathLike) -> list[int]:
    """The ``indices`` whose recordings are listed in a text file, in the order of ``indices``.

    :param path: one recording name per line, without folder and extension; lines that begin with ``#`` are comments
    :raises InputError: the file cannot be read, is empty, or lists a recording that is not among ``indices``
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a text file with one recording per line: {error}") from None
    listed = {name for line in lines if (name := line.strip()) and not name.startswith("#")}
    if not listed:
        raise InputError(f"{path}: lists no recordings")
    known = {pair.metadata[index].basename: index for index in indices}
    if unknown := sorted(listed - known.keys()):
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        absent = unknown[0] not in {m.basename for m in pair.metadata}
        problem = f"not in {pair.mel.path}" if absent else f"belongs to another split of {pair.mel.path}"
        raise InputError(f"{path}: lists {unknown[0]}{more}: {problem}")
    return [index for name, index in known.items() if name in listed]


def midi_paths(pair: StorePair, indices: Sequence[int], folders: DatasetFolders) -> list[Path]:
    """The MIDI files of the recordings, in the dataset that the stores were made from.

    :raises InputError: dataset not found, wrong version, or missing recording
    """
    if pair.dataset == "MAPS":
        root, recordings = folders.maps, maps.load_recordings(folders.maps, need_audio=False)
    elif pair.dataset == maestro.dataset_name(folders.maestro_version):
        root = folders.maestro
        recordings = maestro.load_recordings(root, folders.maestro_version, need_audio=False)
    else:
        raise InputError(f"{pair.mel.path}: holds {pair.dataset}, but MAESTRO_VERSION={folders.maestro_version}")
    paths = {recording.name: recording.midi_path for recording in recordings}
    names = [pair.metadata[index].basename for index in indices]
    for name in names:
        if name not in paths:
            raise InputError(f"{root}: lacks the recording {name} of {pair.mel.path}")
    return [paths[name] for name in names]
