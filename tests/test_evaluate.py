"""From recordings to event tables, and script 2 as a user runs it."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from ov_piano.cli import run
from ov_piano.constants import FRAME_SECS, KEY_ROWS, KEYS, MELS, ROLL_ROWS
from ov_piano.data import maestro, maps
from ov_piano.data.hdf5 import MelName, RollName, StoreWriter
from ov_piano.data.recording import Recording
from ov_piano.errors import InputError
from ov_piano.evaluation.evaluate import transcribe_dataset
from ov_piano.evaluation.ground_truth import load_ground_truth
from ov_piano.evaluation.scoring import score
from ov_piano.evaluation.search import as_notes
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.sidecar import read_sidecar, write_operating_point
from ov_piano.model.snapshot import save_snapshot
from ov_piano.settings import Chunking, OperatingPoint
from ov_piano.transcription.decoder import Decoder
from tests.scripts import accepted, load_script, run_script

SCRIPT = "2_eval_onsets_velocities.py"


class Recordings(list):
    """A dataset of (log-mel, roll, metadata) with 24 ms frames."""

    pair = SimpleNamespace(frame_secs=FRAME_SECS)


def infer_from_mels(logmel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A network whose onset logits are the first 88 mels, and whose velocity logits are 0."""
    onsets = logmel[:, :KEYS, 1:]
    return onsets, torch.zeros_like(onsets)


def transcribe(recordings: list, threshold: float = 0.3, chunk: float = 4.8, overlap: float = 0.96) -> list:
    return transcribe_dataset(
        infer_from_mels, Decoder(), Recordings(recordings), threshold, chunking=Chunking.from_secs(chunk, overlap)
    )


@pytest.mark.parametrize("chunk_secs", [0.48, 100])
def test_peaks_become_events_in_seconds_notes_and_midi_velocities(chunk_secs):
    logmel = torch.full((MELS, 500), -10.0)
    for key, frame in ((0, 100), (87, 37), (87, 400)):
        logmel[key, frame] = 10
    (events,) = transcribe([(logmel, None, ())], chunk=chunk_secs, overlap=0.24)
    assert list(events.columns) == ["onset_secs", "note", "velocity", "prob"]
    assert events["onset_secs"].tolist() == pytest.approx([37 * 0.024, 100 * 0.024, 400 * 0.024])
    assert events["note"].tolist() == [108, 21, 108]
    assert events["velocity"].tolist() == pytest.approx([63.5] * 3)
    assert events["prob"].tolist() == pytest.approx([0.399] * 3, abs=0.001)  # the blur's highest weight


def test_recordings_keep_their_order_and_may_have_no_events():
    loud, silent = torch.full((MELS, 60), -10.0), torch.full((MELS, 60), -10.0)
    loud[5, 30] = 10
    tables = transcribe([(silent, None, ()), (loud, None, ()), (silent[:, :1], None, ())])
    assert [len(table) for table in tables] == [0, 1, 0]


def test_an_overlap_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="overlap"):
        transcribe([(torch.zeros(MELS, 60), None, ())], chunk=1, overlap=2)


def test_an_onset_in_every_other_frame_can_be_scored():
    """300,000 events, the worst case of an untrained network."""
    logmel = torch.full((MELS, 6830), -10.0)
    logmel[:, ::2] = 10
    (events,) = transcribe([(logmel, None, ())], threshold=0.0, chunk=60)
    assert len(events) > 300_000
    reference = np.array([(second, second + 1, 60, 64) for second in range(1, 160)], dtype=float)
    assert score(reference, as_notes(events)).onsets.recall == 1


def write_case(folder: Path, dataset: str, recordings: list[Recording]) -> dict[str, str]:
    """Settings of script 2 for random weights and stores whose log-mels show the onsets."""
    mel_path = folder / str(MelName(dataset))
    roll_path = folder / str(RollName(dataset, FRAME_SECS, True))
    rng = np.random.default_rng(0)
    with StoreWriter(mel_path, MELS, 333) as mels, StoreWriter(roll_path, ROLL_ROWS, 333) as rolls:
        for recording in recordings:
            roll = np.zeros((ROLL_ROWS, 250), np.float32)
            for onset, _, note, velocity in load_ground_truth(recording.midi_path):
                roll[int(note), int(onset / FRAME_SECS)] = velocity
            mel = rng.normal(-60, 5, (MELS, 250)).astype(np.float32)
            mel[:KEYS] += 40 * (roll[KEY_ROWS] > 0)
            mels.append(mel, recording.metadata)
            rolls.append(roll, recording.metadata)
    snapshot_path = folder / "Random(1)step=0_f1=0.0000.torch"
    torch.manual_seed(0)
    save_snapshot(OnsetVelocityNet(), snapshot_path)
    paths = {"HDF5_MEL_PATH": mel_path, "HDF5_ROLL_PATH": roll_path, "SNAPSHOT_INPATH": snapshot_path}
    return {"DEVICE": "cpu"} | {key: str(path) for key, path in paths.items()}


