"""The processes that a process has started (Linux)."""

from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Children, theirs and so on; none of a process that has ended."""
    try:
        tasks = [task.read_text().split() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    children = [int(child) for task in tasks for child in task]
    return children + [later for child in children for later in descendants(child)]
