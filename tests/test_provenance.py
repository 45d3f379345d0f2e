"""Results name this project's commit, never another project's."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ov_piano.provenance import PACKAGE, git_commit


def git(folder: Path, *args: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@x", *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def repository(root: Path, package: Path) -> str:
    """A repository at ``root`` with a copy of this package at ``package``, all committed; returns the commit."""
    package.mkdir(parents=True)
    shutil.copy(PACKAGE / "provenance.py", package)
    (root / "pyproject.toml").write_text("[project]\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", str(root))
    return git(root, "rev-parse", "--short=12", "HEAD")


def test_the_commit_of_a_checkout_is_given(tmp_path, monkeypatch):
    commit = repository(tmp_path, tmp_path / "ov_piano")
    other = repository(tmp_path / "other", tmp_path / "other" / "ov_piano")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))  # as inside a hook
    assert git_commit(tmp_path / "ov_piano") == commit != other
    git_commit.cache_clear()
    (tmp_path / "ov_piano" / "provenance.py").write_text("changed\n")
    assert git_commit(tmp_path / "ov_piano") == f"{commit}+"


@pytest.mark.parametrize("place", [".venv/lib/site-packages/ov_piano", "third_party/ov_piano"])
def test_no_commit_inside_the_repository_of_another_project(tmp_path, place):
    repository(tmp_path, tmp_path / place)
    assert git_commit(tmp_path / place) == "unknown"


def test_no_commit_outside_of_repositories(tmp_path):
    assert git_commit(tmp_path) == "unknown"