@pytest.fixture(scope="module")
def maestro_case(toy_maestro, tmp_path_factory) -> dict[str, str]:
    """Settings of script 2 for the toy MAESTRO."""
    case = write_case(tmp_path_factory.mktemp("case"), "MAESTROv3", maestro.load_recordings(toy_maestro, 3))
    return case | {"MAESTRO_PATH": str(toy_maestro)}


def refusal(settings: dict[str, str], capsys: pytest.CaptureFixture) -> str:
    """Run the script in this process and return its one-line error."""
    script = load_script(SCRIPT)
    with pytest.raises(SystemExit) as ended:
        run(script.main, script.ConfDef, [f"{key}={value}" for key, value in settings.items()])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_script_searches_tests_and_writes_what_it_prints(maestro_case, tmp_path):
    search = {"SEARCH_THRESHOLDS": "[0.35,0.3,0.4]", "SEARCH_SHIFTS": "[0,-0.01]", "XV_TAKE_ONE_EVERY": "2"}
    snapshot = shutil.copy(maestro_case["SNAPSHOT_INPATH"], tmp_path)
    settings = maestro_case | search | {"SNAPSHOT_INPATH": snapshot, "SAVE_OPERATING_POINT": "true"}
    done = run_script(SCRIPT, *(f"{key}={value}" for key, value in settings.items()), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "out" / "eval").iterdir()
    assert f"Written to out/eval/{folder.name}" in done.stdout

    found = pd.read_csv(folder / "search.csv")
    assert found[["threshold", "shift"]].to_numpy().tolist() == [[t, s] for t in (0.35, 0.3, 0.4) for s in (0, -0.01)]
    best = found.loc[found["F1"].idxmax()]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["threshold"], config["shift"]) == (best["threshold"], best["shift"])
    assert read_sidecar(snapshot).point == (best["threshold"], best["shift"])
    assert config["SEARCH_SHIFTS"] == [0, -0.01]
    assert config["commit"]

    references = {
        r.name: load_ground_truth(r.midi_path) for r in maestro.load_recordings(maestro_case["MAESTRO_PATH"], 3)
    }
    label = f"AVERAGES (t={best['threshold']:g}, s={best['shift']:g})"
    for measure, name in enumerate(("onsets", "onsets_velocities")):
        table = pd.read_csv(folder / f"{name}.csv")
        assert list(table.columns) == ["Filename", "P", "R", "F1"]
        assert table["Filename"].tolist() == [*(r for r in references if "_test_" in r), label]
        assert table.iloc[-1, 1:].tolist() == pytest.approx(table.iloc[:-1, 1:].mean().tolist())
        for row in table.iloc[:-1].itertuples(index=False):
            events = pd.read_csv(folder / "events" / f"{row.Filename}.csv")
            assert list(events.columns) == ["onset_secs", "note", "velocity", "prob"]
            assert events["prob"].min() >= best["threshold"]
            again = score(references[row.Filename], events[["onset_secs", "note", "velocity"]])[measure]
            assert row[1:] == pytest.approx(again, abs=1e-6)
            printed = rf"{re.escape(row.Filename)} +{row.P:.6f} +{row.R:.6f} +{row.F1:.6f}"
            assert re.search(printed, done.stdout.split(f"\n{name.upper().replace('_', '+')}\n")[1])


def test_another_operating_point_of_the_snapshot_is_named(maestro_case, tmp_path, caplog):
    snapshot = shutil.copy(maestro_case["SNAPSHOT_INPATH"], tmp_path)
    write_operating_point(snapshot, OperatingPoint(0.8, -0.02))
    for number, threshold in enumerate((0.3, 0.8)):
        changed = {"SNAPSHOT_INPATH": snapshot, "OUTPUT_DIR": tmp_path / str(number), "SEARCH_SHIFTS": "[-0.02]"}
        settings = maestro_case | changed | {"SEARCH_THRESHOLDS": f"[{threshold}]"}
        accepted(SCRIPT, *(f"{key}={value}" for key, value in settings.items()))
    (named,) = [line for line in caplog.messages if "operating point" in line]
    assert named.endswith("has another operating point of its own: threshold 0.8, shift -0.02 s")


