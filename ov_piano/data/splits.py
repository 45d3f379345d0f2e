"""Which recordings of a pair of stores are for training, validation and test, and where their MIDI files are."""

import logging
from collections.abc import Sequence
from pathlib import Path

from ov_piano.data import maestro, maps
from ov_piano.data.hdf5 import StorePair
from ov_piano.errors import InputError
from ov_piano.settings import DatasetFolders

log = logging.getLogger(__name__)


def split_indices(pair: StorePair, split: str) -> list[int]:
    """The recordings of one split: the published split of MAESTRO, `maps.standard_split` of MAPS.

    :param split: "train", "validation" or "test"
    :raises InputError: the stores hold none
    """
    if pair.dataset == "MAPS":
        splits = maps.standard_split(pair.metadata)
        absent = sorted(set(maps.DISKLAVIERS) - {m.instrument for m in pair.metadata})
        if split == "train" and absent:
            missing = ", ".join(absent)
            log.warning("%s: holds nothing of %s: training may include pieces of the test", pair.mel.path, missing)
    else:
        splits = [m.split for m in pair.metadata]
    indices = [index for index, its in enumerate(splits) if its == split]
    if not indices:
        raise InputError(f"{pair.mel.path}: holds no {split} recordings (of {len(splits)} in all)")
    return indices


def midi_paths(pair: StorePair, indices: Sequence[int], folders: DatasetFolders) -> list[Path]:
    """The MIDI files of some recordings, found in the dataset that the stores were made from.

    :raises InputError: no such dataset, another version of it, or one that lacks a recording
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
