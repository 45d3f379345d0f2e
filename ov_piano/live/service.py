"""Shared by all streams: the network, the worker threads, and the limit on streams."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ov_piano.constants import SAMPLE_RATE
from ov_piano.errors import InputError
from ov_piano.machine.cores import available_cores
from ov_piano.transcription.streaming import DEFAULT, StreamingTranscriber, StreamSettings
from ov_piano.transcription.transcriber import Transcriber


@dataclass(frozen=True)
class Limits:
    """Limits per client and for all clients together."""

    streams: int = 8  # at the same time
    stream_secs: float = 3 * 3600.0
    idle_secs: float = 30.0  # without a message from the client
    send_secs: float = 30.0  # for a client to receive a message
    behind_secs: float = 2.0  # backlog of audio; beyond it the page drops audio


class Service:
    """The transcriber and a thread pool that runs it outside the event loop.

    PyTorch and the kernels release the GIL while they compute, so streams run in parallel, each computation in
    one thread. A context manager: on exit it waits for the threads.

    :param settings: settings of each stream, except the look-ahead, which the client chooses
    :param workers: number of threads; None: one per core
    """

    def __init__(
        self,
        transcriber: Transcriber,
        settings: StreamSettings = DEFAULT,
        limits: Limits | None = None,
        workers: int | None = None,
    ):
        self.transcriber, self.settings = transcriber, settings
        self.limits = limits or Limits()
        self.streams = 0
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(
            workers or available_cores(),
            thread_name_prefix="transcribe",
            initializer=torch.set_num_threads,
            initargs=(1,),
        )

    def warm_up(self) -> None:
        """Run the first computations, which are slow, before any client connects."""
        StreamingTranscriber(self.transcriber, settings=self.settings).feed(np.zeros(SAMPLE_RATE), SAMPLE_RATE)

    async def compute(self, function: Callable, *args: Any) -> Any:
        """Run ``function(*args)`` in the thread pool; computations start in the order of the calls."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Reserve a place for one stream.

        :raises InputError: the limit is reached
        """
        if self.streams >= self.limits.streams:
            raise InputError(
                f"The server is busy: it transcribes at most {self.limits.streams} streams at the same time. "
                "Close another tab, or restart the server with a larger MAX_STREAMS."
            )
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