def test_search_tie_chooses_the_most_accurate_shift(maestro_case, tmp_path, capsys):
    """With a tie of 1, all shifts count as equal, so the most accurate one is chosen."""
    search = {"SEARCH_THRESHOLDS": "[0.3]", "SEARCH_SHIFTS": "[5,-0.01,-5]", "SEARCH_TIE": "1"}
    settings = maestro_case | search | {"XV_TAKE_ONE_EVERY": "2", "OUTPUT_DIR": str(tmp_path)}
    script = load_script(SCRIPT)
    run(script.main, script.ConfDef, [f"{key}={value}" for key, value in settings.items()])
    printed = capsys.readouterr().out
    late_ms = float(re.search(r"Without a shift, onsets are (\S+) ms late; choosing a shift of -0.01 s", printed)[1])
    assert abs(late_ms) < 100  # within twice the tolerance
    (folder,) = (tmp_path / "eval").iterdir()
    assert yaml.safe_load((folder / "config.yaml").read_text())["shift"] == -0.01


def test_script_on_maps_with_one_threshold_and_shift(toy_maps, tmp_path, capsys):
    """The file names select MAPS; the Disklavier recordings are the test set; a single pair skips the search."""
    case = write_case(tmp_path, "MAPS", maps.load_recordings(toy_maps))
    settings = case | {"MAPS_PATH": str(toy_maps), "OUTPUT_DIR": str(tmp_path / "out"), "SEARCH_THRESHOLDS": "[0.3]"}
    script = load_script(SCRIPT)
    run(script.main, script.ConfDef, [f"{key}={value}" for key, value in settings.items()])
    assert "skipping the search on validation" in capsys.readouterr().out
    (folder,) = (tmp_path / "out" / "eval").iterdir()
    assert pd.read_csv(folder / "search.csv").to_dict("records") == [{"threshold": 0.3, "shift": -0.01}]
    names = ["MAPS_MUS-mz_331_2_ENSTDkCl", "MAPS_MUS-scn15_7_ENSTDkAm"]
    for table in ("onsets", "onsets_velocities", "analysis"):
        assert sorted(pd.read_csv(folder / f"{table}.csv")["Filename"][:-1]) == names
    assert sorted(path.stem for path in (folder / "events").iterdir()) == names


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["# of the church", "", "  MAPS_MUS-scn15_7_ENSTDkAm  "], ["MAPS_MUS-scn15_7_ENSTDkAm"]),
        (
            ["MAPS_MUS-scn15_7_ENSTDkAm", "MAPS_MUS-mz_331_2_ENSTDkCl", "MAPS_MUS-scn15_7_ENSTDkAm"],
            ["MAPS_MUS-mz_331_2_ENSTDkCl", "MAPS_MUS-scn15_7_ENSTDkAm"],
        ),
    ],
)
def test_only_listed_recordings_of_maps_are_tested(toy_maps, tmp_path, lines, expected):
    case = write_case(tmp_path, "MAPS", maps.load_recordings(toy_maps))
    listing = tmp_path / "listing.txt"
    listing.write_text("\n".join(lines), encoding="utf-8-sig")  # as some Windows editors save it
    settings = case | {"MAPS_PATH": toy_maps, "OUTPUT_DIR": tmp_path / "out", "TEST_RECORDINGS": listing}
    accepted(SCRIPT, *(f"{key}={value}" for key, value in settings.items()))
    (folder,) = (tmp_path / "out" / "eval").iterdir()
    assert sorted(pd.read_csv(folder / "onsets.csv")["Filename"][:-1]) == expected
    assert sorted(path.stem for path in (folder / "events").iterdir()) == expected


