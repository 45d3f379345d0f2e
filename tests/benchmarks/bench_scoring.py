"""Scoring against mir_eval on all notes at once, and the threshold and shift search against one pair at a time."""

import statistics
import tracemalloc
from pathlib import Path

import mir_eval
import numpy as np
import pandas as pd
import torch

from ov_piano.constants import FRAME_SECS, KEYS, LOWEST_NOTE
from ov_piano.evaluation.scoring import Scores, score
from ov_piano.evaluation.search import above_threshold, as_notes, score_grid
from ov_piano.transcription.decoder import Decoder
from tests.benchmarks.paired import paired, seconds

MIR_EVAL_BYTES = 12e9  # what mir_eval's matrices of 20,000 x 20,000 notes need, with some to spare
THRESHOLDS = [0.6, 0.65, 0.7, 0.725, 0.75, 0.775, 0.8]
SHIFTS = [-0.02, -0.01, 0.0, 0.01, 0.02]  # s


def benchmarks() -> dict[str, dict]:
    entries = {"scoring_search": _search(10_000)}
    if _available_bytes() < MIR_EVAL_BYTES:
        print(f"scoring_20k: skipped, mir_eval needs {MIR_EVAL_BYTES / 1e9:.0f} GB of free memory")
        return entries
    return {"scoring_20k": _scoring(20_000)} | entries


def _available_bytes() -> float:
    """Available memory on Linux; elsewhere assume that it suffices."""
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), float("inf"))


def _notes(count: int, secs: float, seed: int = 0) -> np.ndarray:
    """Random notes (count, 4) in order of time."""
    rng = np.random.default_rng(seed)
    onsets = np.sort(rng.uniform(1, secs - 1, count))
    return np.column_stack([onsets, onsets + 0.1, rng.integers(21, 109, count), rng.integers(1, 128, count)])


def _mir_eval(reference: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """P, R and F1 of onsets and of onsets with velocities."""
    ref = reference[:, :2], mir_eval.util.midi_to_hz(reference[:, 2]), reference[:, 3]
    intervals = estimate[:, [0, 0]] + [0, 0.1]
    est = intervals, mir_eval.util.midi_to_hz(estimate[:, 1]), estimate[:, 2]
    onsets = mir_eval.transcription.precision_recall_f1_overlap(*ref[:2], *est[:2], offset_ratio=None)
    velocities = mir_eval.transcription_velocity.precision_recall_f1_overlap(*ref, *est, offset_ratio=None)
    return np.array([onsets[:3], velocities[:3]])


def _scoring(count: int) -> dict:
    """``count`` notes in half an hour and noisy estimates of them."""
    rng, reference = np.random.default_rng(1), _notes(count, 1800)
    onsets = reference[:, 0] + rng.normal(0, 0.025, count)
    estimate = np.column_stack([onsets, reference[:, 2], reference[:, 3] + rng.uniform(0, 40, count)])
    results: dict[str, np.ndarray | Scores] = {}

    def ours() -> None:
        results["ours"] = score(reference, estimate)

    def plain() -> None:
        results["plain"] = _mir_eval(reference, estimate)

    entry = paired(ours, plain, rounds=2)
    tracemalloc.start()
    ours()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    difference = np.abs(np.array(results["ours"]) - results["plain"]).max()
    return entry | {"ours_peak_mb": peak / 1e6, "largest_difference": difference}


def _search(count: int) -> dict:
    """One recording of 20 minutes: decoded and scored for each pair, against once for all.

    The plain path already uses our scorer; ``ratio_of_scoring_alone`` leaves the decoding out as well, and
    ``mir_eval_one_pair`` is mir_eval's time for one of the pairs.
    """
    reference, secs = _notes(count, 1200), 1200
    probs, velocities = _maps(reference, round(secs / FRAME_SECS))
    whole = _events(probs, velocities, min(THRESHOLDS))
    grids = {}

    def ours() -> None:
        events = _events(probs, velocities, min(THRESHOLDS))
        grids["ours"] = score_grid(reference, events, THRESHOLDS, SHIFTS)

    def plain() -> None:
        grids["plain"] = np.empty((len(THRESHOLDS), len(SHIFTS), 6))
        for t, threshold in enumerate(THRESHOLDS):
            for s, shift in enumerate(SHIFTS):
                events = _events(probs, velocities, threshold)
                grids["plain"][t, s] = np.concatenate(score(reference, as_notes(events, shift)))

    def plain_scoring() -> None:
        for threshold in THRESHOLDS:
            for shift in SHIFTS:
                score(reference, as_notes(whole[above_threshold(whole, threshold)], shift))

    entry = paired(ours, plain, rounds=3)
    alone = paired(lambda: score_grid(reference, whole, THRESHOLDS, SHIFTS), plain_scoring)
    return entry | {
        "pairs": len(THRESHOLDS) * len(SHIFTS),
        "notes": count,
        "events": len(whole),
        "largest_difference": np.abs(grids["ours"] - grids["plain"]).max(),
        "ratio_of_scoring_alone": alone["ratio"],
        "ours_scoring_alone": alone["ours"],
        "mir_eval_one_pair": statistics.median(
            seconds(lambda: _mir_eval(reference, as_notes(whole))) for _ in range(2)
        ),
    }


def _events(probs: torch.Tensor, velocities: torch.Tensor, threshold: float) -> pd.DataFrame:
    """Decode maps (88, frames) into an event table."""
    found = Decoder()(probs[None], velocities[None], threshold)
    columns = {"onset_secs": found["t_idx"] * FRAME_SECS, "note": found["key"] + LOWEST_NOTE}
    return pd.DataFrame({**columns, "velocity": found["vel"] * 127, "prob": found["prob"]})


def _maps(reference: np.ndarray, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps (88, frames) with peaks of 0.6 to 1 near 90 % of the notes."""
    rng = np.random.default_rng(2)
    found = reference[rng.random(len(reference)) < 0.9]
    frame = np.round((found[:, 0] + rng.normal(0.01, 0.015, len(found))) / FRAME_SECS).astype(int)
    key = found[:, 2].astype(int) - LOWEST_NOTE
    probs = rng.uniform(0, 0.1, (KEYS, frames)).astype(np.float32)
    for offset in (-1, 0, 1):
        probs[key, frame + offset] = rng.uniform(0.7, 1, len(found))
    velocities = np.full((KEYS, frames), 0.5, np.float32)
    velocities[key, frame] = found[:, 3] / 127
    return torch.from_numpy(probs), torch.from_numpy(velocities)
