"""The version of the code that made a result."""

import os
import subprocess
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


@cache  # the commit at the first call: the checkout may change while the process runs
def git_commit(package: Path = PACKAGE) -> str:
    """The commit of the checkout that contains ``package``, with ``+`` appended if files were modified.

    "unknown" for an installed package, even if it is located inside another project's repository.
    """
    try:
        root = Path(_git(package, "rev-parse", "--show-toplevel"))
        _git(root, "ls-files", "--error-unmatch", f"{package.name}/{Path(__file__).name}", "pyproject.toml")
        if root.resolve() != package.parent:
            return "unknown"
        return _git(root, "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *args: str) -> str:
    env = {key: value for key, value in os.environ.items() if key not in ("GIT_DIR", "GIT_WORK_TREE")}
    command = ["git", "-C", str(folder), *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()
