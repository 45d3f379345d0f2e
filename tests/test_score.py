"""Scores of MIDI files against hand-worked values and the scores of the original arrays."""

import contextlib
import io

import numpy as np
import pandas as pd
import pytest

from ov_piano.cli import run
from ov_piano.errors import InputError
from ov_piano.evaluation.scoring import score
from ov_piano.score import ConfDef, find_pairs, main
from tests.conftest import random_notes, write_midi

REFERENCE = [(0.5, 1.0, 60, 40), (1.0, 1.5, 62, 80), (1.5, 2.0, 64, 120), (2.0, 2.5, 65, 60)]


def printed(*args: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as text:
        run(main, ConfDef, [str(arg) for arg in args])
    return text.getvalue()


def row(text: str, title: str, name: str) -> list[float]:
    """The numbers of a printed table's row."""
    lines = text[text.index(f"{title}\n") :].splitlines()
    (line,) = [line for line in lines[: lines.index("")] if line.startswith(name)]
    return [float(number) for number in line.removeprefix(name).split()]


def test_scores_of_two_files_by_hand(tmp_path):
    write_midi(tmp_path / "right.mid", REFERENCE)
    late = (2.07, 2.5, 65, 60)  # 70 ms
    wrong_velocity = (1.5, 2.0, 64, 10)
    write_midi(tmp_path / "found.midi", [REFERENCE[0], REFERENCE[1], wrong_velocity, late, (3.0, 3.1, 70, 60)])
    text = printed(tmp_path / "right.mid", tmp_path / "found.midi")
    assert row(text, "ONSETS", "right") == pytest.approx([3 / 5, 3 / 4, 2 / 3], abs=1e-6)
    assert row(text, "ONSETS", "AVERAGES (1)") == row(text, "ONSETS", "right")
    wider = printed(tmp_path / "right.mid", tmp_path / "found.midi", "TOLERANCE_SECS=0.08")
    assert row(wider, "ONSETS", "right")[1] == 1
    earlier = printed(tmp_path / "right.mid", tmp_path / "found.midi", "SHIFT=-0.03")
    assert row(earlier, "ONSETS", "right")[1] == 1
    assert row(text, "ANALYSIS", "right")[:2] == [4, 5]


def test_folders_are_paired_by_name_and_the_rest_is_named(tmp_path, caplog):
    rng = np.random.default_rng(0)
    songs = {name: random_notes(rng, 6) for name in ("a", "b.c", "only_reference")}
    for name, notes in songs.items():
        write_midi(tmp_path / "right" / "2004" / f"{name}.midi", notes)
    found = {"a": songs["a"][::2], "b.c": [(on + 0.01, off, key, 64) for on, off, key, _ in songs["b.c"]]}
    for name, notes in {**found, "only_found": songs["a"]}.items():
        write_midi(tmp_path / "found" / f"{name}.MID", notes)
    text = printed(tmp_path / "right", tmp_path / "found", f"OUT={tmp_path / 'tables'}")
    named = sorted(record.getMessage().replace(str(tmp_path), "") for record in caplog.records)
    assert named == [
        "skipped: /found/only_found.MID has no counterpart in /right",
        "skipped: /right/2004/only_reference.midi has no counterpart in /found",
    ]

    expected = {}
    for name, notes in found.items():
        reference, estimate = np.array(songs[name], float), np.array(notes, float)
        scores = score(np.round(reference, 3), np.round(estimate[:, [0, 2, 3]], 3))
        expected[name] = [*scores.onsets, *scores.onsets_velocities]
        assert row(text, "ONSETS", name) == pytest.approx(scores.onsets, abs=1e-6)
        assert row(text, "ONSETS+VELOCITIES", name) == pytest.approx(scores.onsets_velocities, abs=1e-6)
    averages = np.mean(list(expected.values()), axis=0)
    assert row(text, "ONSETS", "AVERAGES (2)") == pytest.approx(averages[:3], abs=1e-6)
    table = pd.read_csv(tmp_path / "tables" / "onsets_velocities.csv", index_col="Filename")
    assert list(table.index) == ["a", "b.c", "AVERAGES (2)"]
    assert table.loc["AVERAGES (2)"].to_numpy() == pytest.approx(averages[3:])


def test_a_sustain_pedal_does_not_change_onset_scores(tmp_path):
    write_midi(tmp_path / "right.mid", REFERENCE)
    write_midi(tmp_path / "found.mid", REFERENCE, controls=[(0.1, 64, 127), (2.6, 64, 0)])
    text = printed(tmp_path / "right.mid", tmp_path / "found.mid")
    assert row(text, "ONSETS+VELOCITIES", "right") == [1, 1, 1]
    assert row(text, "ONSETS+OFFSETS", "right") == [0.25, 0.25, 0.25]  # only the last note ends in time


def test_scores_with_offsets_by_hand(tmp_path):
    write_midi(tmp_path / "right.mid", [(0.5, 1.5, 60, 40), (1.0, 1.1, 62, 80)])
    write_midi(tmp_path / "found.mid", [(0.5, 1.68, 60, 40), (1.0, 1.16, 62, 80)])  # 18 % and 60 ms too long
    text = printed(tmp_path / "right.mid", tmp_path / "found.mid")
    assert row(text, "ONSETS", "right") == [1, 1, 1]
    assert row(text, "ONSETS+OFFSETS", "right") == [0.5, 0.5, 0.5]
    precision, recall, _ = row(text, "FRAMES", "right")
    assert precision == pytest.approx(1.1 / 1.34, abs=0.03)
    assert recall == 1


def test_unpaired_files_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("x/a.mid", "x/deep/a.midi", "y/b.mid"):
        write_midi(tmp_path / name, REFERENCE)
    cases = (
        ("no.mid", "y/b.mid", "no.mid: no such file or folder"),
        ("y/b.mid", "y", "expected two MIDI files or two folders"),
        ("x", "y", r"a\.mid and .*a\.midi: expected each name once in"),
        ("y", "empty", "no MIDI files of the same name"),
    )
    for reference, estimate, message in cases:
        with pytest.raises(InputError, match=message):
            find_pairs(tmp_path / reference, tmp_path / estimate)
