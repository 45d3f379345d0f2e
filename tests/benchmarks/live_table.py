"""Accuracy and speed of live transcription: `python -m tests.benchmarks.live_table DATA=maestro-v3.0.0[,another tree]`

Streams the first SECONDS of recordings through `StreamingTranscriber` with each of SETTINGS, and compares the scores
with those of `Transcriber` on the same audio. Prints the table of README.md, one row per setting, and writes OUT (CSV)
after each row:

- onset_f1, onset_velocity_f1: means over recordings in %; onset_loss, onset_velocity_loss: points below offline
- latency_median, latency_95, latency_max: seconds from a reference onset to its event, including the wait for samples
  and the computing time
- one_core: seconds of audio per second of computing, with one thread
"""

import csv
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from ov_piano.cli import run
from ov_piano.config import POSITIVE, REQUIRED, option
from ov_piano.constants import SAMPLE_RATE
from ov_piano.data.audio import load_mono
from ov_piano.data.maestro import load_recordings
from ov_piano.errors import InputError
from ov_piano.evaluation.ground_truth import load_ground_truth
from ov_piano.evaluation.scoring import match_onsets, score
from ov_piano.machine.atomic import atomic_write
from ov_piano.settings import Tolerances
from ov_piano.transcription.streaming import DEFAULT, FAST, StreamingTranscriber, StreamSettings
from ov_piano.transcription.transcriber import Transcriber

BLOCK = 128  # samples handed over at once, 8 ms
COLUMNS = (
    *(
        "past",
        "hop",
        "look_ahead",
        "waiting",
        "margin",
        "onset_f1",
        "onset_loss",
        "onset_velocity_f1",
        "onset_velocity_loss",
    ),
    *("latency_median", "latency_95", "latency_max", "one_core"),
)
HEADINGS = (
    *("past", "hop", "look-ahead", "waiting", "margin", "onset F1", "loss", "onset+velocity F1", "loss"),
    *("latency, median", "95 %", "maximum", "one core"),
)
ROW = "| {} | {} | {} | {} | {:g}{} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.3f} | {:.3f} | {:.3f} | {:.1f} |"
NAMES = {DEFAULT: " (default)", FAST: " (`FAST`)"}


@dataclass
class ExcerptsConf:
    """Settings for what to transcribe."""

    DATA: str = option(REQUIRED, "folders in MAESTRO's layout, separated by commas")
    SPLIT: str = option("validation", "split to take recordings from")
    VERSION: int = option(3, "MAESTRO version in the name of the CSV file")
    RECORDINGS: int = option(20, "number of recordings per folder, evenly spaced in its list", POSITIVE)
    SECONDS: float = option(30.0, "duration to use from the start of each recording", POSITIVE)
    SNAPSHOT_INPATH: str | None = option(None, "snapshot to use; null: the default snapshot")


@dataclass
class ConfDef(ExcerptsConf):
    """Settings, each overridden by KEY=value."""

    SETTINGS: list[str] = option(
        [
            *("16/3/2/6/0.05", "16/3/2/0/0", "16/3/1/6/0.05", "16/3/3/6/0.05", "8/3/2/6/0.05", "20/3/2/6/0.05"),
            *("14/2/3/6/0.075", "16/1/1/2/0.03", "16/1/1/3/0.03", "16/1/1/6/0.075", "16/1/0/3/0.1", "16/1/2/6/0.05"),
        ],
        "past/hop/look-ahead/waiting in frames, and margin: see `StreamSettings`",
    )
    OUT: str = option("out/live_table.csv", "CSV file to write")


class Excerpt(NamedTuple):
    """The start of a recording."""

    wave: np.ndarray  # (samples,) at SAMPLE_RATE
    reference: np.ndarray  # (n, 4) as for `score`


class Heard(NamedTuple):
    """The result of streaming an excerpt."""

    estimate: np.ndarray  # (m, 3) as for `score`
    emitted_secs: np.ndarray  # (m,) when each event was handed out, in seconds of the stream
    computing_secs: float


def load_excerpt(audio: Path, midi: Path, seconds: float) -> Excerpt:
    wave = load_mono(audio)[: round(seconds * SAMPLE_RATE)].numpy()
    reference = load_ground_truth(midi)
    return Excerpt(wave, reference[reference[:, 0] < len(wave) / SAMPLE_RATE])


