"""Atomic writes of files and folders."""

import errno
import os
import subprocess
import sys

import pytest

from ov_piano.errors import InputError
from ov_piano.machine import atomic
from ov_piano.machine.atomic import atomic_folder, atomic_write, locked, partial_path, remove_partials


@pytest.fixture(scope="module")
def ended_pid():
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    return ended.pid


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "notes.csv"
    with atomic_write(path) as partial:
        partial.write_text("half")
        assert not path.exists()
        assert not list(path.parent.glob("*.csv"))  # as a search for finished files
        partial.write_text("whole")
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["notes.csv"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_earlier_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "notes.csv"
    path.write_text("earlier")
    block = atomic_write(path)
    block.__enter__().write_text("half")
    assert not block.__exit__(error, error(), None)  # the error propagates
    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["notes.csv"]


@pytest.mark.parametrize("named", [False, True])
def test_errors_of_the_disk_name_the_target(tmp_path, named):
    path = tmp_path / "notes.csv"
    with pytest.raises(OSError, match="No space left") as caught, atomic_write(path) as partial:
        raise OSError(errno.ENOSPC, "No space left on device", *([str(partial)] if named else []))
    assert caught.value.filename == str(path)


def test_errors_that_name_another_file_keep_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "notes.csv"):
        (tmp_path / "missing").read_bytes()
    assert caught.value.filename == str(tmp_path / "missing")


def test_a_folder_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "eval" / "2026_01_01"
    with atomic_folder(path) as folder:
        (folder / "events").mkdir()
        (folder / "events" / "one.csv").write_text("1")
        assert not path.exists()
    assert (path / "events" / "one.csv").read_text() == "1"
    block = atomic_folder(tmp_path / "eval" / "stopped")
    (block.__enter__() / "file").touch()
    assert not block.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)  # the error propagates
    assert os.listdir(tmp_path / "eval") == ["2026_01_01"]


def test_only_partials_of_ended_processes_are_removed(tmp_path, ended_pid):
    ended, folder = partial_path(tmp_path / "a.csv", ended_pid), partial_path(tmp_path / "2026_01_01", ended_pid)
    running = partial_path(tmp_path / "a.csv")
    foreign, abandoned = (tmp_path / f".a.csv.elsewhere.{pid}.01234567.partial" for pid in (1, 2))
    user_file = tmp_path / ".my.partial.csv"
    for path in (ended, running, foreign, abandoned, user_file, tmp_path / "a.csv"):
        path.touch()
    folder.mkdir()
    (folder / "file").touch()
    os.utime(abandoned, (0, 0))
    remove_partials(tmp_path)
    assert set(tmp_path.iterdir()) == {running, foreign, user_file, tmp_path / "a.csv"}


def test_names_of_any_length_can_be_written(tmp_path):
    for name in ("n" * 251 + ".csv", "音" * 80 + ".csv"):
        with atomic_write(tmp_path / name) as partial:
            partial.touch()
        assert (tmp_path / name).exists()


def test_a_lock_admits_one_process_and_leaves_no_file(tmp_path):
    target = tmp_path / "store.h5"
    program = (
        "import sys; from ov_piano.machine.atomic import locked\nwith locked(sys.argv[1], wait=False): print('in')"
    )
    with locked(target):
        other = subprocess.run([sys.executable, "-c", program, target], capture_output=True, text=True, check=False)
        assert "store.h5: another run is making it" in other.stderr
        with pytest.raises(InputError, match="another run is making it"), locked(target, wait=False):
            pass
    other = subprocess.run([sys.executable, "-c", program, target], capture_output=True, text=True, check=True)
    assert other.stdout == "in\n"
    assert list(tmp_path.iterdir()) == []


def test_a_lock_has_no_effect_on_file_systems_without_locks(tmp_path, monkeypatch):
    def not_here(_):
        raise NotImplementedError

    monkeypatch.setattr(atomic.FileLock, "acquire", not_here)
    with locked(tmp_path / "store.h5", wait=False), locked(tmp_path / "store.h5", wait=False):
        pass
