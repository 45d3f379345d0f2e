"""Paired timing of two implementations of the same work, in one process.

Timings vary by a large factor from minute to minute, so the two alternate (A B A B …) and only
the ratio of their medians is meaningful.
"""

import os
import statistics
import time
from collections.abc import Callable

import torch


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def paired(ours: Callable[[], object], plain: Callable[[], object], rounds: int = 5) -> dict:
    """Time `ours` and `plain` alternately after one untimed call of each.

    Returns a benchmark entry: medians in seconds, `ratio` = plain / ours (above 1: ours is faster), the thread
    counts, and the extremes, which tell how noisy the machine was.
    """
    ours()
    plain()
    times = [(seconds(ours), seconds(plain)) for _ in range(rounds)]
    ours_secs, plain_secs = (list(column) for column in zip(*times, strict=True))
    ours_median, plain_median = statistics.median(ours_secs), statistics.median(plain_secs)
    return {
        "ours": ours_median,
        "plain": plain_median,
        "ratio": plain_median / ours_median,
        "unit": "s",
        "rounds": rounds,
        "ours_range": [min(ours_secs), max(ours_secs)],
        "plain_range": [min(plain_secs), max(plain_secs)],
        "torch_threads": torch.get_num_threads(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }
