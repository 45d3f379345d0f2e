"""The same function on many items, in several processes, with a progress bar."""

import multiprocessing
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch
from tqdm import tqdm

from ov_piano.errors import InputError
from ov_piano.memory import keep_freed_memory
from ov_piano.workers import follow_parent

Item, Result = TypeVar("Item"), TypeVar("Result")


def in_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, what: str, may_fork: bool = True
) -> list[Result]:
    """``[function(item) for item in items]`` by ``workers`` processes (1: by this one), each with one thread.

    The first exception stops it; items at work are finished, the others are not begun.

    :param what: says on the progress bar what is being done.
    :param may_fork: false where a device is used that does not survive a fork of this process (CUDA).
    :raises InputError: a process was ended from outside.
    """
    with tqdm(total=len(items), desc=what, unit="recording", disable=None) as bar:
        if workers == 1:
            return _in_this_process(function, items, bar)
        # Forked workers need not import torch again. Its threads do not survive that: they have one thread each.
        context = multiprocessing.get_context("fork" if may_fork and sys.platform == "linux" else "spawn")
        with ProcessPoolExecutor(workers, context, initializer=_init_worker) as pool:
            try:
                futures = [pool.submit(function, item) for item in items]
                for future in as_completed(futures):
                    future.result()
                    bar.update()
                return [future.result() for future in futures]
            except BrokenProcessPool:
                raise InputError("a worker process was ended by the system (out of memory?): try fewer") from None
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _in_this_process(function: Callable[[Item], Result], items: Sequence[Item], bar: tqdm) -> list[Result]:
    threads, results = torch.get_num_threads(), []
    torch.set_num_threads(1)  # as in workers: the last bits of results may depend on it
    try:
        for item in items:
            results.append(function(item))
            bar.update()
        return results
    finally:
        torch.set_num_threads(threads)


def _init_worker() -> None:
    """One thread a worker; Ctrl-C is the parent's business, and a worker does not outlive it."""
    torch.set_num_threads(1)
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    follow_parent()
