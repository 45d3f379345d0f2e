"""The one loop behind 0a and 0b: recordings -> parts, in parallel -> the pair of HDF5 files.

Beside the outputs stands the folder ``ROLL_FILE.parts`` while the work goes on; it holds a
part for each finished recording, then the joined files. Renaming it to ``ROLL_FILE.done`` is
the moment at which everything is complete: from then on the files only have to be moved to
their place. Started again after a kill at whatever moment, the same command goes on from there.
"""

import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import h5py
import torch
from tqdm import tqdm

from ov_piano.data.hdf5 import Store, StoreWriter
from ov_piano.data.parts import Job, PartSettings, Report, frames_of, is_complete, make_part, read_report, writing
from ov_piano.data.recording import Recording
from ov_piano.errors import InputError

log = logging.getLogger(__name__)


def preprocess(
    recordings: Sequence[Recording], settings: PartSettings, output_dir: str | Path, workers: int | None = None
) -> list[Path]:
    """Write the roll and (unless ``ignore_mel``) log-mel stores of ``recordings``, print a summary, return the paths.

    :param workers: processes; None: one a core.
    :raises InputError: an output exists, or a recording cannot be used; what was done is kept.
    """
    begin = time.monotonic()
    stores = {"roll": settings.roll} | ({} if settings.ignore_mel else {"logmel": settings.mel})
    outputs = {name: Path(output_dir) / str(parameters) for name, parameters in stores.items()}
    parts = outputs["roll"].with_name(outputs["roll"].name + ".parts")
    done = parts.with_suffix(".done")
    if done.exists():
        print(f"an earlier run was complete, only its files had to be put into place: {_put_in_place(done, outputs)}")
        return list(outputs.values())
    for name, path in outputs.items():
        _refuse_existing(path, stores[name].height)
    parts.mkdir(parents=True, exist_ok=True)
    for leftover in parts.glob("*.tmp"):
        leftover.unlink(missing_ok=True)

    jobs = _plan(recordings, settings, parts)
    open_jobs = [job for job in jobs if not is_complete(job)]
    if len(open_jobs) < len(jobs):
        print(f"continuing: {len(jobs) - len(open_jobs)} of {len(jobs)} recordings are done")
    workers = min(workers or available_cores(), max(1, len(open_jobs)))
    for _ in tqdm(_make_parts(open_jobs, workers), total=len(open_jobs), unit="recording", disable=None):
        pass
    for name, path in outputs.items():
        report = _join(jobs, name, parts / path.name, stores[name].height, settings.chunk_frames)
    parts.rename(done)
    _put_in_place(done, outputs)
    _summarise(report, settings, outputs, time.monotonic() - begin, workers)
    return list(outputs.values())


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _refuse_existing(path: Path, height: int) -> None:
    if not path.exists():
        return
    try:
        state = f"is complete ({len(Store(path, height))} recordings)"
    except InputError as error:
        state = f"is not complete ({error})"
    raise InputError(f"{path}: exists already, {state}; it is not overwritten: move it away or change OUTPUT_DIR")


def _plan(recordings: Sequence[Recording], settings: PartSettings, parts: Path) -> list[Job]:
    """A job for each recording; the audio headers tell where each will begin in the stores."""
    jobs, begin = [], 0
    for recording in recordings:
        frames = frames_of(recording, settings)
        path = parts / f"{recording.name}.part"
        jobs.append(Job(recording, path, frames, begin % settings.chunk_frames, settings))
        begin += frames or 0
    if len({job.path for job in jobs}) < len(jobs):
        raise InputError("two recordings have the same name")
    return jobs


def _make_parts(jobs: list[Job], workers: int) -> Iterator[None]:
    """Make the parts, long recordings first so that no process is left with one at the end."""
    if workers == 1:
        for job in jobs:
            yield _make_named_part(job)
        return
    # Neither torch's threads nor a CUDA context survive a fork of this process.
    start = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(start)
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers, context, initializer=_init_worker) as pool:
        try:
            ordered = sorted(jobs, key=lambda job: job.recording.midi_path.stat().st_size, reverse=True)
            for future in as_completed([pool.submit(_make_named_part, job) for job in ordered]):
                yield future.result()
        except BrokenProcessPool:
            raise InputError(
                "a worker process was ended by the system (out of memory?): try fewer WORKERS; "
                "the same command continues where it stopped"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _make_named_part(job: Job) -> None:
    try:
        make_part(job)
    except (InputError, OSError):
        raise
    except Exception as error:
        raise RuntimeError(f"{job.recording.name}: {error!r}") from error


def _init_worker() -> None:
    """One thread a worker; Ctrl-C is the parent's business, and a worker does not outlive it."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


def _join(jobs: list[Job], name: str, path: Path, height: int, chunk_frames: int) -> Report:
    """One store from the parts' datasets ``name``."""
    path.unlink(missing_ok=True)
    total = Report()
    with writing(path), StoreWriter(path, height, chunk_frames) as writer:
        for job in tqdm(jobs, desc=f"joining {name}", unit="recording", disable=None):
            with h5py.File(job.path, "r") as part:
                writer.append_chunked(part[name], int(part.attrs["lead"]), job.recording.metadata)
                total += read_report(part)
    return total


def _put_in_place(done: Path, outputs: dict[str, Path]) -> str:
    """Move the complete files of ``done`` out and remove it."""
    for path in outputs.values():
        if (done / path.name).exists():
            os.replace(done / path.name, path)
    shutil.rmtree(done)
    return ", ".join(map(str, outputs.values()))


def _summarise(report: Report, settings: PartSettings, outputs: dict[str, Path], seconds: float, workers: int) -> None:
    hours = report.frames * settings.roll.frame_secs / 3600
    print(f"{report.recordings} recordings, {hours:.2f} h, {report.notes} notes in {seconds:.1f} s ({workers} workers)")
    print(
        f"{report.collisions} notes collided with another of their key in one frame, "
        f"{report.restruck} keys struck while down, {report.unmatched} lifted while up"
    )
    if report.cut:
        print(f"{report.cut} MIDI files longer than their audio: cut, with {report.cut_notes} notes")
    if report.silent:
        print(f"{report.silent} silent recordings")
    for path in outputs.values():
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
