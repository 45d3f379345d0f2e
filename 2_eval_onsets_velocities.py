"""Evaluate a snapshot of the onset and velocity network on the test recordings.

1. Load the snapshot and open the pair of HDF5 files made by script 0a or 0b (MAESTRO or MAPS,
   as their names say).
2. Transcribe every n-th validation recording (n = XV_TAKE_ONE_EVERY) once, at the lowest threshold,
   and score all pairs of SEARCH_THRESHOLDS and SEARCH_SHIFTS against the MIDI files.
   A single pair skips this step.
3. Transcribe and score the test recordings with the pair that has the best onset F1. SEARCH_TIE
   chooses the most accurate onset times among shifts with nearly equal F1; TEST_RECORDINGS
   restricts the test to the recordings listed in a text file.
4. Print the tables ONSETS, ONSETS+VELOCITIES and ANALYSIS, for snapshots with note ends also ONSETS+OFFSETS and
   FRAMES, and write them to OUTPUT_DIR/eval/TIMESTAMP together with the search scores, the events and the settings.
5. Plot the search, and the best, worst and median test recording with their reference notes.
"""

import ov_piano  # noqa: F401 -- first, since torch's threads are configured when torch is imported

# isort: split
import logging
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ov_piano.cli import run
from ov_piano.config import to_yaml
from ov_piano.data.chunks import RecordingDataset
from ov_piano.data.hdf5 import StorePair, open_pair
from ov_piano.data.splits import midi_paths, only_listed, split_indices
from ov_piano.errors import InputError
from ov_piano.evaluation.analysis import analyse
from ov_piano.evaluation.conf import EvalConf as ConfDef
from ov_piano.evaluation.evaluate import transcribe_dataset
from ov_piano.evaluation.frames import frame_table
from ov_piano.evaluation.ground_truth import load_ground_truths
from ov_piano.evaluation.report import (
    format_table,
    new_report_path,
    offset_table,
    onset_table,
    velocity_table,
    with_averages,
    write_config,
    write_events,
    write_tables,
)
from ov_piano.evaluation.search import above_threshold, as_notes, best_row, best_timed_row, score_recordings, search
from ov_piano.machine.atomic import atomic_folder
from ov_piano.machine.device import select_device
from ov_piano.machine.memory import keep_freed_memory
from ov_piano.model.ends import load_with_ends
from ov_piano.model.fast import LastStage, optimize_for_inference
from ov_piano.model.sidecar import read_sidecar, write_operating_point
from ov_piano.plots.evaluation import draw_recordings, draw_search
from ov_piano.plots.recording import Transcribed
from ov_piano.plots.style import warn_on_error
from ov_piano.provenance import git_commit
from ov_piano.settings import OperatingPoint
from ov_piano.transcription.decoder import Decoder
from ov_piano.transcription.note_ends import has_ends
from ov_piano.transcription.strided import Infer, onset_velocity_maps

log = logging.getLogger("ov_piano")


class Recordings(NamedTuple):
    """Recordings to transcribe, and the reference notes to score them against."""

    dataset: RecordingDataset
    names: list[str]
    references: list[np.ndarray]  # notes (n, 4) of each recording


def load_recordings(conf: ConfDef, pair: StorePair, indices: list[int]) -> Recordings:
    """Recordings of the stores with the reference notes from their MIDI files."""
    names = [pair.metadata[index].basename for index in indices]
    references = load_ground_truths(midi_paths(pair, indices, conf.folders))
    return Recordings(RecordingDataset(pair, indices), names, references)


def test_indices(conf: ConfDef, pair: StorePair) -> list[int]:
    """Indices of the test split, or of the recordings in it that TEST_RECORDINGS lists."""
    indices = split_indices(pair, "test")
    return indices if conf.TEST_RECORDINGS is None else only_listed(pair, indices, conf.TEST_RECORDINGS)


def load_inference(conf: ConfDef, pair: StorePair) -> Infer:
    """The snapshot's network: log-mel (1, mels, t) -> onset, velocity and possibly end logits (1, keys, t - 1)."""
    device = select_device(conf.DEVICE, conf.TF32)
    model = load_with_ends(conf.SNAPSHOT_INPATH, conf.LEAKY_RELU_SLOPE, conf.ENDS_INPATH).to(device)
    mels = pair.mel.height
    if model.in_bins != mels:
        raise InputError(
            f"{conf.SNAPSHOT_INPATH}: {type(model).__name__} needs log-mels of {model.in_bins} bands (script 0a or 0b "
            f"with MELBINS={model.in_bins}), found {mels} in HDF5_MEL_PATH={conf.HDF5_MEL_PATH}"
        )
    read_sidecar(conf.SNAPSHOT_INPATH).check_logmel(pair.mel_name.settings, conf.HDF5_MEL_PATH)
    return (optimize_for_inference if conf.FAST else LastStage)(model, torch.bfloat16 if conf.BF16 else torch.float32)


def transcribe_recordings(
    conf: ConfDef, infer: Infer, recordings: Recordings, threshold: float, what: str
) -> list[pd.DataFrame]:
    """The event table of each recording."""
    return transcribe_dataset(
        infer,
        Decoder(conf.decoder),
        recordings.dataset,
        threshold,
        chunking=conf.chunking(recordings.dataset.pair.frame_secs),
        device=conf.DEVICE,
        what=what,
    )


