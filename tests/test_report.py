"""Tables, result files and the analysis."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml

from ov_piano.evaluation.analysis import analyse, median_offset
from ov_piano.evaluation.report import (
    format_table,
    new_report_path,
    onset_table,
    velocity_table,
    with_averages,
    write_config,
    write_events,
    write_tables,
)
from ov_piano.evaluation.search import ONSET_COLUMNS, VELOCITY_COLUMNS
from ov_piano.machine.atomic import atomic_folder, partial_path
from ov_piano.settings import OperatingPoint

EVENT_COLUMNS = ["onset_secs", "note", "velocity", "prob"]


@pytest.fixture
def scores() -> pd.DataFrame:
    """Scores of two recordings, like those of `score_recordings`."""
    values = [(1.0, 0.5, 2 / 3, 0.5, 0.25, 1 / 3), (0.5, 1.0, 2 / 3, 0.0, 0.0, 0.0)]
    index = pd.Index(["first=1,(a)", "b"], name="Filename")
    return pd.DataFrame(values, index=index, columns=ONSET_COLUMNS + VELOCITY_COLUMNS)


def test_tables_are_printed_with_averages(scores):
    assert format_table("ONSETS", with_averages(onset_table(scores), OperatingPoint(0.77, -0.01))).splitlines() == [
        "ONSETS",
        "Filename                          P        R       F1",
        "first=1,(a)                1.000000 0.500000 0.666667",
        "b                          0.500000 1.000000 0.666667",
        "AVERAGES (t=0.77, s=-0.01) 0.750000 0.750000 0.666667",
    ]
    table = with_averages(velocity_table(scores), OperatingPoint(0.8, 0.0))
    assert format_table("ONSETS+VELOCITIES", table).splitlines() == [
        "ONSETS+VELOCITIES",
        "Filename                     P        R       F1",
        "first=1,(a)           0.500000 0.250000 0.333333",
        "b                     0.000000 0.000000 0.000000",
        "AVERAGES (t=0.8, s=0) 0.250000 0.125000 0.166667",
    ]


def test_a_table_without_names_is_printed_without_row_numbers():
    found = pd.DataFrame({"threshold": [0.7], "shift": [0.0], "F1": [0.5]})
    assert format_table("SEARCH", found).splitlines() == [
        "SEARCH",
        " threshold    shift       F1",
        "  0.700000 0.000000 0.500000",
    ]


def test_mean_counts_are_rounded():
    table = pd.DataFrame({"notes": [3, 4, 4], "F1": [0.0, 0.5, 1.0]}, index=pd.Index(["a", "b", "c"], name="Filename"))
    assert format_table("ANALYSIS", with_averages(table, OperatingPoint(0.5, 0.0))).splitlines() == [
        "ANALYSIS",
        "Filename               notes       F1",
        "a                          3 0.000000",
        "b                          4 0.500000",
        "c                          4 1.000000",
        "AVERAGES (t=0.5, s=0)      4 0.500000",
    ]


def test_csv_files_hold_the_tables(scores, tmp_path):
    found = pd.DataFrame({"threshold": [0.7], "shift": [-0.01]})
    write_tables(tmp_path, onsets=with_averages(onset_table(scores), OperatingPoint(0.77, -0.01)), search=found)
    onsets = pd.read_csv(tmp_path / "onsets.csv")
    assert list(onsets.columns) == ["Filename", "P", "R", "F1"]
    assert onsets["Filename"].tolist() == ["first=1,(a)", "b", "AVERAGES (t=0.77, s=-0.01)"]
    assert onsets["R"].tolist() == [0.5, 1.0, 0.75]
    assert (tmp_path / "search.csv").read_text() == "threshold,shift\n0.7,-0.01\n"


def test_event_files_contain_events_above_the_threshold_sorted_by_time(tmp_path):
    events = pd.DataFrame(
        [(1.2, 60, 63.5, 0.8), (0.0, 60, 20.0, 0.9), (0.024, 72, 100.25, 0.77), (0.5, 80, 50.0, 0.76)],
        columns=EVENT_COLUMNS,
    )
    write_events(tmp_path, ["a piece (1)"], [events], OperatingPoint(0.77, -0.01))
    assert (tmp_path / "events" / "a piece (1).csv").read_text().splitlines() == [
        "onset_secs,note,velocity,prob",
        "0.000000,60,20.000000,0.900000",
        "0.014000,72,100.250000,0.770000",
        "1.190000,60,63.500000,0.800000",
    ]


def test_config_file_is_yaml_with_the_results(tmp_path):
    write_config(tmp_path, "DEVICE: cpu\nSEARCH_SHIFTS:\n- -0.01", commit="abc123+", threshold=np.float64(0.775))
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config == {"DEVICE": "cpu", "SEARCH_SHIFTS": [-0.01], "commit": "abc123+", "threshold": 0.775}


def test_unfinished_reports_of_killed_runs_are_deleted(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    begun = partial_path(new_report_path(tmp_path), ended.pid)
    begun.mkdir(parents=True)
    path = new_report_path(tmp_path)
    with atomic_folder(path):
        pass
    assert list((tmp_path / "eval").iterdir()) == [path]


def test_analysis_equals_a_hand_worked_example():
    """Ten notes; nine are detected 60 ms late (outside the tolerance) with correct velocities."""
    velocities = [20, 40, 60, 80, 100, 120, 20, 40, 60, 80]
    reference = np.array([(second, second + 1, 60, velocity) for second, velocity in enumerate(velocities)], float)
    rows = [(onset + 0.07, note, velocity, 0.9) for onset, _, note, velocity in reference[:9]]
    events = pd.DataFrame([*rows, (9.0, 60, 80, 0.1)], columns=EVENT_COLUMNS)
    (row,) = analyse(["a"], [reference], [events], OperatingPoint(0.5, -0.01)).to_dict("records")
    assert row["notes"] == 10
    assert row["events"] == 9
    assert row["offset_secs"] == pytest.approx(0.06)
    assert (row["P_aligned"], row["R_aligned"]) == pytest.approx((1, 0.9))
    assert row["F1_aligned"] == pytest.approx(18 / 19)
    assert row["F1_constant_velocity"] == 0


def test_constant_velocities_score_the_baseline():
    """Velocities 0, 45, 50, 55, 100 -> mean 0.5: the middle three are within 0.1 of it, whatever is detected."""
    reference = np.array([(second, second + 1, 60, vel) for second, vel in enumerate((0, 45, 50, 55, 100))], float)
    events = pd.DataFrame(reference[:, [0, 2, 3, 0]], columns=EVENT_COLUMNS).assign(prob=1.0)
    (row,) = analyse(["a"], [reference], [events], OperatingPoint(0.5, 0.0)).to_dict("records")
    assert row["F1_constant_velocity"] == pytest.approx(0.6)


def test_without_pairs_there_is_no_offset():
    reference = np.array([(1, 2, 60, 64)], float)
    assert np.isnan(median_offset(reference, np.empty((0, 3)), 0.1))
    assert np.isnan(median_offset(reference, np.array([(5.0, 60, 64)]), 0.1))
    empty = pd.DataFrame(columns=EVENT_COLUMNS, dtype=float)
    (row,) = analyse(["a"], [reference], [empty], OperatingPoint(0.5, 0.0)).to_dict("records")
    assert (row["events"], row["F1_constant_velocity"], row["F1_aligned"]) == (0, 0, 0)
