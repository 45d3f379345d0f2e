"""Plots of training and evaluation: they show the logged and scored values."""

import itertools
import json
import logging
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.image import imread

from ov_piano.evaluation.scoring import score
from ov_piano.evaluation.search import ONSET_COLUMNS, VELOCITY_COLUMNS
from ov_piano.plots.evaluation import draw_recordings, draw_search, notable_recordings, search_figure
from ov_piano.plots.learning_curve import History, LearningCurve, draw, smoothed, smoothing_window, thinned
from ov_piano.plots.recording import OUTCOMES, Transcribed, outcomes, page_count, pages
from ov_piano.plots.style import mel, new_figure, note_range, save, set_mel_axis, set_note_axis, velocity_range
from ov_piano.settings import OperatingPoint, Tolerances


def step_record(step: int, onset_loss: float) -> dict:
    """A step's record like script 1's; the other values derive from these two."""
    losses = {"onset_loss": onset_loss, "velocity_loss": onset_loss / 10}
    return {"time": 0.0, "step": step, "epoch": 0, **losses, "lr": 6 / step, "secs": 1.0, "cycle_ends": False}


def xv_record(step: int, f1: float) -> dict:
    scores = {"onset_threshold": 0.7, "P": 1.0, "R": f1, "F1": f1, "velocity_threshold": 0.6, "F1_velocities": f1 / 2}
    return {"time": 0.0, "step": step, "xv": scores, "xv_secs": 1.0}


def write_log(output, name: str, records: list, end: str = "") -> None:
    folder = output / "txt_logs"
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.jsonl").open("a") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records) + end)


def read(output) -> History:
    history = History(output / "txt_logs")
    history.read_on()
    return history


def test_a_resumed_run_replaces_the_steps_it_repeats(tmp_path):
    first = [step_record(s, s / 10) for s in (1, 2)] + [xv_record(2, 0.5)]
    lost = [step_record(3, 0.3), step_record(4, 0.4), xv_record(4, 0.9)]
    write_log(tmp_path, "2026_01_01", first + lost, end='{"time": 0.0, "step": 5, "onset_lo')
    write_log(tmp_path, "2026_01_02", [step_record(3, 0.7), step_record(4, 0.8), step_record(5, 0.9)])
    history = read(tmp_path)
    assert list(history.steps["step"]) == [1, 2, 3, 4, 5]
    assert list(history.steps["onset_loss"]) == [0.1, 0.2, 0.7, 0.8, 0.9]
    assert list(history.steps["velocity_loss"]) == pytest.approx([0.01, 0.02, 0.07, 0.08, 0.09])
    assert list(history.steps["lr"]) == [6, 3, 2, 1.5, 1.2]
    scores = {"step": [2], "F1": [0.5], "F1_velocities": [0.25], "F1_offsets": [np.nan]}  # nan: not in the logs
    assert {name: list(column) for name, column in history.scores.items()} == {
        name: pytest.approx(column, nan_ok=True) for name, column in scores.items()
    }


def test_a_run_from_scratch_in_the_same_folder_starts_the_curve_anew(tmp_path):
    write_log(tmp_path, "2026_01_01", [step_record(s, 1.0) for s in range(1, 9)] + [xv_record(8, 0.5)])
    write_log(tmp_path, "2026_01_02", [step_record(1, 2.0)])
    history = read(tmp_path)
    assert list(history.steps["onset_loss"]) == [2.0]
    assert list(history.scores["step"]) == []


def test_each_complete_log_line_is_read_once(tmp_path):
    whole, half = step_record(1, 0.5), json.dumps(step_record(2, 0.4))
    write_log(tmp_path, "2026", [whole], end=half[:30])
    history = read(tmp_path)
    assert list(history.steps["step"]) == [1]
    with (tmp_path / "txt_logs" / "2026.jsonl").open("a") as file:
        file.write(half[30:] + "\n")
    for _ in range(2):
        history.read_on()
        assert list(history.steps["onset_loss"]) == [0.5, 0.4]


