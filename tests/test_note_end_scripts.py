"""Note ends from training to files: script 1 with TRAIN_ENDS, script 2 and the transcribe command."""

import json
import re
import shutil
from pathlib import Path

import mido
import numpy as np
import pandas as pd
import pytest
import torch

from ov_piano import StreamingTranscriber, Transcriber, transcribe
from ov_piano.cli import run
from ov_piano.errors import InputError
from ov_piano.model.ends import ends_path, load_ends
from ov_piano.model.networks import load_network
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.sidecar import OperatingPoint, write_operating_point
from ov_piano.model.snapshot import read_snapshot, save_snapshot
from ov_piano.training.state import TrainingState, saved_states
from tests.golden_weights import golden_state
from tests.scripts import MEL_NAME, ROLL_NAME, accepted, refused

TRAIN, EVALUATE = "1_train_onsets_velocities.py", "2_eval_onsets_velocities.py"
TINY = ("TRAIN_BS=2", "TRAIN_BATCH_SECS=1", "DATALOADER_WORKERS=0", "LR_PERIOD=4", "XV_THRESHOLDS=[0.3]")


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    """A network that hears something everywhere."""
    path = tmp_path_factory.mktemp("network") / "net_f1=0.9.torch"
    model = OnsetVelocityNet(init=False)
    model.load_state_dict(golden_state(model))
    save_snapshot(model, path)
    write_operating_point(path, OperatingPoint(0.3, -0.01))
    return path


