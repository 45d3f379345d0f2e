"""Chunks of recordings: golden bounds, and each chunk against the slice of the padded whole."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ov_piano.constants import KEYS, LOWEST_NOTE, ROLL_ROWS
from ov_piano.data.chunks import ChunkDataset, ReadError, RecordingDataset, chunk_bounds
from ov_piano.data.hdf5 import MelName, RollName, StoreWriter, open_pair
from ov_piano.data.maestro import MaestroMetadata
from ov_piano.errors import InputError
from ov_piano.settings import LogMelSettings

GOLDEN = Path(__file__).parent / "golden" / "chunks.npz"
MELS = 6
FRAMES = (90, 1, 13, 200, 41)  # of the recordings


def make_pair(folder, frames=FRAMES, mels=MELS, seed=0):
    """A pair of stores in ``folder``, and their arrays: log-mels (mels, t), rolls (259, t), one per recording."""
    rng = np.random.default_rng(seed)
    mel_path = folder / str(MelName("MAESTROv3", LogMelSettings(mels=mels)))
    roll_path = folder / str(RollName("MAESTROv3", 0.024, True))
    arrays = []
    with StoreWriter(mel_path, mels, 37) as mel_writer, StoreWriter(roll_path, ROLL_ROWS, 37) as roll_writer:
        for index, length in enumerate(frames):
            metadata = MaestroMetadata(f"piece-{index}", 2004, "train", length * 0.024, "Composer", "Title")
            logmel = rng.uniform(-80, 40, (mels, length)).astype(np.float32)
            roll = (rng.integers(1, 128, (ROLL_ROWS, length)) * (rng.random((ROLL_ROWS, length)) < 0.1)).astype("f4")
            mel_writer.append(logmel, metadata)
            roll_writer.append(roll, metadata)
            arrays.append((logmel, roll))
    return open_pair(mel_path, roll_path), arrays


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return make_pair(tmp_path_factory.mktemp("stores"))


def all_chunks(arrays, indices, length, stride):
    """Reference: slice the recording after padding it; the log-mel's padding is set per slice, by a NaN mask."""
    for index in indices:
        logmel, roll = arrays[index]
        pad = ((0, 0), (length, length))
        whole = np.pad(logmel, pad, constant_values=np.nan)
        keys = np.pad(roll[LOWEST_NOTE : LOWEST_NOTE + KEYS], pad)
        start = -(length - stride)
        while start < logmel.shape[1] - length + (length - stride):
            cut = slice(start + length, start + 2 * length)
            part = whole[:, cut]
            yield np.where(np.isnan(part), np.nanmin(part), part), keys[:, cut], index
            start += stride


@pytest.mark.parametrize("name", np.load(GOLDEN).files)
def test_bounds_equal_the_golden_ones(name):
    *numbers, with_outside = name.split("_")
    bounds = chunk_bounds(*map(int, numbers), with_outside=with_outside == "True")
    np.testing.assert_array_equal(np.stack(bounds), np.load(GOLDEN)[name])


def test_bounds_equal_a_hand_worked_table():
    begins, ends, padding = chunk_bounds(100, 110, 4, 2)
    assert begins.tolist() == [98, 100, 102, 104, 106]
    assert ends.tolist() == [102, 104, 106, 108, 110]
    assert padding.tolist() == [-2, 0, 0, 0, 0]
    assert [part.tolist() for part in chunk_bounds(100, 103, 4, 2)] == [[98, 100], [102, 104], [-2, 1]]


@example(length=199, share=1)
@example(length=208, share=0.2)
@given(length=st.integers(1, 250), share=st.floats(0.01, 1))
def test_each_chunk_is_the_slice_of_the_padded_whole(stores, length, share):
    pair, arrays = stores
    stride = max(1, int(length * share))
    indices = [3, 0, 2] if stride > 1 else [2]
    expected = list(all_chunks(arrays, indices, length, stride))
    assume(expected)  # without overlap, the last chunk must end before the recording
    dataset = ChunkDataset(pair, indices, length, stride)
    assert len(dataset) == len(expected)
    batch = dataset.__getitems__(range(len(dataset)))
    for item, (logmel, keys, recording) in enumerate(expected):
        np.testing.assert_array_equal(batch.logmel[item], logmel)
        np.testing.assert_array_equal(batch.key_velocities[item], keys)
        assert batch.recordings[item] == recording


def test_items_equal_the_batch_and_own_their_memory(stores):
    dataset = ChunkDataset(stores[0], range(len(FRAMES)), 20, 7)
    batch = dataset.__getitems__(range(len(dataset)))
    items = [dataset[item] for item in range(len(dataset))]
    for name in ("logmel", "key_velocities", "recordings"):
        assert torch.equal(torch.stack([getattr(item, name) for item in items]), getattr(batch, name))
    items[0].logmel.fill_(0)
    assert torch.equal(items[1].logmel, dataset[1].logmel)


def test_recordings_equal_the_stores(stores):
    pair, arrays = stores
    dataset = RecordingDataset(pair, [4, 1])
    assert len(dataset) == 2
    logmel, roll, metadata = dataset[0]
    np.testing.assert_array_equal(logmel, arrays[4][0])
    np.testing.assert_array_equal(roll, arrays[4][1])
    assert metadata.basename == "piece-4"


def test_datasets_work_after_pickling_and_closing(stores):
    dataset = ChunkDataset(stores[0], [0], 20, 7)
    before = dataset[3].logmel
    dataset.close()
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[3].logmel, before)
    assert torch.equal(dataset[3].logmel, before)


def test_impossible_chunks_are_refused(stores):
    with pytest.raises(InputError, match="length 0 and stride 5"):
        ChunkDataset(stores[0], [0], 0, 5)
    with pytest.raises(InputError, match="1 recordings hold no chunk of 5 frames"):
        ChunkDataset(stores[0], [1], 5, 5)


def test_an_unreadable_recording_is_named(tmp_path):
    pair, _ = make_pair(tmp_path)
    damage(pair, 3)
    with pytest.raises(ReadError, match=r"mel=6\(50-8000\)\.h5: recording piece-3: OSError"):
        ChunkDataset(pair, [0, 3], 20, 20).__getitems__(range(10))
    with pytest.raises(ReadError, match="recording piece-3: OSError"):
        RecordingDataset(pair, [3])[0]


def damage(pair, index):
    """Overwrite the compressed log-mel of one recording with bytes that do not decompress."""
    pair.mel.close()
    middle = int(pair.mel.begins[index] + pair.mel.ends[index]) // 2
    with h5py.File(pair.mel.path, "r+") as file:
        file["data"].id.write_direct_chunk((0, middle // 37 * 37), b"\xff" * 9)
