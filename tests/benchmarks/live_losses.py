"""What live transcription loses, and why: `python -m tests.benchmarks.live_losses DATA=maestro-v3.0.0`

Streams excerpts as `live_table` does, with default settings, and takes away one cause after another:

- the wait: uncertain notes are decided at once, or all notes after the longest wait
- the floor: 80 dB below the maximum of the whole excerpt, which a stream does not know yet
- the gates: their means over the whole excerpt, not over the stream so far

Prints the table of README.md.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from ov_piano.cli import run
from ov_piano.config import POSITIVE, option
from ov_piano.constants import SAMPLE_RATE
from ov_piano.model import incremental
from ov_piano.transcription.stream import spool_logmel
from ov_piano.transcription.streaming import DEFAULT, StreamingTranscriber, StreamSettings
from ov_piano.transcription.transcriber import Transcriber
from tests.benchmarks.live_table import Excerpt, ExcerptsConf, f1s, load_excerpts, offline


@dataclass
class ConfDef(ExcerptsConf):
    """Settings, each overridden by KEY=value."""

    PAST: int = option(DEFAULT.past_frames, "frames that the stream recomputes before those to decide", POSITIVE)


def streams(default: StreamSettings) -> dict[str, tuple[StreamSettings, bool, bool]]:
    """What a stream does or knows -> its settings, and whether it knows floor and gates."""
    longest = default.look_ahead_frames + default.waiting_frames
    return {
        "decides all notes after the look-ahead": (replace(default, waiting_frames=0), False, False),
        "lets uncertain notes wait (the default)": (default, False, False),
        "decides all notes after the longest wait": (
            replace(default, look_ahead_frames=longest, waiting_frames=0),
            False,
            False,
        ),
        "the default, with the floor of the whole excerpt": (default, True, False),
        "the default, with the gates of the whole excerpt": (default, False, True),
        "the default, with both": (default, True, True),
    }


@contextmanager
def gates_of(transcriber: Transcriber, logmel: torch.Tensor) -> Iterator[None]:
    """Streams that begin in this block use the means over a whole log-mel (mels, t)."""
    running, means = incremental.RunningMean, []

    class Whole:
        def __init__(self, _prior: torch.Tensor):
            self.place = len(means)
            means.append(None)

        def __call__(self, x: torch.Tensor, _settled: int) -> torch.Tensor:
            means[self.place] = x.mean(dim=(2, 3))
            return means[self.place]

    class Known:
        def __init__(self, _prior: torch.Tensor):
            self.mean = next(known)

        def __call__(self, _x: torch.Tensor, _settled: int) -> torch.Tensor:
            return self.mean

    try:
        incremental.RunningMean = Whole
        incremental.IncrementalNet(transcriber.parts)(logmel[None], 0)
        known, incremental.RunningMean = iter(means), Known  # streams construct their steps in the same order
        yield
    finally:
        incremental.RunningMean = running


def stream(
    transcriber: Transcriber, excerpt: Excerpt, settings: StreamSettings, floor: bool, gates: bool
) -> np.ndarray:
    """Events (m, 3) as for `score`."""
    spooled = spool_logmel(excerpt.wave, SAMPLE_RATE, settings=transcriber.logmel)
    logmel = spooled.read(0, spooled.frames)  # (mels, t)
    with gates_of(transcriber, logmel) if gates else nullcontext():
        streaming = StreamingTranscriber(transcriber, settings=settings)
    if floor:
        streaming._maximum_db = float(logmel.max())
    events = streaming.feed(excerpt.wave, SAMPLE_RATE) + streaming.flush()
    return np.array([(event.onset_secs, event.note, event.velocity) for event in events]).reshape(-1, 3)


def main(conf: ConfDef) -> None:
    torch.set_num_threads(1)
    transcriber, excerpts = Transcriber(conf.SNAPSHOT_INPATH, device="cpu"), load_excerpts(conf)
    whole = offline(transcriber, excerpts)
    print("| a stream that | onsets | onsets+velocities |\n|---|---|---|", flush=True)
    for what, how in streams(replace(DEFAULT, past_frames=conf.PAST)).items():
        found = [stream(transcriber, e, *how) for e in tqdm(excerpts, desc=what, disable=None, leave=False)]
        print("| {} | {:.2f} | {:.2f} |".format(what, *(whole - f1s(excerpts, found))), flush=True)


if __name__ == "__main__":
    run(main, ConfDef)
