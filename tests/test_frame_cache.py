"""The frame cache: same values as the stores, never stale, optional."""

import logging
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from filelock import FileLock

from ov_piano.constants import KEY_ROWS, KEYS
from ov_piano.data import frame_cache
from ov_piano.data.chunks import ChunkDataset
from ov_piano.data.frame_cache import HEADER_BYTES, open_frame_cache
from ov_piano.data.loader import training_loader
from ov_piano.errors import InputError
from ov_piano.machine.atomic import partial_path
from tests.test_chunks import damage, make_pair


@pytest.fixture
def stores(tmp_path):
    return make_pair(tmp_path)[0]


@pytest.fixture(params=[10_000, 50], ids=["in one go", "piecewise"])
def build_frames(request, monkeypatch):
    monkeypatch.setattr(frame_cache, "BUILD_FRAMES", request.param)


@pytest.mark.usefixtures("build_frames")
def test_frames_equal_the_stores(stores):
    cache = open_frame_cache(stores)
    total = int(stores.ends[-1])
    assert os.path.getsize(cache.path) == cache.size == HEADER_BYTES + total * (4 * stores.mel.height + KEYS)
    for begin, end in [(0, total), (0, 1), (total - 1, total), (40, 99), (7, 7)]:
        logmel, keys = cache.read(begin, end)
        np.testing.assert_array_equal(logmel, stores.mel.read(begin, end))
        np.testing.assert_array_equal(keys, stores.roll.read(begin, end)[KEY_ROWS])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_and_without_the_cache(stores, workers):
    cached = ChunkDataset(stores, [4, 0, 3, 2], 20, 7, open_frame_cache(stores))
    direct = ChunkDataset(stores, [4, 0, 3, 2], 20, 7)
    with training_loader(direct, 6, 0, seed=2) as plain, training_loader(cached, 6, workers, seed=2) as fast:
        for batch, expected in zip(fast.batches(1), plain.batches(1), strict=True):
            for field, expected_field in zip(batch, expected, strict=True):
                assert field.dtype == expected_field.dtype
                assert field.is_contiguous()
                assert torch.equal(field, expected_field)


def test_an_up_to_date_copy_is_used_again(stores, monkeypatch):
    path = open_frame_cache(stores).path
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(frame_cache, "_make", None)
    assert open_frame_cache(stores).path.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["store changed", "truncated", "foreign"])
def test_an_out_of_date_copy_is_replaced(stores, damage):
    cache = open_frame_cache(stores)
    if damage == "store changed":
        with h5py.File(stores.mel.path, "r+") as file:
            file["data"][:, 10] = 1.5
    elif damage == "truncated":
        os.truncate(cache.path, cache.size - 1)
    else:
        cache.path.write_bytes(bytes(cache.size))
    again = open_frame_cache(stores)
    total = int(stores.ends[-1])
    np.testing.assert_array_equal(again.read(0, total)[0], stores.mel.read(0, total))
    np.testing.assert_array_equal(again.read(0, total)[1], stores.roll.read(0, total)[KEY_ROWS])


def test_partial_copies_of_killed_runs_are_deleted(stores):
    path = stores.mel.path.with_suffix(".frames")
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    own = partial_path(path, ended.pid)
    other, old = (path.with_name(f".stores.frames.b.{pid}.01234567.partial") for pid in (2, 3))
    for partial in (own, other, old):
        partial.write_bytes(b"half")
    os.utime(old, (0, 0))
    cache = open_frame_cache(stores)
    assert sorted(stores.mel.path.parent.glob(".*")) == [other]  # which another machine may be writing
    np.testing.assert_array_equal(cache.read(3, 9)[0], stores.mel.read(3, 9))


def test_a_copy_that_another_machine_replaced_meanwhile_is_not_used(stores, monkeypatch, caplog):
    replace = os.replace

    def replace_by_half(partial, path):
        replace(partial, path)
        os.truncate(path, 100)

    monkeypatch.setattr(os, "replace", replace_by_half)
    assert open_frame_cache(stores) is None
    assert "changed while it was made" in caplog.text


