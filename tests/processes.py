"""Descendants of a process, and processes that tests leave behind (Linux)."""

import os
import time
from pathlib import Path

MARK = "OV_PIANO_TESTS"  # environment variable of all processes that tests start
HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")  # end with the process that started them


def descendants(pid: int) -> list[int]:
    """Children, grandchildren and so on; empty if the process has ended."""
    try:
        tasks = [task.read_text().split() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    children = [int(child) for task in tasks for child in task]
    return children + [later for child in children for later in descendants(child)]


def leftovers(patience_secs: float) -> dict[int, str]:
    """Processes that this process started, even indirectly, and that do not end in time: pid -> command line.

    The environment variable `MARK` identifies those whose parent has ended.
    """
    deadline = time.monotonic() + patience_secs
    while (left := _running()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _running() -> dict[int, str]:
    own = os.getpid()
    commands = {}
    for pid in {*descendants(own), *_marked(f"{MARK}={os.environ.get(MARK)}")} - {own}:
        state, parent = [*_read(pid, "stat").rpartition(")")[2].split(), "Z", "0"][:2]  # after the name in parentheses
        command = _read(pid, "cmdline").replace("\0", " ").strip()
        is_helper = int(parent) == own and any(name in command for name in HELPERS)
        if state != "Z" and not is_helper:
            commands[pid] = command
    return commands


def _marked(entry: str) -> list[int]:
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if entry in _read(pid, "environ").split("\0")]


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:  # it has ended
        return ""
