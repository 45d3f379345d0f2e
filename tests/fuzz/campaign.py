"""Thousands of corrupted inputs: each must be accepted or rejected with `InputError`, in bounded time and memory.

The loaders run in a forked process, so that a crash or hang in a C library is a finding and does
not end the campaign. Each input is a function of seed, loader and number.
"""

import logging
import mmap
import os
import random
import resource
import signal
import struct
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ov_piano.errors import InputError
from tests.fuzz.loaders import Loader
from tests.fuzz.mutation import mutated

HANG_SECS = 20  # for one input
MEMORY = 2**30  # bytes that all inputs together may ask for beyond what the process has when it begins
SAVED_A_KIND = 3  # findings of one kind that are written to the disk
LOOK_EVERY_SECS = 0.02


class Count(NamedTuple):
    """Number of inputs of a loader: total, accepted, rejected, and findings."""

    tried: int = 0
    used: int = 0
    refused: int = 0
    found: int = 0


class Campaign(NamedTuple):
    """Inputs of one loader; findings go to ``output`` as NAME_SEED_NUMBER and NAME_SEED_NUMBER.txt."""

    name: str
    loader: Loader
    seed: int
    inputs: int
    output: Path
    deadline: float = float("inf")  # as time.monotonic() shows it

    def input(self, number: int) -> bytes:
        rng = random.Random(f"{self.seed} {self.name} {number}")
        return mutated(rng, self.loader.seeds, self.loader.tokens)

    def save(self, number: int, text: str) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        path = self.output / f"{self.name.replace(' ', '_')}_{self.seed}_{number}"
        path.write_bytes(self.input(number))
        path.with_name(f"{path.name}.txt").write_text(text, encoding="utf-8", errors="backslashreplace")


def fuzz(campaign: Campaign) -> Count:
    """Run the loader on all inputs, in a child process that is restarted when it dies."""
    shared = mmap.mmap(-1, 32)  # the counts, for both processes
    while (count := _counts(shared)).tried < campaign.inputs and time.monotonic() < campaign.deadline:
        child = os.fork()
        if child == 0:
            _work(campaign, count.tried, shared)
        if death := _watch(child, shared):
            count = _counts(shared)
            campaign.save(count.tried, death)
            _set_counts(shared, count._replace(tried=count.tried + 1, found=count.found + 1))
    return _counts(shared)


def _work(campaign: Campaign, first: int, shared: mmap.mmap) -> None:
    """In the child process: run the inputs from ``first`` on, then exit."""
    status = 1
    try:
        logging.disable()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries in C print would bury the figures
        _limit_memory()
        seen: Counter[str] = Counter()
        for number in range(first, campaign.inputs):
            if time.monotonic() > campaign.deadline:
                break
            count, finding = _counts(shared), None
            try:
                campaign.loader.load(campaign.input(number))
                count = count._replace(used=count.used + 1)
            except InputError as error:
                count = count._replace(refused=count.refused + 1)
                if "\n" in str(error) or "MemoryError" in str(error):
                    finding = f"odd message: {error!r}"
            except BaseException as error:
                finding = "".join(traceback.format_exception(error))
            if finding:
                count = count._replace(found=count.found + 1)
                kind = _kind(finding)
                seen[kind] += 1
                if seen[kind] <= SAVED_A_KIND:
                    campaign.save(number, finding)
            _set_counts(shared, count._replace(tried=number + 1))
        status = 0
    finally:
        os._exit(status)


def _kind(finding: str) -> str:
    """Findings are equivalent if they end in the same line of code."""
    places = [line for line in finding.splitlines() if line.startswith("  File ")]
    return places[-1] if places else finding[:40]


def _limit_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        limit = int(file.read().split()[0]) * mmap.PAGESIZE + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _watch(child: int, shared: mmap.mmap) -> str | None:
    """Wait for the child to end; return what went wrong, if anything."""
    tried, since = -1, time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return f"the process ended with status {code}" if code else None
        now = _counts(shared).tried
        if now != tried:
            tried, since = now, time.monotonic()
        elif time.monotonic() - since > HANG_SECS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"no end after {HANG_SECS} s"
        time.sleep(LOOK_EVERY_SECS)


def _counts(shared: mmap.mmap) -> Count:
    return Count(*struct.unpack("4Q", shared[:]))


def _set_counts(shared: mmap.mmap, count: Count) -> None:
    shared[:] = struct.pack("4Q", *count)
