"""Random 5 s training chunks from a 2 GB log-mel store, items per second in one process."""

import itertools
import shutil
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import torch
from tqdm import tqdm

from ov_piano.constants import FRAME_SECS, KEY_ROWS, MELS, ROLL_ROWS, TOP_DB
from ov_piano.data.chunks import ChunkDataset
from ov_piano.data.frame_cache import open_frame_cache
from ov_piano.data.hdf5 import MelName, RollName, StorePair, StoreWriter, open_pair
from ov_piano.data.loader import training_loader
from ov_piano.data.maestro import MaestroMetadata
from tests.benchmarks.paired import paired

LENGTH, STRIDE, BLOCK = 208, 42, 333  # frames
RECORDINGS, RECORDING_FRAMES = 80, 25_000  # 10 min each: 2.0 GB of float32
BATCH, BATCHES_A_ROUND = 30, 5


def benchmarks() -> dict[str, dict]:
    needed = 6e9  # bytes: two stores and the cache
    if shutil.disk_usage(tempfile.gettempdir()).free < 2 * needed:
        print(f"chunks: skipped, needs {2 * needed / 1e9:.0f} GB free in {tempfile.gettempdir()}")
        return {}
    with tempfile.TemporaryDirectory() as folder:
        pair = _write_stores(Path(folder))
        begin = time.perf_counter()
        cache = open_frame_cache(pair)
        build_secs = time.perf_counter() - begin
        datasets = {
            "chunks": ChunkDataset(pair, range(RECORDINGS), LENGTH, STRIDE, cache),
            "chunks_without_cache": ChunkDataset(pair, range(RECORDINGS), LENGTH, STRIDE),
        }
        entries = {}
        for name, dataset in datasets.items():
            entries[name] = _items_a_second(dataset, pair)
            entries[name]["one_worker_items_per_s"] = _one_worker(dataset)
        entries["chunks"]["cache_build_s"] = build_secs
        entries["chunks"]["log_mel_gb"] = RECORDINGS * RECORDING_FRAMES * MELS * 4 / 1e9
    return entries


def _items_a_second(dataset: ChunkDataset, pair: StorePair) -> dict:
    """`ChunkDataset` against plain h5py slices of the same chunks, mel and roll, stacked into batches."""
    order = np.random.default_rng(0).permutation(len(dataset))
    ours_batches = itertools.cycle(order[: len(order) // BATCH * BATCH].reshape(-1, BATCH))
    begins = dataset.begins
    inside = order[(begins[order] >= 0) & (begins[order] + LENGTH <= pair.ends[-1])]
    plain_batches = itertools.cycle(begins[inside][: len(inside) // BATCH * BATCH].reshape(-1, BATCH))
    with h5py.File(pair.mel.path) as mel_file, h5py.File(pair.roll.path) as roll_file:
        mel, roll = mel_file["data"], roll_file["data"]

        def ours() -> None:
            for _ in range(BATCHES_A_ROUND):
                dataset.__getitems__(next(ours_batches))

        def plain() -> None:
            for _ in range(BATCHES_A_ROUND):
                slices = [slice(begin, begin + LENGTH) for begin in next(plain_batches)]
                torch.stack([torch.from_numpy(mel[:, frames]) for frames in slices])
                torch.stack([torch.from_numpy(roll[:, frames][KEY_ROWS]) for frames in slices])

        entry = paired(ours, plain)
    items = BATCH * BATCHES_A_ROUND
    rates = {name: items / entry[name] for name in ("ours", "plain")}
    ranges = {name: sorted(items / secs for secs in entry[name]) for name in ("ours_range", "plain_range")}
    return entry | rates | ranges | {"unit": "items/s"}


def _one_worker(dataset: ChunkDataset) -> float:
    """Items per second from the complete loader with one worker process."""
    with training_loader(dataset, BATCH, workers=1, seed=0) as loader:
        batches = loader.batches(0)
        for _ in range(5):  # start, and empty the queue
            next(batches)
        begin = time.perf_counter()
        for _ in range(2 * BATCHES_A_ROUND):
            next(batches)
        return 2 * BATCHES_A_ROUND * BATCH / (time.perf_counter() - begin)


def _write_stores(folder: Path) -> StorePair:
    """Create both stores, with data that compress like real recordings: log-mels to 0.77, rolls to 0.02."""
    rng = np.random.default_rng(0)
    arrays = [(_logmel(rng, RECORDING_FRAMES), _roll(rng, RECORDING_FRAMES)) for _ in range(4)]
    mel_path = folder / str(MelName("MAESTROv3"))
    roll_path = folder / str(RollName("MAESTROv3", FRAME_SECS, True))
    with StoreWriter(mel_path, MELS, BLOCK) as mels, StoreWriter(roll_path, ROLL_ROWS, BLOCK) as rolls:
        for index in tqdm(range(RECORDINGS), desc="stores for the benchmark", disable=None):
            metadata = MaestroMetadata(f"piece-{index}", 2004, "train", RECORDING_FRAMES * FRAME_SECS, "", "")
            logmel, roll = arrays[index % len(arrays)]
            mels.append(logmel, metadata)
            rolls.append(roll, metadata)
    return open_pair(mel_path, roll_path)


def _logmel(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Noise in dB, smooth over time, 30 % of it at the floor."""
    noise = rng.standard_normal((MELS, frames), dtype=np.float32)
    smooth = noise + np.roll(noise, 1, axis=1) + np.roll(noise, 2, axis=1)
    return np.maximum(12 * smooth + 30 - TOP_DB, 20 - TOP_DB).astype(np.float32)


def _roll(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Twelve notes per second of 0.1 to 1.5 s, and a moving sustain pedal."""
    roll = np.zeros((ROLL_ROWS, frames), np.float32)
    for onset in rng.integers(0, frames, round(12 * frames * FRAME_SECS)):
        note, velocity = rng.integers(21, 109), rng.integers(20, 110)
        roll[note, onset] = velocity
        roll[128 + note, onset : onset + rng.integers(4, 63)] = velocity
    roll[256] = np.repeat(rng.integers(0, 128, frames // 9 + 1), 9)[:frames]
    return roll
