"""The one loop behind 0a and 0b: recordings -> parts, in parallel -> the pair of HDF5 files.

Beside the outputs stands the folder ``ROLL_FILE.parts`` while the work goes on; it holds a
part for each finished recording, then the joined files. Renaming it to ``ROLL_FILE.done`` is
the moment at which everything is complete: from then on the files only have to be moved to
their place. Started again after a kill at whatever moment, the same command goes on from there.
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

from ov_piano.atomic import locked, remove_partials
from ov_piano.cores import available_cores
from ov_piano.data.hdf5 import Store, StoreWriter
from ov_piano.data.recording import Recording
from ov_piano.errors import InputError
from ov_piano.preprocessing.parallel import in_parallel
from ov_piano.preprocessing.parts import Job, PartSettings, Report, count_frames, is_complete, make_part, read_report

WORTH_WORKERS_SECS = 60  # of audio: less is done before worker processes have started
WORTH_WORKERS_CHECKS = 50  # recordings, the same for reading their headers and MIDI

log = logging.getLogger(__name__)


def preprocess(
    recordings: Sequence[Recording], settings: PartSettings, output_dir: str | Path, workers: int | None = None
) -> list[Path]:
    """Write the roll and (unless ``ignore_mel``) log-mel stores of ``recordings``, print a summary, return the paths.

    :param workers: processes; None: one a core where it pays, one alone with a GPU.
    :raises InputError: an output exists, another run is making it, or a recording cannot be used; what was done
        is kept.
    """
    stores = {"roll": settings.roll} | ({} if settings.ignore_mel else {"logmel": settings.mel})
    outputs = {name: Path(output_dir) / str(parameters) for name, parameters in stores.items()}
    with _only_run(outputs["roll"]):
        parts = outputs["roll"].with_name(outputs["roll"].name + ".parts")
        done = parts.with_suffix(".done")
        if done.exists():
            found = _put_in_place(done)
            print(f"an earlier run was complete, its files are put into place: {', '.join(map(str, found))}")
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
    """A block in which no other run makes ``output``.

    :raises InputError: another run does.
    """
    if output.parent.exists() and not output.parent.is_dir():
        raise InputError(f"{output.parent}: not a folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    with locked(output, wait=False):
        yield


def _make(
    recordings: Sequence[Recording], settings: PartSettings, joined: dict[str, Path], workers: int | None
) -> Report:
    """The parts of ``recordings``, and from each part's datasets the files that ``joined`` names."""
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
    open_jobs.sort(key=lambda job: -job.frames)  # so that no process is left with a long one at the end
    secs = sum(job.frames for job in open_jobs) * settings.roll.frame_secs
    workers_used = _sensible_workers(workers, len(open_jobs), secs > WORTH_WORKERS_SECS)
    in_parallel(partial(_named, make_part), open_jobs, workers_used, "recordings", settings.device == "cpu")
    heights = {"roll": settings.roll.height, "logmel": settings.mel.height}
    reports = {name: _join(jobs, name, path, heights[name]) for name, path in joined.items()}
    print(f"{secs / 3600:.2f} h of recordings computed in {time.monotonic() - begin:.1f} s (processes: {workers_used})")
    for job, report in zip(jobs, reports["roll"], strict=True):
        if oddities := report.oddities():
            log.warning("%s: %s", job.recording.midi_path, oddities)
    return sum(reports["roll"], Report())


def _refuse_existing(path: Path, height: int) -> None:
    if not path.exists():
        return
    try:
        state = f"is complete ({len(Store(path, height))} recordings)"
    except InputError as error:
        state = f"is not complete ({error})"
    raise InputError(f"{path}: exists already, {state}; it is not overwritten: move it away or change OUTPUT_DIR")


def _sensible_workers(workers: int | None, items: int, is_worth: bool) -> int:
    """As asked; otherwise one a core where starting them pays."""
    if workers is None:
        workers = available_cores() if is_worth else 1
    return max(1, min(workers, items))


def _plan(recordings: Sequence[Recording], settings: PartSettings, parts: Path, workers: int | None) -> list[Job]:
    """A job for each recording, once all are known to be readable as far as headers and MIDI tell."""
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
    """``function(item)``; an error that does not name a file will name the recording."""
    try:
        return function(item)
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:
        name = item.name if isinstance(item, Recording) else item.recording.name
        raise RuntimeError(f"{name}: {error!r}") from error


def _join(jobs: list[Job], name: str, path: Path, height: int) -> list[Report]:
    """One store from the parts' datasets ``name``; what the parts report."""
    path.unlink(missing_ok=True)
    reports = []
    with StoreWriter(path, height, jobs[0].settings.chunk_frames) as writer:
        for job in tqdm(jobs, desc=f"joining {name}", unit="recording", disable=None):
            with h5py.File(job.path, "r") as part:
                writer.append_chunked(part[name], job.lead, job.recording.metadata)
                reports.append(read_report(part))
    return reports


def _put_in_place(done: Path) -> list[Path]:
    """Move the complete files of ``done`` out, remove it, and return where they are."""
    paths = [done.with_name(path.name) for path in sorted(done.glob("*.h5"))]
    for path in paths:
        os.replace(done / path.name, path)
    shutil.rmtree(done)
    return paths


def _summarise(report: Report, frame_secs: float, paths: list[Path]) -> None:
    print(f"{report.recordings} recordings, {report.frames * frame_secs / 3600:.2f} h, {report.notes} notes")
    print(
        f"{report.collisions} notes collided with another of their key in one frame, "
        f"{report.restruck} keys struck while down, {report.unmatched} lifted while up"
    )
    if report.cut:
        print(f"{report.cut} MIDI files longer than their audio, {report.cut_notes} notes cut")
    if report.silent:
        print(f"{report.silent} silent recordings")
    for path in paths:
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
