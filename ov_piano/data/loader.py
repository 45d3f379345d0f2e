"""The training loader: seeded batches of chunks, from worker processes, from any point of any epoch."""

import signal
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, get_worker_info

from ov_piano.data.chunks import ChunkDataset, Chunks, ReadError
from ov_piano.errors import InputError
from ov_piano.workers import follow_parent


class EpochBatches(Sampler[list[int]]):
    """This process's share of an epoch's batches, as lists of items.

    The order of all items is a pure function of (seed, epoch). Global batch k holds the items
    k * batch_size to (k + 1) * batch_size of it; rank r of w processes gets the r-th of w equal
    contiguous shares, so the ranks' batches one after the other are the batch of a single process.
    The incomplete batch at the end is left out: every step weighs the same, and which items
    it loses changes with the epoch.
    """

    def __init__(self, items: int, batch_size: int, seed: int, rank: int, world: int) -> None:
        self.items, self.batch_size, self.seed = items, batch_size, seed
        self.share = slice(rank * batch_size // world, (rank + 1) * batch_size // world)
        self.epoch = self.first_batch = 0

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.items)
        for batch in range(self.first_batch, self.items // self.batch_size):
            yield order[batch * self.batch_size :][self.share].tolist()

    def __len__(self) -> int:
        return max(0, self.items // self.batch_size - self.first_batch)


class TrainingLoader:
    """Batches of a `ChunkDataset`; see `training_loader`.

    A context manager that closes the workers. If one of them was ended from outside, torch says so wherever
    this process happens to be, between batches, too: that leaves the block as `InputError`.
    """

    def __init__(self, dataset: ChunkDataset, sampler: EpochBatches, workers: int, pin_memory: bool) -> None:
        self.dataset, self._sampler = dataset, sampler
        self.batches_per_epoch = sampler.items // sampler.batch_size
        self._loader = DataLoader(
            _Guarded(dataset),
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=_as_is,
            pin_memory=pin_memory,
            worker_init_fn=_start_worker,
            persistent_workers=workers > 0,
            # Workers get their base seed from this one: the global generator is left alone.
            generator=torch.Generator().manual_seed(sampler.seed),
        )

    def batches(self, epoch: int, first_batch: int = 0) -> Iterator[Chunks]:
        """The epoch's batches from ``first_batch`` on; the ones before are not read.

        One iteration at a time: a new call ends the one before.

        :raises ReadError: data that cannot be read, with the recording's name.
        """
        self._sampler.epoch, self._sampler.first_batch = epoch, first_batch
        for batch in self._loader:
            if isinstance(batch, ReadError):
                raise batch
            yield batch

    def close(self) -> None:
        """End the workers and close the files; the loader cannot be used any more."""
        del self._loader
        self.dataset.close()

    def __enter__(self) -> "TrainingLoader":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.close()
        if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
            reason = str(error).splitlines()[0]
            raise InputError(f"{reason}: memory or /dev/shm may be short, fewer loader workers need less") from None


def training_loader(
    dataset: ChunkDataset,
    batch_size: int,
    workers: int,
    seed: int,
    *,
    rank: int = 0,
    world: int = 1,
    pin_memory: bool = False,
) -> TrainingLoader:
    """Shuffled batches of ``batch_size`` chunks over all ``world`` processes, ``batch_size / world`` here.

    :param workers: reading processes, 0 to read in this one.
    :param pin_memory: have the batches in page-locked memory, for a GPU.
    :raises InputError: fewer chunks than one batch needs, or a batch that the processes cannot share equally.
    """
    if batch_size < 1 or batch_size % world:
        raise InputError(f"batch size {batch_size}: expected a multiple of the number of processes, {world}")
    if len(dataset) < batch_size:
        raise InputError(f"{dataset.pair.mel.path}: {len(dataset)} chunks do not fill a batch of {batch_size}")
    return TrainingLoader(dataset, EpochBatches(len(dataset), batch_size, seed, rank, world), workers, pin_memory)


class _Guarded(torch.utils.data.Dataset):
    """Hands a `ReadError` over as a value: raised in a worker, it would arrive wrapped in a traceback's text."""

    def __init__(self, dataset: ChunkDataset) -> None:
        self.dataset = dataset

    def __getitems__(self, items: Sequence[int]) -> Chunks | ReadError:
        try:
            return self.dataset.__getitems__(items)
        except ReadError as error:
            return error


def _as_is(batch: Chunks | ReadError) -> Chunks | ReadError:
    return batch


def _start_worker(worker: int) -> None:
    """Let the parent alone answer Ctrl-C, end with it, and open files anew (a forked worker inherits the parent's)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    follow_parent()
    get_worker_info().dataset.dataset.close()