def test_the_copy_is_made_on_file_systems_that_cannot_lock(stores, monkeypatch):
    def not_here(_):
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", not_here)
    assert open_frame_cache(stores).is_made_from(stores)


def test_the_size_of_the_copy_is_logged_before_it_is_written(stores, monkeypatch, caplog):
    def write(cache, pair, file):
        assert f"writing 0.0 GB to {cache.path} (FRAME_CACHE=false disables it)" in caplog.text
        raise OSError("asserted")

    monkeypatch.setattr(frame_cache.FrameCache, "write", write)
    with caplog.at_level(logging.INFO):
        assert open_frame_cache(stores) is None
    assert "directly: asserted" in caplog.text


def test_a_failed_copy_leaves_nothing_behind(stores, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(stores.mel, "read", interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_frame_cache(stores)
    assert sorted(stores.mel.path.parent.iterdir()) == sorted([stores.mel.path, stores.roll.path])


def test_training_continues_without_the_copy_on_a_full_disk(stores, monkeypatch, caplog):
    usage = shutil.disk_usage(stores.mel.path.parent)._replace(free=20_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with caplog.at_level(logging.WARNING):
        assert open_frame_cache(stores) is None
    assert "training reads the HDF5 files directly: 0.0 GB is more than half" in caplog.text
    assert not stores.mel.path.with_suffix(".frames").exists()


def test_training_reads_the_stores_if_the_copy_cannot_be_opened(stores, caplog):
    stores.mel.path.with_suffix(".frames").mkdir()
    assert open_frame_cache(stores) is None
    assert "training reads the HDF5 files directly: " in caplog.text


def test_rolls_with_invalid_velocities_are_refused(stores):
    with h5py.File(stores.roll.path, "r+") as file:
        file["data"][60, 5] = 64.5
    with pytest.raises(InputError, match="onset rows: expected whole numbers from 0 to 127"):
        open_frame_cache(stores)


def test_a_store_that_cannot_be_read_is_left_to_the_dataset(stores, caplog):
    damage(stores, 3)
    assert open_frame_cache(stores) is None
    assert "no frame cache" in caplog.text


@pytest.mark.parametrize("loss", ["deleted", "cut short"])
def test_reading_falls_back_to_the_stores_if_the_copy_is_lost(stores, loss, caplog):
    direct = ChunkDataset(stores, [0, 3], 20, 7)
    dataset = ChunkDataset(stores, [0, 3], 20, 7, open_frame_cache(stores))
    path = dataset.cache.path
    assert torch.equal(dataset[0].logmel, direct[0].logmel)
    if loss == "deleted":
        path.unlink()
        dataset.close()  # as in a worker that starts
    else:
        os.truncate(path, HEADER_BYTES)
    for item in (5, 6, len(direct) - 1):
        for field, expected in zip(dataset[item], direct[item], strict=True):
            assert torch.equal(field, expected)
    assert caplog.text.count("reading the HDF5 files from now on") == 1


def test_one_of_several_processes_makes_the_copy(stores, tmp_path):
    processes = [multiprocessing.Process(target=_open_and_note, args=(stores, tmp_path / f"{i}.txt")) for i in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sorted((tmp_path / f"{i}.txt").read_text() for i in range(3)) == ["made", "used", "used"]


def _open_and_note(stores, note):
    made, make = [], frame_cache._make
    frame_cache._make = lambda *args: (made.append(1), make(*args))
    assert open_frame_cache(stores)
    note.write_text("made" if made else "used")


def test_cache_works_after_pickling_and_closing(stores):
    cache = open_frame_cache(stores)
    expected = cache.read(5, 50)[0]
    copy = pickle.loads(pickle.dumps(cache))
    cache.close()
    np.testing.assert_array_equal(copy.read(5, 50)[0], expected)
    np.testing.assert_array_equal(cache.read(5, 50)[0], expected)
