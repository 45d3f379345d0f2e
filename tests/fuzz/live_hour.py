"""Memory of a long stream: ``python -m tests.fuzz.live_hour [MINUTES=60]``.

Streams a piano recording in a loop, faster than real time, in blocks of 20 ms, and prints the memory of the process.
The exit status is 1 if memory grows from the first half to the second.
"""

import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import soundfile as sf
import torch

from ov_piano.cli import run
from ov_piano.config import POSITIVE, option
from ov_piano.resources import ASSETS
from ov_piano.transcription.streaming import DEFAULT, StreamingTranscriber
from ov_piano.transcription.transcriber import Transcriber
from tests.fuzz.endurance import GROWTH, resident_mb

ROWS = 12
BLOCKS_PER_SEC = 50


@dataclass
class ConfDef:
    """Settings, each overridden by KEY=value."""

    MINUTES: float = option(60.0, "length of the stream in minutes", POSITIVE)
    HOP_FRAMES: int = option(DEFAULT.hop_frames, "frames per network run; more: less computing", POSITIVE)
    SNAPSHOT_INPATH: str | None = option(None, "snapshot to use; null: the default snapshot")


def main(conf: ConfDef) -> None:
    torch.set_num_threads(1)
    transcriber = Transcriber(conf.SNAPSHOT_INPATH, device="cpu")
    stream = StreamingTranscriber(transcriber, settings=replace(DEFAULT, hop_frames=conf.HOP_FRAMES))
    wave, rate = sf.read(ASSETS / "live" / "prelude_bwv846.ogg", dtype="float32")
    blocks = np.array_split(wave, len(wave) * BLOCKS_PER_SEC // rate)
    notes, begin, held = 0, time.thread_time(), []
    print(f"{'minute':>7}{'notes':>8}{'MB':>8}{'x real time':>13}")
    for number in range(round(60 * conf.MINUTES * BLOCKS_PER_SEC)):
        notes += len(stream.feed(blocks[number % len(blocks)], rate))
        stream.take_logmel()
        stream.take_ends()
        if number + 1 >= (len(held) + 1) * 60 * conf.MINUTES * BLOCKS_PER_SEC / ROWS:
            held.append(resident_mb())
            speed = stream.seconds_done / (time.thread_time() - begin)
            print(f"{stream.seconds_done / 60:>7.1f}{notes:>8}{held[-1]:>8.1f}{speed:>13.1f}", flush=True)
    early, late = max(held[1 : ROWS // 2]), max(held[ROWS // 2 :])
    if late > GROWTH * early:
        sys.exit(f"memory grows: {early:.1f} MB in the first half, {late:.1f} MB in the second")


if __name__ == "__main__":
    run(main, ConfDef)
