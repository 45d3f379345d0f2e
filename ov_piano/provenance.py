"""Which code made a result."""

import subprocess
from functools import cache
from pathlib import Path


@cache  # the code that runs is the one that was loaded, wherever the checkout moves in the meantime
def git_commit() -> str:
    """The commit of this checkout, ``+`` appended where files differ from it; "unknown" outside a checkout."""
    git = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run([*git, "--exclude=*"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
