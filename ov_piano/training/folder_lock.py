"""One training at a time in a folder: two would delete each other's states and resume from them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ov_piano.errors import InputError


@contextmanager
def only_training_in(folder: str | Path) -> Iterator[None]:
    """A block in which no other training uses ``folder``.

    :raises InputError: another one does
    """
    path = Path(folder) / ".training.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"OUTPUT_DIR={folder}: another training is running in this folder") from None
    except NotImplementedError:  # the file system has no locks
        yield
        return
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