def test_only_listed_recordings_of_maestro_are_tested_and_their_scores_are_the_same(maestro_case, tmp_path):
    tables = []
    listing = tmp_path / "listing.txt"
    listing.write_text("MIDI-Unprocessed_test_1_wav--1\n")
    for number, extra in enumerate(({}, {"TEST_RECORDINGS": listing})):
        settings = maestro_case | {"OUTPUT_DIR": tmp_path / str(number), "SEARCH_THRESHOLDS": "[0.3]"} | extra
        accepted(SCRIPT, *(f"{key}={value}" for key, value in settings.items()))
        (path,) = (tmp_path / str(number) / "eval").glob("*/onsets.csv")
        tables.append(pd.read_csv(path, index_col="Filename"))
    every, listed = tables
    assert list(listed.index[:-1]) == ["MIDI-Unprocessed_test_1_wav--1"]
    assert len(every) == 3
    assert listed.iloc[0].tolist() == every.loc[listed.index[0]].tolist() == listed.iloc[-1].tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a text file with one recording per line"),
        (b"\xff\xfe\x00", "expected a text file with one recording per line"),
        (b"# nothing\n\n", "lists no recordings"),
        (b"MIDI-Unprocessed_test_7_wav--7\n", "lists MIDI-Unprocessed_test_7_wav--7: not in "),
        (b"zzz\nMIDI-Unprocessed_test_7_wav--7\n", "lists MIDI-Unprocessed_test_7_wav--7 and 1 more: not in "),
        (b"MIDI-Unprocessed_train_0_wav--0\n", "lists MIDI-Unprocessed_train_0_wav--0: belongs to another split of "),
    ],
)
def test_a_listing_that_cannot_be_used_is_one_line(maestro_case, tmp_path, capsys, content, message):
    listing = tmp_path / "listing.txt"
    if content is not None:
        listing.write_bytes(content)
    line = refusal(maestro_case | {"OUTPUT_DIR": tmp_path / "out", "TEST_RECORDINGS": listing}, capsys)
    assert line.startswith(f"error: {listing}: {message}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"SNAPSHOT_INPATH": "gone.torch"}, "gone.torch: snapshot not found"),
        ({"SEARCH_THRESHOLDS": "[0.5,1.5]"}, "SEARCH_THRESHOLDS=[0.5, 1.5]: expected one or more numbers from 0 to 1"),
        ({"SEARCH_THRESHOLDS": "[]"}, "SEARCH_THRESHOLDS=[]: expected one or more numbers from 0 to 1"),
        ({"SEARCH_SHIFTS": "[0,1.5]", "SAVE_OPERATING_POINT": "true"}, "expected SEARCH_SHIFTS below 1 s, up or down"),
        ({"SEARCH_SHIFTS": "[]"}, "SEARCH_SHIFTS=[]: expected one or more numbers of seconds"),
        ({"DECODER_GAUSS_KSIZE": "10"}, "DECODER_GAUSS_KSIZE=10: expected an odd number"),
        (
            {"INFERENCE_CHUNK_OVERLAP": "300"},
            "INFERENCE_CHUNK_OVERLAP=300: expected less than INFERENCE_CHUNK_SIZE=300",
        ),
        ({"MAESTRO_PATH": "nowhere"}, "nowhere: no such folder"),
        ({"MAESTRO_VERSION": "2"}, "MAESTRO_VERSION=2"),
    ],
)
def test_unusable_input_is_refused_in_one_line(maestro_case, tmp_path, capsys, settings, message):
    assert message in refusal(maestro_case | {"OUTPUT_DIR": str(tmp_path / "out")} | settings, capsys)
    assert not (tmp_path / "out").exists()


def test_script_needs_a_snapshot(maestro_case, capsys):
    settings = {key: value for key, value in maestro_case.items() if key != "SNAPSHOT_INPATH"}
    assert "SNAPSHOT_INPATH is required" in refusal(settings, capsys)


def test_script_needs_test_recordings(toy_maestro, maestro_case, tmp_path, capsys):
    """The stores contain only the training split."""
    paths = {}
    for key, name, height in (
        ("HDF5_MEL_PATH", MelName("MAESTROv3"), MELS),
        ("HDF5_ROLL_PATH", RollName("MAESTROv3", FRAME_SECS, True), ROLL_ROWS),
    ):
        paths[key] = str(tmp_path / str(name))
        with StoreWriter(paths[key], height, 333) as store:
            for recording in maestro.load_recordings(toy_maestro, 3, splits=["train"]):
                store.append(np.zeros((height, 10), np.float32), recording.metadata)
    assert "holds no test recordings (of 4 in all)" in refusal(maestro_case | paths, capsys)


def test_an_operating_point_that_cannot_be_saved_is_a_warning(tmp_path, caplog):
    evaluate = load_script("2_eval_onsets_velocities.py")
    (tmp_path / "folder").touch()  # nothing can be written into it
    evaluate.save_operating_point(tmp_path / "folder" / "x.torch", OperatingPoint(0.7, 0.0))
    assert "x.torch: operating point not saved: " in caplog.text
