"""Files that are complete or not there."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def errors_name(path: str | Path) -> Iterator[None]:
    """Errors of the operating system in the block that name no file, such as a full disk, name ``path``."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; it becomes ``path`` when the block ends without an error.

    After an error or Ctrl-C nothing is left of it, and an earlier file at ``path`` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        with errors_name(path):
            yield partial
            _on_disk(partial)
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remove_leftovers(folder: str | Path) -> None:
    """Delete what `written_whole` had begun to write in ``folder`` in processes that were killed."""
    for path in Path(folder).glob(".*.partial*"):
        if (match := re.search(r"\.(\d+)\.partial", path.name)) and not _is_alive(int(match[1])):
            path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _on_disk(path: Path) -> None:
    """Have the contents on disk before their name says that they are complete."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
