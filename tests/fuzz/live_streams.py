"""Stress test with many simultaneous streams: ``python -m tests.fuzz.live_streams [STREAMS=8] [SECONDS=60]``.

Each client streams its own piece in real time, in blocks of random length; some disconnect mid-stream and return.
The exit status is 1 unless every complete stream has the notes of the streaming class.
"""

import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import soundfile as sf
from websockets.exceptions import ConnectionClosed

from ov_piano.cli import run
from ov_piano.config import FRACTION, POSITIVE, option
from ov_piano.live.service import Limits, Service
from ov_piano.resources import ASSETS
from ov_piano.transcription.streaming import DEFAULT, StreamingTranscriber
from ov_piano.transcription.transcriber import Transcriber
from tests.live_site import START, Site, live_site, stream


@dataclass
class ConfDef:
    """Settings, each overridden by KEY=value."""

    STREAMS: int = option(8, "number of simultaneous streams", POSITIVE)
    SECONDS: int = option(60, "length of each stream in seconds", POSITIVE)
    HOP_FRAMES: int = option(24, "frames per network run; fewer: more CPU time", POSITIVE)
    VANISHING: float = option(0.5, "probability that a client first disconnects mid-stream", FRACTION)


def main(conf: ConfDef) -> None:
    transcriber, settings = Transcriber(device="cpu"), replace(DEFAULT, hop_frames=conf.HOP_FRAMES)
    sample, rate = sf.read(ASSETS / "live" / "prelude_bwv846.ogg", dtype="float32")
    sample = np.resize(sample.mean(1), conf.SECONDS * rate)
    waves = [np.roll(sample, 50_000 * number) for number in range(conf.STREAMS)]

    def play(number: int) -> tuple[int, float]:
        """Number of wrong or missing notes, and elapsed seconds."""
        chance, begin = random.Random(number), time.monotonic()
        if chance.random() < conf.VANISHING:
            vanish(site, waves[number], rate)
        heard = stream(site, paced(waves[number], rate, chance), rate)
        direct = StreamingTranscriber(transcriber, settings=settings, threshold=START["threshold"])
        expected = [tuple(event)[:4] for event in direct.feed(waves[number], rate) + direct.flush()]
        same = len(heard.notes) == len(expected) and np.allclose(heard.notes, expected, atol=1e-3)
        return (0 if same else max(1, abs(len(heard.notes) - len(expected)))), time.monotonic() - begin

    limits = Limits(streams=2 * conf.STREAMS)
    with Service(transcriber, settings, limits) as service, live_site(service) as site:
        with ThreadPoolExecutor(conf.STREAMS) as pool:
            results = list(pool.map(play, range(conf.STREAMS)))
        left = service.streams
    for number, (wrong, secs) in enumerate(results):
        print(
            f"stream {number}: {conf.SECONDS} s in {secs:.1f} s, {'as expected' if not wrong else f'{wrong} notes off'}"
        )
    if left or any(wrong for wrong, _ in results):
        sys.exit(f"{left} streams still open, {sum(wrong for wrong, _ in results)} wrong notes")


def paced(wave: np.ndarray, rate: int, chance: random.Random):
    """Blocks of 1 sample to half a second, at the times a microphone would deliver them."""
    begin, at = time.monotonic(), 0
    while at < len(wave):
        end = min(len(wave), at + round(rate * 0.5 * chance.random() ** 2) + 1)
        time.sleep(max(0, end / rate - (time.monotonic() - begin)))
        yield wave[at:end]
        at = end


def vanish(site: Site, wave: np.ndarray, rate: int) -> None:
    with suppress(ConnectionClosed), site.connect() as client:
        client.send(json.dumps(START | {"sample_rate": rate}))
        client.send(wave[:rate].astype("<f4").tobytes())
        client.socket.close()


if __name__ == "__main__":
    run(main, ConfDef)
