"""Atomic writes of files and folders, and locks between processes.

Output is written to a *partial*, a hidden sibling of the target named after the writing machine and process, synced
to disk and then renamed. `remove_partials` deletes the partials of processes that were killed.
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

ABANDONED_SECS = 3600  # a partial of another machine unchanged for this long is considered abandoned
NAME_LETTERS = 40  # of the target's name, since file systems limit the length of names
_PARTIAL = re.compile(r"\.(?P<machine>[^.]*)\.(?P<pid>\d+)\.[0-9a-f]{8}\.partial$")


@contextmanager
def name_os_errors(path: str | Path, partial: Path | None = None) -> Iterator[None]:
    """Add ``path`` to OSErrors in the block that contain no path or ``partial``, such as those of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename not in (None, partial and str(partial)) or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a partial of ``path`` to write to; it is renamed to ``path`` when the block ends without an error.

    After an error or Ctrl-C it is deleted, and an existing file at ``path`` is unchanged.
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
    """Yield a new folder to write to; it is renamed to ``path`` when the block ends without an error, else deleted."""
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
    """The path of the partial of ``path`` for process ``pid`` (default: this process) on this machine."""
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
    """Hold the lock ``path``.lock, one process at a time. No effect on file systems without locks.

    :raises InputError: ``wait`` is false and another process holds the lock
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
        with suppress(OSError):  # Windows cannot delete an open file
            os.unlink(lock.lock_file)
        lock.release()


def _machine() -> str:
    return platform.node().replace(".", "-")[:32]


def _is_abandoned(path: Path, machine: str, pid: int) -> bool:
    if machine == _machine() and sys.platform != "win32":  # Windows: no harmless signal to probe with
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
    """Sync the contents to disk before the file is renamed."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