def test_smoothing_equals_a_hand_worked_example_and_a_loop():
    assert smoothed(np.array([1.0, 2, 6, 4]), 3).tolist() == [1.5, 3, 4, 5]
    values = np.random.default_rng(0).normal(size=50)
    slow = [np.mean(values[max(0, i - 4) : i + 5]) for i in range(50)]
    np.testing.assert_allclose(smoothed(values, 9), slow, atol=1e-12)
    assert [smoothing_window(n) for n in (1, 3, 40, 100, 2000, 60_000)] == [1, 1, 11, 25, 25, 601]


def test_thinning_keeps_the_outline():
    steps, values = np.arange(1.0, 10_001), np.random.default_rng(1).normal(size=10_000)
    places, outline = thinned(steps, values, most=100)
    assert len(places) == len(outline) == 100
    assert (places[::2] == steps[::200]).all()
    assert (outline[::2] == values.reshape(50, 200).min(axis=1)).all()
    assert (outline[1::2] == values.reshape(50, 200).max(axis=1)).all()
    few = thinned(steps[:100], values[:100], most=100)
    assert (few[0] == steps[:100]).all()
    assert (few[1] == values[:100]).all()


def test_the_velocity_loss_is_drawn_above_its_floor_if_every_step_has_one(tmp_path):
    records = [step_record(s, 1 / s) | {"velocity_loss_floor": 0.04 / s} for s in range(1, 21)]
    for folder, logged in (("new", records), ("old", [step_record(1, 1.0), *records[1:]])):
        (tmp_path / folder).mkdir()
        write_log(tmp_path / folder, "2026", logged)
    drawn = {}
    for folder in ("new", "old"):
        losses = draw(read(tmp_path / folder)).axes[0]
        drawn[folder] = losses.lines[2].get_ydata()
        assert ("entropy" in losses.get_legend().get_texts()[1].get_text()) == (folder == "new")
    np.testing.assert_allclose(drawn["new"], [0.06 / s for s in range(1, 21)])
    np.testing.assert_allclose(drawn["old"], [0.1 / s for s in range(1, 21)])


def test_markers_at_the_ends_of_the_axes_are_drawn_whole(tmp_path):
    write_log(tmp_path, "2026", [step_record(1, 0.5), step_record(2, 0.4), xv_record(2, 1.0)])
    scores = draw(read(tmp_path)).axes[2]
    assert scores.get_xlim() == (0, 2)
    assert not any(line.get_clip_on() for line in scores.lines)


def test_a_loss_of_zero_leaves_a_gap(tmp_path):
    records = [step_record(s, 1 / s) for s in range(1, 21)]
    records[6]["velocity_loss"] = 0.0  # no onset in the batch
    write_log(tmp_path, "2026", records)
    raw, mean = draw(read(tmp_path)).axes[0].lines[2:4]
    assert np.flatnonzero(np.isnan(raw.get_ydata())).tolist() == [6]
    assert np.isfinite(mean.get_ydata()).all()


def test_the_curves_are_the_logged_numbers(tmp_path):
    records = [step_record(s, 1 / s) for s in range(1, 21)]
    write_log(tmp_path, "2026", [*records[:10], xv_record(10, 0.8), *records[10:], xv_record(20, 0.6)])
    losses, rate, scores = draw(read(tmp_path)).axes
    raw, mean = losses.lines[0], losses.lines[1]
    np.testing.assert_allclose(raw.get_xydata(), [(s, 1 / s) for s in range(1, 21)])
    np.testing.assert_allclose(mean.get_ydata(), smoothed(np.array([1 / s for s in range(1, 21)]), 5))
    np.testing.assert_allclose(rate.lines[0].get_xydata(), [(s, 6 / s) for s in range(1, 21)])
    np.testing.assert_allclose(scores.lines[0].get_xydata(), [(10, 0.8), (20, 0.6)])
    np.testing.assert_allclose(scores.lines[1].get_xydata(), [(10, 0.4), (20, 0.3)])
    named = [text.get_text() for text in scores.get_legend().get_texts()]
    assert named == ["onsets: best 0.8000 at step 10", "+ velocities: best 0.4000 at step 10"]
    assert (losses.get_ylabel(), losses.get_yscale()) == ("loss", "log")
    assert (rate.get_ylabel(), scores.get_ylabel(), scores.get_xlabel()) == (
        "learning rate",
        "cross-validation F1",
        "step",
    )


