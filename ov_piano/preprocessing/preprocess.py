"""The preprocessing loop of 0a and 0b: recordings -> parts, in parallel -> the pair of HDF5 files.

While it runs, the folder ``ROLL_FILE.parts`` beside the outputs holds one part per finished
recording, then the joined files. When these are complete, the folder is renamed to
``ROLL_FILE.done``; it only remains to move the files to their final place. A run killed at any
point resumes when the command is repeated.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h5py
from tqdm import tqdm

from ov_piano.data.hdf5 import Store, StoreWriter
from ov_piano.data.recording import Recording
from ov_piano.errors import InputError
from ov_piano.machine.atomic import locked, remove_partials
from ov_piano.machine.cores import available_cores
from ov_piano.preprocessing.parallel import in_parallel
from ov_piano.preprocessing.parts import Job, PartSettings, Report, count_frames, is_complete, make_part, read_report

WORTH_WORKERS_SECS = 60  # of audio: for less, starting worker processes takes longer than the work
WORTH_WORKERS_CHECKS = 50  # recordings: the same for reading headers and MIDI

log = logging.getLogger(__name__)


def preprocess(
    recordings: Sequence[Recording], settings: PartSettings, output_dir: str | Path, workers: int | None = None
) -> list[Path]:
    """Write the roll and (unless ``ignore_mel``) log-mel stores of ``recordings``, print a summary, return the paths.

    :param workers: number of processes; None: one per core if there is enough work, one on a GPU.
    :raises InputError: an output exists, another run is making it, or a recording is unusable; finished parts
        are kept.
    """
    stores = {"roll": settings.roll} | ({} if settings.ignore_mel else {"logmel": settings.mel})
    outputs = {name: Path(output_dir) / str(parameters) for name, parameters in stores.items()}
    with _only_run(outputs["roll"]):
        parts = outputs["roll"].with_name(outputs["roll"].name + ".parts")
        done = parts.with_suffix(".done")
        if done.exists():
            found = _put_in_place(done)
            print(f"moved the finished files of an earlier run: {', '.join(map(str, found))}")
            if all(path.exists() for path in outputs.values()):
                return list(outputs.values())
        for name, path in outputs.items():
            _refuse_existing(path, stores[name].height)
        report = _make(recordings, settings, {name: parts / path.name for name, path in outputs.items()}, workers)
        parts.rename(done)
        _put_in_place(done)
    _summarise(report, settings.roll.frame_secs, list(outputs.values()))
    return list(outputs.values())


@contextmanager
def _only_run(output: Path) -> Iterator[None]:
    """Lock ``output`` for the duration of the block.

    :raises InputError: another run holds the lock.
    """
    if output.parent.exists() and not output.parent.is_dir():
        raise InputError(f"{output.parent}: not a folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    with locked(output, wait=False):
        yield


def _make(
    recordings: Sequence[Recording], settings: PartSettings, joined: dict[str, Path], workers: int | None
) -> Report:
    """Make the parts of ``recordings`` and join them: dataset name -> path of the store in ``joined``."""
    begin, parts = time.monotonic(), joined["roll"].parent
    if workers is None and settings.device != "cpu":
        workers = 1  # several would share the device
    jobs = _plan(recordings, settings, parts, workers)
    parts.mkdir(exist_ok=True)
    remove_partials(parts)
    for joined_before in parts.glob("*.h5"):
        joined_before.unlink()
    open_jobs = [job for job in jobs if not is_complete(job)]
    if len(open_jobs) < len(jobs):
        print(f"continuing: {len(jobs) - len(open_jobs)} of {len(jobs)} recordings are done")
    open_jobs.sort(key=lambda job: -job.frames)  # longest first, to balance the workers
    secs = sum(job.frames for job in open_jobs) * settings.roll.frame_secs
    workers_used = _sensible_workers(workers, len(open_jobs), secs > WORTH_WORKERS_SECS)
    in_parallel(partial(_named, make_part), open_jobs, workers_used, "recordings", settings.device == "cpu")
    heights = {"roll": settings.roll.height, "logmel": settings.mel.height}
    reports = {name: _join(jobs, name, path, heights[name]) for name, path in joined.items()}
    print(f"{secs / 3600:.2f} h of recordings computed in {time.monotonic() - begin:.1f} s (processes: {workers_used})")
    for job, report in zip(jobs, reports["roll"], strict=True):
        if anomalies := report.anomalies():
            log.warning("%s: %s", job.recording.midi_path, anomalies)
    return sum(reports["roll"], Report())


def _refuse_existing(path: Path, height: int) -> None:
    if not path.exists():
        return
    try:
        state = f"is complete ({len(Store(path, height))} recordings)"
    except InputError as error:
        state = f"is not complete ({error})"
    raise InputError(f"{path}: exists already, {state}; move it away or change OUTPUT_DIR")


def _sensible_workers(workers: int | None, items: int, is_worth: bool) -> int:
    """``workers``; if None, one per core where starting them ``is_worth`` it."""
    if workers is None:
        workers = available_cores() if is_worth else 1
    return max(1, min(workers, items))


def _plan(recordings: Sequence[Recording], settings: PartSettings, parts: Path, workers: int | None) -> list[Job]:
    """One job per recording, after checking the audio headers and MIDI files of all."""
    if len({recording.name for recording in recordings}) < len(recordings):
        raise InputError("two recordings have the same name")
    workers = _sensible_workers(workers, len(recordings), len(recordings) > WORTH_WORKERS_CHECKS)
    check = partial(_named, partial(count_frames, settings=settings))
    lengths = in_parallel(check, recordings, workers, "checking", may_fork=settings.device == "cpu")
    jobs, begin = [], 0
    for recording, frames in zip(recordings, lengths, strict=True):
        jobs.append(Job(recording, parts / f"{recording.name}.part", frames, begin % settings.chunk_frames, settings))
        begin += frames
    return jobs


def _named(function: Callable, item: Recording | Job) -> Any:
    """``function(item)``; adds the recording's name to unexpected errors."""
    try:
        return function(item)
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:
        name = item.name if isinstance(item, Recording) else item.recording.name
        raise RuntimeError(f"{name}: {error!r}") from error


def _join(jobs: list[Job], name: str, path: Path, height: int) -> list[Report]:
    """Join the parts' datasets ``name`` into one store; return the parts' reports."""
    path.unlink(missing_ok=True)
    reports = []
    with StoreWriter(path, height, jobs[0].settings.chunk_frames) as writer:
        for job in tqdm(jobs, desc=f"joining {name}", unit="recording", disable=None):
            with h5py.File(job.path, "r") as part:
                writer.append_chunked(part[name], job.lead, job.recording.metadata)
                reports.append(read_report(part))
    return reports


def _put_in_place(done: Path) -> list[Path]:
    """Move the files in ``done`` to the folder above, remove ``done``, return the new paths."""
    paths = [done.with_name(path.name) for path in sorted(done.glob("*.h5"))]
    for path in paths:
        os.replace(done / path.name, path)
    shutil.rmtree(done)
    return paths


def _summarise(report: Report, frame_secs: float, paths: list[Path]) -> None:
    print(f"{report.recordings} recordings, {report.frames * frame_secs / 3600:.2f} h, {report.notes} notes")
    print(
        f"{report.collisions} notes replaced by a later one of the same key in the same frame, "
        f"{report.restruck} overlapping notes, {report.unmatched} unmatched note-offs"
    )
    if report.cut:
        print(f"{report.cut} MIDI files longer than their audio, {report.cut_notes} notes dropped")
    if report.silent:
        print(f"{report.silent} silent recordings")
    for path in paths:
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
