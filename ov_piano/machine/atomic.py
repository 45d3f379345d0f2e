"""Files and folders that are complete or not there, and locks between processes.

What is being written is a *partial*: a hidden sibling of its target, named after the machine and process that writes
it, on disk before it is renamed. `remove_partials` deletes those of processes that were killed.
"""

import os
import platform
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ov_piano.errors import InputError

ABANDONED_SECS = 3600  # a partial of another machine that did not change for so long has no writer any more
NAME_LETTERS = 40  # of the target's name, as file systems limit the length of names
_PARTIAL = re.compile(r"\.(?P<machine>[^.]*)\.(?P<pid>\d+)\.[0-9a-f]{8}\.partial$")


@contextmanager
def name_os_errors(path: str | Path, partial: Path | None = None) -> Iterator[None]:
    """Errors of the operating system in the block that name no file, or ``partial``, name ``path``: a full disk …"""
    try:
        yield
    except OSError as error:
        if error.filename not in (None, partial and str(partial)) or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A partial of ``path`` to write to; it becomes ``path`` when the block ends without an error.

    After an error or Ctrl-C nothing is left of it, and an earlier file at ``path`` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        with name_os_errors(path, partial):
            yield partial
            _sync(partial)
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A new folder to write into; it becomes ``path`` when the block ends without an error, else it vanishes."""
    path = Path(path)
    partial = partial_path(path)
    partial.mkdir(parents=True)
    try:
        with name_os_errors(path, partial):
            yield partial
            for file in partial.rglob("*"):
                if file.is_file():
                    _sync(file)
            partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def partial_path(path: Path, pid: int | None = None) -> Path:
    """Where the process ``pid`` of this machine, by default this one, writes what is to become ``path``."""
    writer = f"{_machine()}.{os.getpid() if pid is None else pid}.{uuid.uuid4().hex[:8]}"
    return path.with_name(f".{path.name[:NAME_LETTERS]}.{writer}.partial")


def remove_partials(folder: str | Path) -> None:
    """Delete the partials in ``folder`` whose writers were killed: this machine's at once, others' after an hour."""
    for path in Path(folder).glob(".*.partial"):
        if (match := _PARTIAL.search(path.name)) and _is_abandoned(path, match["machine"], int(match["pid"])):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def locked(path: str | Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock ``path``.lock, one process at a time. File systems that cannot lock let everybody in.

    :raises InputError: with ``wait=False``, another process holds it
    """
    path = Path(path)
    lock = FileLock(path.with_name(path.name + ".lock"), timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except NotImplementedError:
        yield
        return
    except Timeout:
        raise InputError(f"{path}: another run is making it") from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows: not while it is open
            os.unlink(lock.lock_file)
        lock.release()


def _machine() -> str:
    return platform.node().replace(".", "-")[:32]


def _is_abandoned(path: Path, machine: str, pid: int) -> bool:
    if machine == _machine() and sys.platform != "win32":  # where there is no harmless signal
        return not _is_alive(pid)
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > ABANDONED_SECS
    return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync(path: Path) -> None:
    """Have the contents on disk before their name says that they are complete."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