def test_training_of_note_ends_has_curves_of_its_own(tmp_path):
    """The network's losses are not computed; the onset F1 stays as it is."""
    steps = [{"step": s, "end_loss": 2 / s, "lr": 0.006} for s in range(1, 21)]
    validation = {"step": 20, "xv": xv_record(20, 0.9)["xv"] | {"F1_offsets": 0.6}}
    write_log(tmp_path, "2026", [*steps, validation])
    losses, _, scores = draw(read(tmp_path)).axes
    raw, mean = losses.lines
    assert mean.get_label() == "note ends"
    np.testing.assert_allclose(raw.get_xydata(), [(s, 2 / s) for s in range(1, 21)])
    assert [line.get_label() for line in scores.lines] == [
        "onsets: best 0.9000 at step 20",
        "+ velocities: best 0.4500 at step 20",
        "+ offsets: best 0.6000 at step 20",
    ]


def test_the_plot_is_refreshed_atomically_and_at_the_end(tmp_path):
    write_log(tmp_path, "2026", [step_record(1, 0.5)])
    with LearningCurve(tmp_path) as curve:
        curve.refresh()
        early = curve.path.read_bytes()
        write_log(tmp_path, "2026", [step_record(2, 0.4), xv_record(2, 0.3)])
    assert imread(curve.path).shape == (900, 900, 4)
    assert curve.path.read_bytes() != early
    assert sorted(path.name for path in tmp_path.iterdir()) == ["learning_curve.png", "txt_logs"]
    assert not Gcf.figs


def test_no_plot_without_steps_or_in_other_processes(tmp_path):
    write_log(tmp_path, "2026", [])
    LearningCurve(tmp_path).refresh()
    write_log(tmp_path, "2026", [step_record(1, 0.5)])
    LearningCurve(tmp_path, writer=False).refresh()
    assert [path.name for path in tmp_path.iterdir()] == ["txt_logs"]


@pytest.mark.parametrize("trouble", ["folder in the way", "broken log"])
def test_training_survives_a_picture_that_cannot_be_drawn(tmp_path, caplog, trouble):
    write_log(tmp_path, "2026", [step_record(1, 0.5)], end="no JSON\n" if trouble == "broken log" else "")
    curve = LearningCurve(tmp_path)
    if trouble == "folder in the way":
        curve.path.mkdir()
    with caplog.at_level(logging.WARNING, logger="ov_piano"):
        curve.refresh()
    assert [record.message.split(" not drawn: ")[0] for record in caplog.records] == [str(curve.path)]
    assert not list(tmp_path.glob(".*"))


