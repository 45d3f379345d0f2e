"""Which code made a result."""

import os
import subprocess
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


@cache  # the code that runs is the one that was loaded, wherever the checkout moves in the meantime
def git_commit(package: Path = PACKAGE) -> str:
    """The commit of the checkout that ``package`` belongs to, ``+`` appended where files differ from it.

    "unknown" for an installed package, also where that lies inside another project's repository.
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