def load_excerpts(conf: ExcerptsConf) -> list[Excerpt]:
    excerpts = []
    for folder in conf.DATA.split(","):
        recordings = load_recordings(folder, conf.VERSION, splits=[conf.SPLIT])
        chosen = recordings[:: max(1, len(recordings) // conf.RECORDINGS)][: conf.RECORDINGS]
        excerpts += [load_excerpt(recording.audio_path, recording.midi_path, conf.SECONDS) for recording in chosen]
    return excerpts


def stream(transcriber: Transcriber, settings: StreamSettings, wave: np.ndarray) -> Heard:
    """Feed ``wave`` (samples,) block by block, then flush."""
    streaming, events, emitted, computing = StreamingTranscriber(transcriber, settings=settings), [], [], 0.0
    for begin in range(0, len(wave) + 1, BLOCK):
        block = wave[begin : begin + BLOCK]
        before = time.thread_time()  # of this thread alone: other programs do not count
        found = streaming.feed(block, SAMPLE_RATE) if len(block) == BLOCK else streaming.flush()
        spent = time.thread_time() - before
        computing += spent
        events += found
        emitted += [(begin + len(block)) / SAMPLE_RATE + spent] * len(found)
    estimate = np.array([(event.onset_secs, event.note, event.velocity) for event in events]).reshape(-1, 3)
    return Heard(estimate, np.array(emitted), computing)


def f1s(excerpts: list[Excerpt], estimates: list[np.ndarray]) -> np.ndarray:
    """Mean F1 in % of onsets and of onsets with velocities."""
    scores = [score(excerpt.reference, estimate) for excerpt, estimate in zip(excerpts, estimates, strict=True)]
    return 100 * np.mean([(s.onsets.f1, s.onsets_velocities.f1) for s in scores], axis=0)


def offline(transcriber: Transcriber, excerpts: list[Excerpt]) -> np.ndarray:
    """:func:`f1s` of offline transcription."""
    tables = [transcriber(excerpt.wave, SAMPLE_RATE) for excerpt in excerpts]
    return f1s(excerpts, [table[["onset_secs", "note", "velocity"]].to_numpy() for table in tables])


def measure(
    transcriber: Transcriber, settings: StreamSettings, excerpts: list[Excerpt], offline_f1s: np.ndarray
) -> dict[str, float]:
    """A row of the table."""
    what = f"settings {'/'.join(map(str, astuple(settings)))}"
    heard = [stream(transcriber, settings, e.wave) for e in tqdm(excerpts, desc=what, disable=None, leave=False)]
    latencies = [latencies_of(excerpt, one) for excerpt, one in zip(excerpts, heard, strict=True)]
    latency_stats = np.percentile(np.concatenate(latencies), (50, 95, 100))
    onsets, with_velocities = f1s(excerpts, [one.estimate for one in heard])
    losses = offline_f1s - (onsets, with_velocities)
    seconds = sum(len(excerpt.wave) for excerpt in excerpts) / SAMPLE_RATE
    values = (
        onsets,
        losses[0],
        with_velocities,
        losses[1],
        *latency_stats,
        seconds / sum(h.computing_secs for h in heard),
    )
    return dict(zip(COLUMNS, (*astuple(settings), *map(float, values)), strict=True))


def latencies_of(excerpt: Excerpt, heard: Heard) -> np.ndarray:
    """Seconds from the reference onset to the event, for each correct event."""
    refs, ests = match_onsets(excerpt.reference, heard.estimate, Tolerances().onset_secs).T
    return heard.emitted_secs[ests] - excerpt.reference[refs, 0]


def parse_settings(text: str) -> StreamSettings:
    """:raises InputError: not four whole numbers and a number, or out of range"""
    *frames, margin = text.split("/")
    try:
        values = *map(int, frames), float(margin)
    except ValueError:
        values = ()
    if len(values) != 5:
        example = "past/hop/look-ahead/waiting/margin such as 16/3/2/6/0.05"
        raise InputError(f"SETTINGS: expected {example}, found {text}")
    return StreamSettings(*values)


def main(conf: ConfDef) -> None:
    wanted = [parse_settings(text) for text in conf.SETTINGS]
    torch.set_num_threads(1)
    transcriber, excerpts, rows = Transcriber(conf.SNAPSHOT_INPATH, device="cpu"), load_excerpts(conf), []
    offline_f1s = offline(transcriber, excerpts)
    notes = sum(len(excerpt.reference) for excerpt in excerpts)
    print("{}: {} recordings, {} notes; offline {:.2f} / {:.2f} %".format(
        transcriber.snapshot.name, len(excerpts), notes, *offline_f1s))  # fmt: skip
    print("| " + " | ".join(HEADINGS) + " |\n" + "|---" * len(HEADINGS) + "|", flush=True)
    for settings in wanted:
        rows.append(measure(transcriber, settings, excerpts, offline_f1s))
        past, hop, look_ahead, waiting, margin, *others = rows[-1].values()
        name = NAMES.get(settings, "")
        print(ROW.format(past, hop, look_ahead, waiting, margin, name, *others), flush=True)
        Path(conf.OUT).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(conf.OUT) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    run(main, ConfDef)
