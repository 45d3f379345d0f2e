"""The training loader: seeded order, any starting point, ranks, workers."""

import multiprocessing
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ov_piano.data.chunks import ChunkDataset, ReadError
from ov_piano.data.loader import training_loader
from ov_piano.errors import InputError
from tests.test_chunks import damage, make_pair


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return ChunkDataset(make_pair(tmp_path_factory.mktemp("stores"))[0], range(5), 20, 5)


def equal(batches, others):
    batches, others = list(batches), list(others)
    return len(batches) == len(others) and all(
        torch.equal(a, b)
        for batch, other in zip(batches, others, strict=True)
        for a, b in zip(batch, other, strict=True)
    )


def items_of(dataset, batch):
    """The items of a batch, identified by their contents."""
    logmels = dataset.__getitems__(range(len(dataset))).logmel
    return [int((logmels == row).all(dim=(1, 2)).nonzero()[0]) for row in batch.logmel]


def test_an_epoch_holds_every_item_once_but_the_incomplete_batch(dataset):
    assert len(dataset) == 81
    with training_loader(dataset, 10, workers=0, seed=1) as loader:
        assert loader.batches_per_epoch == 8
        items = [item for batch in loader.batches(0) for item in items_of(dataset, batch)]
        again = [item for batch in loader.batches(1) for item in items_of(dataset, batch)]
    assert len(items) == len(set(items)) == 80
    assert items != sorted(items)
    assert items != again
    order = np.random.default_rng((1, 0)).permutation(81)
    assert items == order[:80].tolist()


def test_order_depends_on_seed_and_epoch_alone(dataset):
    with training_loader(dataset, 8, workers=0, seed=5) as loader:
        expected = list(loader.batches(3))
        assert equal(expected, loader.batches(3))
        assert not equal(expected, loader.batches(2))
    with training_loader(dataset, 8, workers=2, seed=5) as loader:
        next(loader.batches(7))  # left halfway
        assert equal(expected, loader.batches(3))
        assert equal(expected, loader.batches(3))
    with training_loader(dataset, 8, workers=0, seed=6) as loader:
        assert not equal(expected, loader.batches(3))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_start_at_any_batch(dataset, workers, monkeypatch):
    with training_loader(dataset, 8, workers, seed=5) as loader:
        expected = list(loader.batches(3))
        assert equal(expected[6:], loader.batches(3, first_batch=6))
        assert list(loader.batches(3, first_batch=loader.batches_per_epoch)) == []
    if workers == 0:
        read = []
        whole = ChunkDataset.__getitems__
        monkeypatch.setattr(ChunkDataset, "__getitems__", lambda self, items: read.append(items) or whole(self, items))
        with training_loader(dataset, 8, 0, seed=5) as loader:
            list(loader.batches(3, first_batch=8))
        assert len(read) == 2


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_global_batch(dataset, world):
    with training_loader(dataset, 8, 0, seed=5) as loader:
        expected = list(loader.batches(1))
    shares = [list(training_loader(dataset, 8, 0, 5, rank=rank, world=world).batches(1)) for rank in range(world)]
    joined = [[torch.cat(parts) for parts in zip(*ranks, strict=True)] for ranks in zip(*shares, strict=True)]
    assert equal(expected, joined)


@pytest.mark.parametrize("workers", [0, 1])
def test_no_global_random_numbers_are_used(dataset, workers):
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    with training_loader(dataset, 8, workers, seed=5) as loader:
        list(loader.batches(0))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_recording_is_named_in_one_line(tmp_path, workers):
    pair, _ = make_pair(tmp_path)
    damage(pair, 3)
    with (
        training_loader(ChunkDataset(pair, range(5), 20, 5), 8, workers, seed=0) as loader,
        pytest.raises(ReadError, match="recording piece-3: OSError") as caught,
    ):
        list(loader.batches(0))
    assert "\n" not in str(caught.value)


def test_closing_ends_the_workers(dataset):
    with training_loader(dataset, 8, workers=2, seed=0) as loader:
        next(loader.batches(0))
        assert len(multiprocessing.active_children()) == 2
    assert multiprocessing.active_children() == []


def hold_workers(dataset, sender):
    """In a child process: report the loader's worker processes, then wait to be killed."""
    with training_loader(dataset, 8, workers=2, seed=0) as loader:
        next(loader.batches(0))
        sender.send([child.pid for child in multiprocessing.active_children()])
        time.sleep(60)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # ProcessLookupError if it ends meanwhile
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_a_training_that_is_killed(dataset):
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    training = context.Process(target=hold_workers, args=(dataset, sender))
    training.start()
    assert receiver.poll(300)
    workers = receiver.recv()
    assert len(workers) == 2
    assert all(map(is_running, workers))
    training.kill()
    training.join()
    patience = time.monotonic() + 60
    while any(map(is_running, workers)) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not any(map(is_running, workers))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="lists open files the way Linux shows them")
def test_closing_closes_the_files(dataset):
    dataset[0]
    ours = {str(dataset.pair.mel.path), str(dataset.pair.roll.path)}
    assert ours <= open_files()
    dataset.close()
    assert not ours & open_files()


def open_files():
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return {os.readlink(link) for link in links if os.path.lexists(link)}


def test_impossible_batch_sizes_are_refused(dataset):
    with pytest.raises(InputError, match="batch size 9: expected a multiple of the number of processes, 2"):
        training_loader(dataset, 9, 0, 0, rank=1, world=2)
    with pytest.raises(InputError, match="81 chunks do not fill a batch of 82"):
        training_loader(dataset, 82, 0, 0)


def lose_a_worker(dataset, reads_on, sender):
    try:
        with training_loader(dataset, 2, workers=1, seed=0) as loader:
            batches = loader.batches(0)
            next(batches)
            for worker in multiprocessing.active_children():
                worker.kill()
            if reads_on:
                list(batches)
            time.sleep(10)
    except InputError as error:
        sender.send(str(error))


@pytest.mark.parametrize("reads_on", [True, False])
def test_a_killed_worker_is_reported_in_one_line(tmp_path, reads_on):
    """Also if it is killed while the training computes. In a process without pytest: torch raises at any point."""
    dataset = ChunkDataset(make_pair(tmp_path)[0], range(5), 20, 1)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lose_a_worker, args=(dataset, reads_on, sender))
    process.start()
    sender.close()
    message = receiver.recv()
    process.join()
    assert re.search(r"DataLoader worker.*try fewer loader workers$", message)
    assert "\n" not in message
