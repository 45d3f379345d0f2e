"""Live transcription of the sample with default settings: latency, CPU share, F1 lost compared with offline."""

from pathlib import Path

import torch

from ov_piano.constants import FRAME_SECS, SAMPLE_RATE, WINDOW
from ov_piano.transcription.streaming import DEFAULT
from ov_piano.transcription.transcriber import Transcriber
from tests.benchmarks.live_table import load_excerpt, measure, offline
from tests.benchmarks.paired import seconds

SAMPLE = Path(__file__).parents[2] / "assets" / "sample"
EXCERPT_SECS = 30.0


def exact_context(transcriber: Transcriber) -> int:
    """Frames after an onset that the offline result depends on through network and decoder, without the gates."""
    parts = transcriber.parts
    reaches = [sum(step.reach for step in steps) for steps in (parts.stem, parts.velocity_stage, *parts.onset_stages)]
    return sum(reaches[:2]) + max(reaches[2:]) + len(transcriber.decoder.kernel) // 2 + 1


def benchmarks() -> dict[str, dict]:
    """All entries of this file. "plain" waits for all frames that the offline result depends on and recomputes
    them at each hop."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    transcriber = Transcriber(device="cpu")
    waves = sorted(SAMPLE.glob("*/*.wav"))
    excerpts = [load_excerpt(path, path.with_suffix(".midi"), EXCERPT_SECS) for path in waves]
    offline_f1s = offline(transcriber, excerpts)
    row = measure(transcriber, DEFAULT, excerpts, offline_f1s)
    context = exact_context(transcriber)
    window = torch.randn(1, transcriber.mels, 2 * context + DEFAULT.hop_frames) * 20 - 40  # dB
    transcriber.infer(window)
    recomputed = DEFAULT.hop_frames * FRAME_SECS / seconds(lambda: transcriber.infer(window))
    torch.set_num_threads(threads)
    waited = WINDOW / 2 / SAMPLE_RATE + (context + DEFAULT.hop_frames - 1) * FRAME_SECS
    return {
        "live_latency_secs": _entry(row["latency_95"], waited, waited / row["latency_95"], "s, 95th percentile"),
        "live_one_core": _entry(row["one_core"], recomputed, row["one_core"] / recomputed, "x real time"),
        "live_f1_loss": _entry(
            row["onset_loss"], 0.0, row["onset_f1"] / float(offline_f1s[0]), "points of onset F1; ratio: live / offline"
        ),
    }


def _entry(ours: float, plain: float, ratio: float, unit: str) -> dict:
    return {"ours": ours, "plain": plain, "ratio": ratio, "unit": unit}
