"""What all streams share: the network, the threads that compute, and a limited number of places."""

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ov_piano.constants import SAMPLE_RATE
from ov_piano.errors import InputError
from ov_piano.transcription.streaming import DEFAULT, StreamingTranscriber, StreamSettings
from ov_piano.transcription.transcriber import Transcriber


@dataclass(frozen=True)
class Limits:
    """What one client, and all of them together, may take."""

    streams: int = 8  # at the same time
    stream_secs: float = 3 * 3600.0
    idle_secs: float = 30.0  # without a message
    send_secs: float = 30.0  # for a client to take what is sent to it
    behind_secs: float = 2.0  # of sound not transcribed yet; the page leaves out the rest


class Service:
    """The transcriber and a pool of threads that it runs in, away from the event loop.

    PyTorch and the kernels release the interpreter's lock while they compute, so that several streams advance
    at the same time; each computation takes one thread. A context manager: its end waits for the threads.

    :param settings: of a stream, but for the look-ahead, which each client chooses
    :param workers: threads; None: one a core
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
            workers or os.cpu_count(), thread_name_prefix="transcribe", initializer=torch.set_num_threads, initargs=(1,)
        )

    def warm_up(self) -> None:
        """The first computations take much longer than later ones: not with somebody waiting for them."""
        StreamingTranscriber(self.transcriber, settings=self.settings).feed(np.zeros(SAMPLE_RATE), SAMPLE_RATE)

    async def compute(self, function: Callable, *args: Any) -> Any:
        """``function(*args)`` in one of the threads; computations start in the order in which they were asked for."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one stream.

        :raises InputError: all are taken
        """
        if self.streams >= self.limits.streams:
            raise InputError(
                f"This server transcribes {self.limits.streams} streams at the same time, and all are in use. "
                "Close another tab, or start the server with a larger MAX_STREAMS."
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