def test_a_failed_save_leaves_the_earlier_picture(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    figure = new_figure(2, 1)
    save(figure, path)
    before = path.read_bytes()

    def disk_full(partial, **_):
        partial.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", disk_full)
    with pytest.raises(OSError, match="disk full"):
        save(figure, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_axes_label_notes_and_frequencies():
    axes = new_figure(2, 2).subplots()
    set_note_axis(axes, 58, 73)
    assert (list(axes.get_yticks()), [t.get_text() for t in axes.get_yticklabels()]) == ([60, 72], ["C4", "C5"])
    assert axes.get_ylim() == (57.5, 73.5)
    set_mel_axis(axes)
    assert mel(1000) == pytest.approx(999.9856, abs=1e-3)  # 1000 Hz are 1000 mel
    assert mel(1000) in axes.get_yticks()
    assert axes.get_ylabel() == "frequency (Hz)"


# A4 is hit five times, with true velocities of 1, 0.5, 0, 1, 0.5 of their range. The least-squares line through
# the detected ones is 0.114 + 0.00838 v, off by 0.05, 0.12, 0.28, 0.05 and, where 10 was detected, 0.30.
# D4 is struck 60 ms before it is detected, B flat 4 never.
REFERENCE = np.array(
    [[1.0, 2, 69, 100], [2.0, 3, 69, 60], [3.0, 4, 69, 20], [4.0, 5, 69, 100], [4.5, 5, 69, 60], [5.0, 6, 62, 60]]
)
ESTIMATE = np.array(
    [[1.01, 69, 100], [1.99, 69, 60], [3.05, 69, 20], [4.0, 69, 100], [4.5, 69, 10], [5.06, 62, 60], [1.0, 70, 50]]
)
EMPTY = np.empty((0, 4)), np.empty((0, 3))


def test_outcomes_equal_a_hand_worked_example():
    found = outcomes(REFERENCE, ESTIMATE, Tolerances(0.05, 0.29))
    assert list(found) == list(OUTCOMES)
    assert found["hit"].tolist() == [[1.01, 69], [1.99, 69], [3.05, 69], [4.0, 69]]
    assert found["hit, velocity off"].tolist() == [[4.5, 69]]
    assert found["missed"].tolist() == [[5.0, 62]]
    assert found["false"].tolist() == [[5.06, 62], [1.0, 70]]


@pytest.mark.parametrize(("references", "estimates"), [(0, 0), (5, 0), (0, 5), (300, 350)])
def test_outcomes_add_up_to_the_scores(references, estimates):
    rng = np.random.default_rng(references + estimates)
    onsets, notes = np.sort(rng.uniform(0, 20, references)), rng.integers(60, 66, references)
    reference = np.column_stack([onsets, onsets + 1, notes, rng.integers(1, 128, references)])
    estimate = np.column_stack([rng.uniform(0, 20, estimates), *rng.integers(60, 66, (2, estimates))])
    estimate[:references, :2] = reference[:estimates, [0, 2]] + rng.normal(
        0, [0.03, 0], (min(estimate.shape[0], references), 2)
    )
    estimate = np.maximum(estimate, 0)
    found = {name: len(rows) for name, rows in outcomes(reference, estimate, Tolerances()).items()}
    expected, hits = score(reference, estimate), found["hit"] + found["hit, velocity off"]
    assert hits + found["missed"] == references
    assert hits + found["false"] == estimates
    assert expected.onsets[:2] == pytest.approx((hits / max(1, estimates), hits / max(1, references)))
    assert expected.onsets_velocities.recall == pytest.approx(found["hit"] / max(1, references))
    assert not references * estimates or min(found.values()) > 15


def recording(seconds: float, reference=REFERENCE, estimate=ESTIMATE) -> Transcribed:
    """Random maps of 24 ms frames."""
    rng, frames = np.random.default_rng(0), round(seconds / 0.024)
    maps = rng.normal(-20, 5, (250, frames)), rng.uniform(size=(88, frames)), rng.uniform(size=(88, frames))
    return Transcribed(*maps, np.asarray(reference), np.asarray(estimate), 0.024)


def panels(figure) -> list[list]:
    """Log-mel, onsets, velocities and events of each row."""
    return [[axes for axes in part.axes if axes.get_label() != "<colorbar>"] for part in figure.subfigs]


@pytest.mark.parametrize(
    ("seconds", "rows_of_pages"), [(0.024, [1]), (20, [1]), (30.5, [2]), (120, [4]), (121, [4, 1]), (1200, [4] * 10)]
)
def test_recordings_are_split_into_rows_and_pages(seconds, rows_of_pages, monkeypatch):
    drawn = []
    monkeypatch.setattr("ov_piano.plots.recording._draw_row", lambda *args: drawn.append(args[-2:]))
    transcribed = recording(seconds, *EMPTY)
    figures = list(pages(transcribed, "title"))
    assert [len(figure.subfigs) for figure in figures] == rows_of_pages
    assert len(figures) == page_count(transcribed)
    assert [tuple(figure.get_size_inches()) for figure in figures] == [(16, 1 + 8 * rows) for rows in rows_of_pages]
    ends = [end for _, end in drawn]
    np.testing.assert_allclose([begin for begin, _ in drawn], [0, *ends[:-1]])
    assert ends[-1] == pytest.approx(max(1, transcribed.seconds))
    assert max(np.diff([0, *ends])) <= 30 + 1e-9


def test_dollar_signs_of_a_file_name_are_drawn_as_they_are():
    (figure,) = pages(recording(2), "Ke$ha_ _$.wav")
    figure.canvas.draw()


def test_each_note_is_drawn_once_and_each_frame_at_its_time():
    late = [[onset, onset + 1, 60, 64] for onset in (0.0, 15.25, 15.5, 30.6)]  # the last one after the audio's end
    transcribed = recording(30.5, late, [[15.25, 60, 64], [2.0, 64, 64]])
    (figure,) = pages(transcribed, "title")
    (row_1, row_2), expected = panels(figure), outcomes(transcribed.reference, transcribed.estimate, Tolerances())
    assert row_1[3].get_xlim()[1] == row_2[3].get_xlim()[0] == pytest.approx(30.624 / 2)
    for index, name in enumerate(OUTCOMES):
        drawn = [tuple(place) for row in (row_1, row_2) for place in row[3].collections[index].get_offsets()]
        assert sorted(drawn) == sorted(map(tuple, expected[name]))
    for axes, values in zip(
        row_1[:3], (transcribed.logmel, transcribed.onset_probs, 127 * transcribed.velocities), strict=True
    ):
        image = axes.images[0].get_array()
        frames = math.ceil(30.624 / 2 / 0.024) + 1
        np.testing.assert_allclose(np.ma.getdata(image), values[:, :frames])
        assert axes.images[0].get_extent()[:2] == pytest.approx([-0.012, (frames - 0.5) * 0.024])
    assert row_1[0].images[0].get_extent()[2:] == pytest.approx([mel(50), mel(8000)])
    assert row_1[1].images[0].get_extent()[2:] == [20.5, 108.5]
    assert (np.ma.getmaskarray(row_1[2].images[0].get_array()) == (transcribed.onset_probs[:, :frames] < 0.1)).all()
    assert row_1[3].get_ylim() == (55.5, 68.5)
    outlines = [row[3].collections[len(OUTCOMES)].get_paths() for row in (row_1, row_2)]
    assert [len(paths) for paths in outlines] == [2, 3]  # one note sounds in both rows
    assert outlines[0][0].get_extents().get_points() == pytest.approx(np.array([[0, 59.6], [1, 60.4]]))
    assert figure.get_suptitle() == "title\n1 hit; 0 hit, velocity off; 3 missed; 1 false"


def test_no_text_of_a_row_overlaps_another():
    (figure,) = pages(recording(20), "two lines of\ntitle")
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in [figure._suptitle, *panels(figure)[0][3].get_legend().get_texts()]]
    for axes in figure.subfigs[0].axes:
        labels = [axes.yaxis.label, axes.xaxis.label, *axes.get_yticklabels(), *axes.get_xticklabels()]
        low, high = sorted(axes.get_ylim())
        boxes += [
            text.get_window_extent()
            for text in labels
            if text.get_visible()
            and text.get_text()
            and (text not in axes.get_yticklabels() or low <= text.get_position()[1] <= high)
        ]
    for box, other in itertools.combinations(boxes, 2):
        assert not box.overlaps(other)


def test_notes_and_velocities_are_shown_on_the_range_of_the_data():
    assert note_range(np.array([40, 60, 65])) == (38, 67)
    assert note_range(np.array([22, 107])) == (21, 108)
    assert note_range(np.array([60])) == (54, 66)
    assert note_range(np.array([])) == (48, 72)
    assert velocity_range(np.array([40.0, 55, 97])) == (40, 97)
    assert velocity_range(np.array([64.0, 68])) == (56, 76)
    assert velocity_range(np.array([])) == (0, 127)
    transcribed = recording(2)
    transcribed.onset_probs[:] = 0.05
    transcribed.onset_probs[30, 5:8], transcribed.velocities[30, 5:8] = 0.9, (30 / 127, 50 / 127, 90 / 127)
    (figure,) = pages(transcribed, "title")
    assert panels(figure)[0][2].images[0].get_clim() == pytest.approx((30, 90))


def test_best_worst_and_median_without_repeats():
    assert notable_recordings(np.array([0.5])) == [(0, "best")]
    assert notable_recordings(np.array([0.5, 0.7])) == [(1, "best"), (0, "worst")]
    assert notable_recordings(np.array([0.9, 0.1, 0.5])) == [(0, "best"), (1, "worst"), (2, "median")]
    assert notable_recordings(np.array([0.4, 0.3, 0.2, 0.1])) == [(0, "best"), (3, "worst"), (2, "median")]
    assert notable_recordings(np.array([0.5, 0.5, 0.5])) == [(2, "best"), (0, "worst"), (1, "median")]


def test_only_the_drawn_recordings_are_transcribed_again(tmp_path, monkeypatch):
    monkeypatch.setattr("ov_piano.plots.recording.ROW_SECS", 4)
    monkeypatch.setattr("ov_piano.plots.recording.ROWS_A_PAGE", 1)
    values = [[0.5] * 6, [0.9] * 6, [0.6] * 6, [0.2] * 6, [0.3] * 6]
    scores = pd.DataFrame(values, list("abcde"), columns=ONSET_COLUMNS + VELOCITY_COLUMNS)
    asked = []

    def transcribed(index):
        asked.append(index)
        return recording(3, *EMPTY) if index else recording(5)

    paths = draw_recordings(tmp_path / "pictures", scores, transcribed, OperatingPoint(0.7, -0.01))
    assert asked == [1, 3, 0]
    assert [path.name for path in paths] == ["b.png", "d.png", "a_01.png", "a_02.png"]
    assert sorted(paths) == sorted((tmp_path / "pictures").iterdir())
    assert [imread(path).shape[:2] for path in paths] == [(900, 1600)] * 4


def found_table(thresholds, shifts) -> pd.DataFrame:
    rows = [(t, s, t, 1 - t, t - s, t / 2, 0.5 - t / 2, t / 3) for t, s in itertools.product(thresholds, shifts)]
    return pd.DataFrame(rows, columns=["threshold", "shift", *ONSET_COLUMNS, *VELOCITY_COLUMNS])


def test_the_search_is_drawn_through_the_chosen_point():
    figure = search_figure(found_table([0.8, 0.6, 0.7], [-0.01, 0.0]), OperatingPoint(0.7, -0.01))
    by_threshold, by_threshold_velocities, by_shift, _ = figure.axes
    chosen, *curves = by_threshold.lines
    assert chosen.get_xdata() == [0.7, 0.7]
    ys = ([0.6, 0.7, 0.8], [0.4, 0.3, 0.2], [0.61, 0.71, 0.81])
    for curve, y in zip(curves, ys, strict=True):
        np.testing.assert_allclose(curve.get_xydata(), np.column_stack([[0.6, 0.7, 0.8], y]))
    np.testing.assert_allclose(by_threshold_velocities.lines[3].get_ydata(), [0.2, 0.7 / 3, 0.8 / 3])
    np.testing.assert_allclose(by_shift.lines[3].get_xydata(), [(-0.01, 0.71), (0.0, 0.7)])
    assert by_threshold.get_title() == "onsets at shift -0.01 s"
    assert by_shift.get_title() == "onsets at threshold 0.7"
    assert by_shift.get_xlabel() == "shift added to onsets (s)"
    labels = [text.get_text() for text in by_threshold.get_legend().get_texts()]
    assert labels == ["chosen: 0.7", "precision: 0.7000 there", "recall: 0.3000 there", "F1: 0.7100 there"]


def test_search_plot_has_a_row_per_varied_setting(tmp_path):
    thresholds = search_figure(found_table([0.7, 0.8], [0.0]), OperatingPoint(0.7, 0.0)).axes
    shifts = search_figure(found_table([0.7], [0.0, 0.1]), OperatingPoint(0.7, 0.1)).axes
    assert [axes.get_xlabel().split()[0] for axes in (*thresholds, *shifts)] == ["threshold"] * 2 + ["shift"] * 2
    single = pd.DataFrame({"threshold": [0.77], "shift": [-0.01]})
    draw_search(single, OperatingPoint(0.77, -0.01), tmp_path / "search.png")
    assert not (tmp_path / "search.png").exists()
    draw_search(found_table([0.7, 0.8], [0.0]), OperatingPoint(0.7, 0.0), tmp_path / "search.png")
    assert imread(tmp_path / "search.png").shape[:2] == (450, 1100)
