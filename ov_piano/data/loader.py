"""The training loader: seeded batches of chunks from worker processes, starting at any batch of any epoch."""

import signal
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, get_worker_info

from ov_piano.data.chunks import ChunkDataset, Chunks, ReadError
from ov_piano.errors import InputError
from ov_piano.machine.workers import follow_parent


class EpochBatches(Sampler[list[int]]):
    """This process's share of an epoch's batches, as lists of items.

    The order of the items is a pure function of (seed, epoch). Global batch k consists of the items
    k * batch_size to (k + 1) * batch_size of it; rank r of w processes gets the r-th of w equal
    contiguous shares, so the concatenated batches of all ranks equal the batch of a single process.
    The last incomplete batch is dropped, so that all steps have equal weight; the dropped items
    change with the epoch.
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

    A context manager that closes the workers. If a worker is killed, torch raises an error at any point of the
    block; the context manager turns it into an `InputError`.
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
            # Seeds the workers without touching the global generator.
            generator=torch.Generator().manual_seed(sampler.seed),
        )

    def batches(self, epoch: int, first_batch: int = 0) -> Iterator[Chunks]:
        """The epoch's batches from ``first_batch`` on; skips earlier ones without reading them.

        Only one iteration at a time: a new call ends the previous one.

        :raises ReadError: data of a recording cannot be read.
        """
        self._sampler.epoch, self._sampler.first_batch = epoch, first_batch
        for batch in self._loader:
            if isinstance(batch, ReadError):
                raise batch
            yield batch

    def close(self) -> None:
        """Stop the workers and close the files; the loader cannot be used afterwards."""
        del self._loader
        self.dataset.close()

    def __enter__(self) -> "TrainingLoader":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.close()
        is_reported = isinstance(error, RuntimeError) and "DataLoader worker" in str(error)
        if is_reported or isinstance(error, EOFError | ConnectionError):  # the worker ended while sending a batch
            reason = str(error).splitlines()[0] if is_reported else "a DataLoader worker was killed"
            raise InputError(f"{reason}: memory or /dev/shm may be full, try fewer loader workers") from None


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
    """Shuffled batches of ``batch_size`` chunks over all ``world`` processes, ``batch_size / world`` of them here.

    :param workers: number of reading processes; 0: read in this process.
    :param pin_memory: return batches in page-locked memory, for a GPU.
    :raises InputError: fewer chunks than a batch, or ``batch_size`` not divisible by ``world``.
    """
    if batch_size < 1 or batch_size % world:
        raise InputError(f"batch size {batch_size}: expected a multiple of the number of processes, {world}")
    if len(dataset) < batch_size:
        raise InputError(f"{dataset.pair.mel.path}: {len(dataset)} chunks do not fill a batch of {batch_size}")
    return TrainingLoader(dataset, EpochBatches(len(dataset), batch_size, seed, rank, world), workers, pin_memory)


class _Guarded(torch.utils.data.Dataset):
    """Returns a `ReadError` as a value, since torch would wrap an error raised in a worker in a traceback."""

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
    """Ignore Ctrl-C, exit with the parent, and reopen files (a forked worker inherits the parent's handles)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    follow_parent()
    get_worker_info().dataset.dataset.close()