@pytest.fixture(scope="module")
def data(toy_maestro, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    accepted("0a_maestro_to_hdf5mel.py", f"MAESTRO_INPATH={toy_maestro}", f"OUTPUT_DIR={folder}", "WORKERS=1")
    return (f"MAESTRO_PATH={toy_maestro}", f"HDF5_MEL_PATH={folder / MEL_NAME}", f"HDF5_ROLL_PATH={folder / ROLL_NAME}")


@pytest.fixture(scope="module")
def trained(data, snapshot, tmp_path_factory):
    """Output folder of four steps with a cross-validation after the second and the last."""
    folder = tmp_path_factory.mktemp("trained")
    args = (*data, *TINY, "TRAIN_ENDS=true", f"SNAPSHOT_INPATH={snapshot}", f"OUTPUT_DIR={folder}")
    accepted(TRAIN, *args, "MAX_STEPS=4", "XV_EVERY=2")
    return folder


def test_rolls_whose_notes_end_with_the_keys_are_refused(data, snapshot, tmp_path):
    *paths, roll = data
    copy = tmp_path / ROLL_NAME.replace("extendsus=True", "extendsus=False")
    shutil.copy(roll.split("=", 1)[1], copy)
    args = (*paths, f"HDF5_ROLL_PATH={copy}", *TINY, "TRAIN_ENDS=true", f"SNAPSHOT_INPATH={snapshot}")
    line = refused(TRAIN, *args, f"OUTPUT_DIR={tmp_path / 'out'}")
    assert f"{copy}: TRAIN_ENDS needs piano rolls made with MIDI_SUS_EXTEND=true" in line


def test_bfloat16_computes_the_end_stage(data, snapshot, tmp_path):
    args = (*data, *TINY, "TRAIN_ENDS=true", f"SNAPSHOT_INPATH={snapshot}", f"OUTPUT_DIR={tmp_path}")
    accepted(TRAIN, *args, "MAX_STEPS=1", "XV_EVERY=100", "BF16=true")
    assert trained_ends(tmp_path, 1).is_file()


def trained_ends(folder: Path, step: int) -> Path:
    (path,) = (folder / "model_snapshots").glob(f"*step={step}_f1=*.ends.torch")
    return path


def test_training_saves_the_stage_alone_named_after_its_score(trained, snapshot):
    files = sorted(path.name for path in (trained / "model_snapshots").glob("*.torch"))
    assert len(files) == 2
    assert all(re.fullmatch(r"OnsetVelocityNet_.*step=[24]_f1=0\.\d{4}\.ends\.torch", name) for name in files)
    network = load_network(snapshot)
    load_ends(trained_ends(trained, 4), network)
    state = TrainingState.load(saved_states(trained / "training_states")[-1])
    before = read_snapshot(snapshot)
    assert all(torch.equal(state.model[name], tensor) for name, tensor in before.items())
    assert {name.split(".")[0] for name in state.model.keys() - before.keys()} == {"end_stage"}
    (log,) = (trained / "txt_logs").glob("*.jsonl")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [0 < r["end_loss"] < 9 for r in records if "lr" in r] == [True] * 4
    assert [0 <= r["xv"]["F1_offsets"] <= r["xv"]["F1"] for r in records if "xv" in r] == [True] * 2


def test_a_resumed_run_ends_with_the_same_stage(data, trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained / "training_states", folder / "training_states")
    for path in saved_states(folder / "training_states"):
        if TrainingState.load(path).step > 2:
            path.unlink()
    args = (*data, *TINY, "TRAIN_ENDS=true", "SNAPSHOT_INPATH=gone.torch", f"OUTPUT_DIR={folder}", "RESUME=auto")
    accepted(TRAIN, *args, "MAX_STEPS=4", "XV_EVERY=2")
    expected, found = (read_snapshot(trained_ends(run, 4)) for run in (trained, folder))
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_impossible_settings_are_refused_in_one_line(data, snapshot, tmp_path):
    out = f"OUTPUT_DIR={tmp_path}"
    assert "expected SNAPSHOT_INPATH" in refused(TRAIN, *data, "TRAIN_ENDS=true", out)
    frozen = refused(TRAIN, *data, "TRAIN_ENDS=true", "TRAINABLE_ONSETS=false", f"SNAPSHOT_INPATH={snapshot}", out)
    assert "expected TRAINABLE_ONSETS=true" in frozen


def test_evaluation_has_two_more_tables_with_note_ends_and_is_as_before_without(data, snapshot, trained, tmp_path):
    args = (*data, f"SNAPSHOT_INPATH={snapshot}", "SEARCH_THRESHOLDS=[0.3]", "SEARCH_SHIFTS=[-0.01]")
    ends = f"ENDS_INPATH={trained_ends(trained, 4)}"
    printed = {}
    for name, more in (("without", ()), ("with", (ends,))):
        printed[name] = accepted(EVALUATE, *args, *more, f"OUTPUT_DIR={tmp_path / name}")
    titles = re.findall(r"^[A-Z+]+$", printed["with"], re.MULTILINE)
    assert titles == ["ONSETS", "ONSETS+VELOCITIES", "ONSETS+OFFSETS", "FRAMES", "ANALYSIS"]
    first, second = (printed[name].index("\nONSETS\n") for name in ("with", "without"))
    before_ends = printed["with"][first : printed["with"].index("ONSETS+OFFSETS")]
    assert printed["without"][second:].startswith(before_ends)
    tables = {}
    for name in printed:
        (folder,) = (tmp_path / name / "eval").iterdir()
        tables[name] = {path.name: path.read_text() for path in sorted(folder.rglob("*.csv"))}
    assert tables["with"].keys() - tables["without"].keys() == {"onsets_offsets.csv", "frames.csv"}
    for name in ("onsets.csv", "onsets_velocities.csv", "analysis.csv"):
        assert tables["with"][name] == tables["without"][name]
    offsets = pd.read_csv(next((tmp_path / "with").rglob("onsets_offsets.csv")))
    onsets = pd.read_csv(next((tmp_path / "with").rglob("onsets.csv")))
    assert list(offsets.columns) == ["Filename", "P", "R", "F1"]
    assert (offsets["F1"] <= onsets["F1"]).all()
    events = pd.read_csv(next((tmp_path / "with").rglob("events/*.csv")))
    assert list(events.columns) == ["onset_secs", "offset_secs", "note", "velocity", "prob"]
    assert (events["offset_secs"] > events["onset_secs"]).all()


def test_transcribe_writes_the_lengths_to_csv_and_midi(snapshot, trained, toy_maestro, tmp_path):
    audio = sorted(toy_maestro.rglob("*.wav"))[0]
    network = shutil.copy(snapshot, tmp_path / "net.torch")
    shutil.copy(snapshot.with_suffix(".yaml"), tmp_path / "net.yaml")
    args = [str(audio), f"SNAPSHOT_INPATH={network}"]
    run(transcribe.main, transcribe.ConfDef, [*args, f"OUT={tmp_path / 'before'}"])
    shutil.copy(trained_ends(trained, 4), ends_path(network))
    run(transcribe.main, transcribe.ConfDef, [*args, f"OUT={tmp_path / 'after'}", "PLOT=true"])
    before, after = (pd.read_csv(tmp_path / name / f"{audio.stem}.csv") for name in ("before", "after"))
    assert list(before.columns) == ["onset_secs", "note", "velocity", "prob"]
    pd.testing.assert_frame_equal(after.drop(columns="offset_secs"), before)
    assert len(after) > 10
    ends = after.sort_values(["note", "onset_secs"])
    same_key = ends["note"].diff().shift(-1) == 0
    assert (ends["offset_secs"][same_key] <= ends["onset_secs"].shift(-1)[same_key] + 1e-6).all()
    now, down, notes = 0.0, {}, {}
    for message in mido.MidiFile(tmp_path / "after" / f"{audio.stem}.mid"):
        now += message.time
        if message.type == "note_on":
            down[message.note] = now
        elif message.type == "note_off":
            notes.setdefault(message.note, []).append((down.pop(message.note), now))
    for note, rows in after.groupby("note"):
        times = rows.sort_values("onset_secs")[["onset_secs", "offset_secs"]].to_numpy()
        np.testing.assert_allclose(notes[note], times, rtol=0, atol=1e-3)


def test_note_ends_of_another_snapshot_are_refused(snapshot, trained, tmp_path):
    model = OnsetVelocityNet()
    save_snapshot(model, tmp_path / "other.torch")
    shutil.copy(trained_ends(trained, 4), tmp_path / "other.ends.torch")
    with pytest.raises(InputError, match=r"other\.ends\.torch: note ends of another snapshot"):
        Transcriber(tmp_path / "other.torch")


def test_a_transcriber_finds_the_note_ends_beside_the_snapshot(snapshot, trained, tmp_path):
    for suffix in (".torch", ".yaml"):
        shutil.copy(snapshot.with_suffix(suffix), tmp_path / f"net{suffix}")
    wave = np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32)
    assert "offset_secs" not in Transcriber(tmp_path / "net.torch")(wave, 16_000)
    shutil.copy(trained_ends(trained, 2), tmp_path / "net.ends.torch")
    events = Transcriber(tmp_path / "net.torch")(wave, 16_000)
    assert len(events)
    assert (events["offset_secs"] > events["onset_secs"]).all()


def test_a_stream_has_the_same_events_with_and_without_note_ends(snapshot, trained, tmp_path):
    for suffix in (".torch", ".yaml"):
        shutil.copy(snapshot.with_suffix(suffix), tmp_path / f"net{suffix}")
    wave = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    found = []
    for _ in range(2):
        stream = StreamingTranscriber(Transcriber(tmp_path / "net.torch"))
        found.append(stream.feed(wave, 16_000) + stream.flush())
        shutil.copy(trained_ends(trained, 2), tmp_path / "net.ends.torch")
    assert found[0]
    assert found[0] == found[1]