def find_operating_point(conf: ConfDef, pair: StorePair, infer: Infer) -> tuple[pd.DataFrame, OperatingPoint]:
    """Scores of all threshold-shift pairs on validation recordings, and the best pair; skips scoring a single pair."""
    thresholds, shifts = conf.SEARCH_THRESHOLDS, conf.SEARCH_SHIFTS
    if not conf.is_search:
        print("Single threshold and shift: skipping the search on validation recordings.\n", flush=True)
        own = read_sidecar(conf.SNAPSHOT_INPATH).point
        if own is not None and own != (thresholds[0], shifts[0]):
            log.warning(
                "%s has another operating point of its own: threshold %g, shift %g s", conf.SNAPSHOT_INPATH, *own
            )
        return pd.DataFrame({"threshold": thresholds, "shift": shifts}), OperatingPoint(thresholds[0], shifts[0])
    recordings = load_recordings(conf, pair, split_indices(pair, "validation")[:: conf.XV_TAKE_ONE_EVERY])
    estimates = transcribe_recordings(conf, infer, recordings, min(thresholds), "validation")
    found = search(recordings.references, estimates, thresholds, shifts, conf.tolerances)
    print(format_table(f"SEARCH ({len(recordings.names)} validation recordings)", found), flush=True)
    best = best_row(found)
    if conf.SEARCH_TIE:
        unshifted = OperatingPoint(best["threshold"], 0.0)
        unshifted = analyse(recordings.names, recordings.references, estimates, unshifted, conf.tolerances)
        late_secs = unshifted["offset_secs"].mean()  # over recordings with pairs
        if np.isnan(late_secs):
            print("No detected onset is near a true one: SEARCH_TIE has no effect.\n")
            return found, OperatingPoint(best["threshold"], best["shift"])
        best = best_timed_row(found, late_secs, conf.SEARCH_TIE)
        print(f"Without a shift, onsets are {late_secs * 1000:.1f} ms late; choosing a shift of {best['shift']:g} s.\n")
    return found, OperatingPoint(best["threshold"], best["shift"])


def transcribed(conf: ConfDef, infer: Infer, recordings: Recordings, index: int, estimate: np.ndarray) -> Transcribed:
    """Everything to plot for one recording; recomputes the network's output, which is too large to keep."""
    logmel, _, _ = recordings.dataset[index]  # (mels, t)
    pair = recordings.dataset.pair
    chunking = conf.chunking(pair.frame_secs)
    onset_probs, velocities = onset_velocity_maps(lambda x: infer(x.to(conf.DEVICE)), logmel, chunking)
    return Transcribed(
        logmel.numpy(),
        onset_probs.numpy(),
        velocities.numpy(),
        recordings.references[index],
        estimate,
        frame_secs=pair.frame_secs,
        mel_range_hz=(pair.mel_name.settings.fmin, pair.mel_name.settings.fmax),
        tolerances=conf.tolerances,
    )


def save_operating_point(snapshot: str, point: OperatingPoint) -> None:
    """Write ``point`` beside the snapshot; if the folder is read-only, warn and keep the results."""
    try:
        write_operating_point(snapshot, point, commit=git_commit())
    except OSError as error:
        log.warning("%s: operating point not saved: %s", snapshot, error.strerror)


def main(conf: ConfDef) -> None:
    """Search on validation recordings, evaluate on the test recordings, report."""
    keep_freed_memory()
    commit = git_commit()  # now: the checkout may change meanwhile
    pair = open_pair(conf.HDF5_MEL_PATH, conf.HDF5_ROLL_PATH)
    infer = load_inference(conf, pair)
    test = load_recordings(conf, pair, test_indices(conf, pair))
    path = new_report_path(conf.OUTPUT_DIR)
    with atomic_folder(path) as folder:
        found, point = find_operating_point(conf, pair, infer)
        estimates = transcribe_recordings(conf, infer, test, point.threshold, "test")
        scores = score_recordings(test.names, test.references, estimates, point, conf.tolerances)
        analysis = analyse(test.names, test.references, estimates, point, conf.tolerances)
        tables = {"onsets": onset_table(scores), "onsets_velocities": velocity_table(scores)}
        if all(map(has_ends, estimates)):
            frames = frame_table(test.names, test.references, estimates, point, pair.frame_secs)
            tables |= {"onsets_offsets": offset_table(scores), "frames": frames}
        tables["analysis"] = analysis
        tables = {name: with_averages(table, point) for name, table in tables.items()}
        for name, table in tables.items():
            print(format_table(name.upper().replace("_", "+"), table))
        write_config(folder, to_yaml(conf), commit=commit, **point._asdict())
        write_tables(folder, **tables, search=found)
        write_events(folder, test.names, estimates, point)

    if conf.SAVE_OPERATING_POINT:
        save_operating_point(conf.SNAPSHOT_INPATH, point)
    print(f"Written to {path}", flush=True)

    def at_point(index: int) -> Transcribed:
        found_notes = as_notes(estimates[index][above_threshold(estimates[index], point.threshold)], point.shift)
        return transcribed(conf, infer, test, index, found_notes)

    with warn_on_error("pictures"):
        draw_search(found, point, path / "search.png")
        draw_recordings(path / "pictures", scores, at_point, point)


if __name__ == "__main__":
    run(main, ConfDef)
