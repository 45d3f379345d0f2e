"""MAESTRO's table and folders -> recordings."""

import shutil

import pandas as pd
import pytest

from ov_piano.data.maestro import MaestroMetadata, dataset_name, load_recordings
from ov_piano.errors import InputError


@pytest.fixture
def tree(toy_maestro, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(toy_maestro, tmp_path / "maestro-v3.0.0")


def _edit(root, change):
    table = pd.read_csv(root / "maestro-v3.0.0.csv", dtype=str)
    change(table).to_csv(root / "maestro-v3.0.0.csv", index=False)


def test_recordings_follow_the_table(toy_maestro):
    recordings = load_recordings(toy_maestro)
    assert [recording.metadata.split for recording in recordings] == ["train"] * 4 + ["validation"] * 2 + ["test"] * 2
    table = pd.read_csv(toy_maestro / "maestro-v3.0.0.csv")
    first = recordings[0]
    name = "MIDI-Unprocessed_train_0_wav--0"
    duration = float(table["duration"][0])
    title = 'Étude "No. 0", train'
    assert first.metadata == MaestroMetadata(name, 2004, "train", duration, "Composer's name", title)
    assert first.name == name
    assert first.audio_path == toy_maestro / "2004" / f"{name}.wav"
    assert first.midi_path == toy_maestro / "2004" / f"{name}.midi"
    assert [type(value) for value in first.metadata] == [str, int, str, float, str, str]


def test_splits_and_years_filter_the_recordings(toy_maestro):
    assert [rec.metadata.split for rec in load_recordings(toy_maestro, splits=["test"])] == ["test"] * 2
    assert [rec.metadata.year for rec in load_recordings(toy_maestro, years=[2009, 2018])] == [2009] * 2 + [2018] * 2


def test_missing_year_folders_are_skipped(tree):
    shutil.rmtree(tree / "2004")
    assert [recording.metadata.year for recording in load_recordings(tree)] == [2009, 2009, 2018, 2018]


def test_audio_is_optional_without_need_audio(tree):
    for path in tree.rglob("*.wav"):
        path.unlink()
    assert len(load_recordings(tree, need_audio=False)) == 8
    with pytest.raises(InputError, match=r"train_0_wav--0\.wav: no such file, although maestro-v3\.0\.0\.csv lists it"):
        load_recordings(tree)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "maestro-v3.0.0.csv").unlink(), r"maestro-v3\.0\.0\.csv: no such file \(found no CSV"),
        (lambda root: (root / "maestro-v3.0.0.csv").write_text(""), "expected the columns canonical_composer"),
        (lambda root: (root / "maestro-v3.0.0.csv").write_bytes(b"\xff\xfe\x00"), "not a CSV table"),
        (
            lambda root: (root / "maestro-v3.0.0.csv").write_text("a,b\n1,2\n"),
            "expected the columns canonical_composer",
        ),
        (lambda root: _edit(root, lambda table: table[:0]), "no rows"),
        (lambda root: _edit(root, lambda table: table.replace("test", "tset")), "line 8: column split: .*found 'tset'"),
        (
            lambda root: _edit(root, lambda table: table.assign(year="MMIV")),
            "line 2: column year: expected a number",
        ),
        (lambda root: _edit(root, lambda table: table.assign(duration="inf")), "column duration: expected a number"),
        (lambda root: _edit(root, lambda table: pd.concat([table, table])), "more than once"),
        (lambda root: next(root.rglob("*.midi")).unlink(), r"\.midi: no such file, although"),
        (shutil.rmtree, "no such folder: expected MAESTRO v3"),
        (lambda root: [shutil.rmtree(root / year) for year in ("2004", "2009", "2018")], "no recording left"),
    ],
)
def test_broken_trees_are_refused_with_the_path(tree, damage, message):
    damage(tree)
    with pytest.raises(InputError, match=message):
        load_recordings(tree)


def test_unknown_filters_and_versions_are_refused(toy_maestro):
    with pytest.raises(InputError, match="unknown split 'valid': expected one of train, validation, test"):
        load_recordings(toy_maestro, splits=["valid"])
    with pytest.raises(InputError, match="unknown year 2005: expected one of 2004, 2009, 2018"):
        load_recordings(toy_maestro, years=[2005])
    with pytest.raises(InputError, match=r"maestro-v2\.0\.0\.csv: no such file \(found maestro-v3\.0\.0\.csv there"):
        load_recordings(toy_maestro, version=2)
    with pytest.raises(InputError, match="version 4"):
        dataset_name(4)
    assert dataset_name(1) == "MAESTROv1"
