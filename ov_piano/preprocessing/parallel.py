"""Parallel map over processes with a progress bar."""

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
from ov_piano.machine.memory import keep_freed_memory
from ov_piano.machine.workers import follow_parent

Item, Result = TypeVar("Item"), TypeVar("Result")


def in_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, what: str, may_fork: bool = True
) -> list[Result]:
    """``[function(item) for item in items]`` in ``workers`` single-threaded processes (1: in this process).

    The first exception stops it; running items finish, pending items are cancelled.

    :param what: label of the progress bar.
    :param may_fork: false if the function uses CUDA, which does not survive a fork.
    :raises InputError: a worker process was killed.
    """
    with tqdm(total=len(items), desc=what, unit="recording", disable=None) as bar:
        if workers == 1:
            return _in_this_process(function, items, bar)
        # Forked workers need not import torch again; torch's threads do not survive a fork, so each uses one.
        context = multiprocessing.get_context("fork" if may_fork and sys.platform == "linux" else "spawn")
        with ProcessPoolExecutor(workers, context, initializer=_init_worker) as pool:
            try:
                futures = [pool.submit(function, item) for item in items]
                for future in as_completed(futures):
                    future.result()
                    bar.update()
                return [future.result() for future in futures]
            except BrokenProcessPool:
                raise InputError("a worker process was killed (out of memory?): try fewer WORKERS") from None
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _in_this_process(function: Callable[[Item], Result], items: Sequence[Item], bar: tqdm) -> list[Result]:
    threads, results = torch.get_num_threads(), []
    torch.set_num_threads(1)  # as in workers: rounding may depend on the number of threads
    try:
        for item in items:
            results.append(function(item))
            bar.update()
        return results
    finally:
        torch.set_num_threads(threads)


def _init_worker() -> None:
    """One thread per worker; the parent handles Ctrl-C, and workers exit with it."""
    torch.set_num_threads(1)
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    follow_parent()
