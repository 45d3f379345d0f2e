"""Some of the kills that `make fuzz` does in large numbers; see `tests.fuzz.kills`."""

from tests.fuzz.kills import kill_and_restart, kill_at_changes, preprocessing_task, training_task


def test_preprocessing_survives_kills(tmp_path):
    report = kill_and_restart(preprocessing_task(tmp_path), tmp_path, kills=4, seed=0)
    assert report.kills == 4
    assert report.finished >= 1


def test_preprocessing_survives_kills_before_its_last_changes(tmp_path):
    report = kill_at_changes(preprocessing_task(tmp_path), tmp_path, first=30, every=2)
    assert report.kills == report.finished
    assert "moving" in report.moments


def test_training_survives_kills(tmp_path):
    report = kill_and_restart(training_task(tmp_path, steps=3), tmp_path, kills=2, seed=0)
    assert report.kills == 2
    assert report.finished >= 1


def test_training_of_note_ends_survives_kills(tmp_path):
    report = kill_and_restart(training_task(tmp_path, steps=3, ends=True), tmp_path, kills=2, seed=0)
    assert report.kills == 2
    assert report.finished >= 1
