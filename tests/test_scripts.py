"""The whole chain by subprocess, as typed in a shell: 0a, 1, 2 on MAESTRO; 0b, 1, 2 on MAPS."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from ov_piano.cli import run
from ov_piano.config import parse_args
from ov_piano.data.hdf5 import open_pair
from ov_piano.machine.atomic import locked, partial_path
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.onsets_and_velocities import OnsetsAndVelocities
from ov_piano.model.snapshot import load_snapshot, save_snapshot
from ov_piano.settings import DecoderSettings, Tolerances
from ov_piano.training.augmentation import Augmentation
from ov_piano.training.processes import Processes
from ov_piano.training.state import TrainingState, saved_states
from tests.scripts import (
    MAPS_MEL_NAME,
    MAPS_ROLL_NAME,
    MEL_NAME,
    ROLL_NAME,
    ROOT,
    accepted,
    fail,
    load_script,
    refused,
    succeed,
)

TINY = ("TRAIN_BS=2", "TRAIN_BATCH_SECS=1", "DATALOADER_WORKERS=1", "LR_MAX=0.5", "LR_PERIOD=4", "TRAIN_LOG_EVERY=1")


@pytest.fixture(scope="module")
def stores(toy_maestro, tmp_path_factory):
    """Folder with script 0a's HDF5 files of the toy MAESTRO."""
    folder = tmp_path_factory.mktemp("stores")
    printed = succeed("0a_maestro_to_hdf5mel.py", f"MAESTRO_INPATH={toy_maestro}", f"OUTPUT_DIR={folder}")
    assert f"MAESTRO_INPATH: {toy_maestro}" in printed
    return folder


def maestro_args(toy_maestro, stores, output):
    stores = (f"HDF5_MEL_PATH={stores / MEL_NAME}", f"HDF5_ROLL_PATH={stores / ROLL_NAME}")
    return (f"MAESTRO_PATH={toy_maestro}", *stores, f"OUTPUT_DIR={output}")


@pytest.fixture(scope="module")
def trained(toy_maestro, stores, tmp_path_factory):
    """Output folder of four training steps, with cross-validation after the second and the last."""
    folder = tmp_path_factory.mktemp("trained")
    args = maestro_args(toy_maestro, stores, folder)
    succeed("1_train_onsets_velocities.py", *args, *TINY, "MAX_STEPS=4", "XV_EVERY=2")
    return folder


def test_preprocessing_fills_both_files(stores):
    with h5py.File(stores / MEL_NAME) as mel, h5py.File(stores / ROLL_NAME) as roll:
        assert len(mel["metadata"]) == len(roll["metadata"]) == 8
        np.testing.assert_array_equal(mel["data_idxs"], roll["data_idxs"])
        assert mel["data"].shape[1] == roll["data"].shape[1] == mel["data_idxs"][1, -1]
        assert (roll["data"][:128] > 0).sum() > 100


def test_training_writes_snapshots_states_and_logs(trained):
    snapshots = sorted(path.name for path in (trained / "model_snapshots").glob("*.torch"))
    assert len(snapshots) == 2
    assert all(name.startswith("OnsetVelocityNet_") and name.endswith(".torch") for name in snapshots)
    assert "step=2_f1=" in snapshots[0]
    assert "step=4_f1=" in snapshots[1]
    load_snapshot(trained / "model_snapshots" / snapshots[0], OnsetVelocityNet())
    assert [TrainingState.load(path).step for path in saved_states(trained / "training_states")] == [2, 4]
    (jsonl,) = (trained / "txt_logs").glob("*.jsonl")
    records = [json.loads(line) for line in jsonl.read_text().splitlines()]
    steps = [r for r in records if "onset_loss" in r]
    assert [r["step"] for r in steps] == [1, 2, 3, 4]
    assert all(0 < r["velocity_loss_floor"] < r["velocity_loss"] for r in steps)
    assert [r["step"] for r in records if "xv" in r] == [2, 4]
    (text,) = (trained / "txt_logs").glob("*.log")
    assert "TRAIN_BS: 2" in text.read_text()
    assert "\ncommit: " in text.read_text()
    assert "step 4: losses" in text.read_text()
    assert (trained / "learning_curve.png").is_file()
    assert "not drawn" not in text.read_text()


def test_resumed_training_equals_uninterrupted_training(toy_maestro, stores, tmp_path):
    final = []
    for runs in ([20], [10, 20]):
        output = tmp_path / f"{len(runs)} runs"
        for steps in runs:
            args = (*maestro_args(toy_maestro, stores, output), *TINY, "XV_EVERY=100", "SAVE_EVERY=10")
            resume = ["RESUME=auto"] if steps > runs[0] else []
            succeed("1_train_onsets_velocities.py", *args, f"MAX_STEPS={steps}", *resume)
        final.append(TrainingState.load(saved_states(output / "training_states")[-1]))
    once, resumed = final
    assert (once.step, once.epoch, once.batch) == (resumed.step, resumed.epoch, resumed.batch)
    assert once.step == 20
    for name, tensor in once.model.items():
        assert torch.equal(tensor, resumed.model[name]), name
    for index, entry in once.optimizer["state"].items():
        assert torch.equal(entry["momentum_buffer"], resumed.optimizer["state"][index]["momentum_buffer"])


def test_each_setting_reaches_what_it_names():
    script = load_script("1_train_onsets_velocities.py")
    texts = (
        "AUGMENT_RESPONSE_DB=1 AUGMENT_GAIN_DB=2 AUGMENT_TRANSPOSE=3 AUGMENT_MIX=0.4 AUGMENT_NOISE=0.5 AUGMENT_MASK=0.6"
    )
    texts += (
        " ONSET_POSITIVES_WEIGHT=7 VEL_LOSS_LAMBDA=9 EDGE_LOSS_WEIGHT=11 XV_TOLERANCE_SECS=0.07 XV_TOLERANCE_VEL=0.2"
    )
    texts += (
        " DECODER_GAUSS_STD=1.5 DECODER_GAUSS_KSIZE=7 LR_MAX=5 LR_PERIOD=50 MOMENTUM=0.3 WEIGHT_DECAY=0.01 BF16=true"
    )
    conf = parse_args(script.ConfDef, texts.split())
    expected = Augmentation(
        response_db=1, gain_db=2, transpose=3, mix=0.4, noise=0.5, mask=0.6, mel_range_hz=(30.0, 7000.0)
    )
    assert conf.augmentation((30.0, 7000.0)) == expected
    assert conf.tolerances == Tolerances(onset_secs=0.07, velocity=0.2)
    assert conf.decoder == DecoderSettings(gauss_std=1.5, gauss_ksize=7)
    step = script.build_step(conf, OnsetVelocityNet(init=False), Processes(torch.device("cpu")))
    assert (step.positives_weight, step.velocity_weight, step.edge_weight, step.bf16) == (7, 9, 11, True)
    assert step.optimizer.param_groups[0]["momentum"] == 0.3
    assert step.optimizer.param_groups[0]["weight_decay"] == 0.01
    assert max(step.schedule(number)[0] for number in range(1, 51)) == pytest.approx(5)
    evaluation = load_script("2_eval_onsets_velocities.py").ConfDef
    texts = "SNAPSHOT_INPATH=x TOLERANCE_SECS=0.06 TOLERANCE_VEL=0.3 DECODER_GAUSS_STD=2 DECODER_GAUSS_KSIZE=5"
    conf = parse_args(evaluation, texts.split())
    assert conf.tolerances == Tolerances(onset_secs=0.06, velocity=0.3)
    assert conf.decoder == DecoderSettings(gauss_std=2, gauss_ksize=5)


def test_published_defaults_of_either_network_and_optimiser():
    conf_class = load_script("1_train_onsets_velocities.py").ConfDef

    def settings(*args):
        return parse_args(conf_class, args)

    second = settings("NETWORK=OnsetsAndVelocities")
    assert (second.OPTIMIZER, second.TRAIN_BS, second.TRAIN_BATCH_SECS) == ("AdamWR", 40, 5.0)
    assert (second.NUM_EPOCHS, second.XV_EVERY, second.XV_THRESHOLDS) == (10, 1000, [0.7, 0.725, 0.75, 0.775, 0.8])
    assert (second.BATCH_NORM, second.DROPOUT, second.LEAKY_RELU_SLOPE) == (0.95, 0.15, 0.1)
    assert (second.LR_MAX, second.LR_PERIOD, second.LR_WARMUP) == (0.008, 1000, 0.5)
    assert (second.LR_DECAY, second.LR_SLOWDOWN, second.WEIGHT_DECAY) == (0.975, 1.0, 0.0003)
    assert second.HDF5_MEL_PATH.endswith("mel=229(50-8000).h5")
    mixed = settings("NETWORK=OnsetsAndVelocities", "OPTIMIZER=SGDR", "TRAIN_BS=8")
    assert (mixed.TRAIN_BS, mixed.BATCH_NORM, mixed.LR_MAX, mixed.WEIGHT_DECAY) == (8, 0.95, 6.0, 0.0)
    assert settings("NETWORK=OnsetVelocityNet", "OPTIMIZER=SGDR") == settings()


def test_the_second_network_trains_resumes_and_names_its_snapshots(toy_maestro, stores, tmp_path):
    stores_229 = tmp_path / "stores"
    accepted("0a_maestro_to_hdf5mel.py", f"MAESTRO_INPATH={toy_maestro}", f"OUTPUT_DIR={stores_229}", "MELBINS=229")
    mel_path = stores_229 / MEL_NAME.replace("mel=250", "mel=229")
    tiny = ("TRAIN_BS=2", "TRAIN_BATCH_SECS=1", "DATALOADER_WORKERS=0", "LR_PERIOD=4", "XV_EVERY=100", "SAVE_EVERY=3")
    final = []
    for runs in ([6], [3, 6]):
        output = tmp_path / f"{len(runs)} runs"
        for steps in runs:
            args = (*maestro_args(toy_maestro, stores, output)[:1], f"HDF5_MEL_PATH={mel_path}")
            args += (f"HDF5_ROLL_PATH={stores_229 / ROLL_NAME}", f"OUTPUT_DIR={output}", *tiny)
            resume = ["RESUME=auto"] if steps > runs[0] else []
            network = "NETWORK=OnsetsAndVelocities"
            printed = accepted("1_train_onsets_velocities.py", *args, network, f"MAX_STEPS={steps}", *resume)
        final.append(TrainingState.load(saved_states(output / "training_states")[-1]))
    assert "OPTIMIZER: AdamWR" in printed
    assert "LR_MAX: 0.008" in printed
    once, resumed = final
    assert once.step == resumed.step == 6
    assert all(torch.equal(tensor, resumed.model[name]) for name, tensor in once.model.items())
    names = [path.name for path in (output / "model_snapshots").glob("*.torch")]
    assert any(
        re.fullmatch(r"OnsetsAndVelocities_[\d_.]+step=6_f1=0\.\d{4}__0\.\d{4}\.torch", name) for name in names
    ), names
    snapshot = output / "model_snapshots" / max(names)
    load_snapshot(snapshot, OnsetsAndVelocities(init=False))
    stores = (f"HDF5_MEL_PATH={mel_path}", f"HDF5_ROLL_PATH={stores_229 / ROLL_NAME}", f"OUTPUT_DIR={tmp_path}")
    arguments = (f"MAESTRO_PATH={toy_maestro}", *stores, f"SNAPSHOT_INPATH={snapshot}", "SEARCH_THRESHOLDS=[0.74]")
    assert "AVERAGES (t=0.74, s=-0.01)" in accepted("2_eval_onsets_velocities.py", *arguments)


def test_the_second_network_needs_229_mel_bands(toy_maestro, stores, tmp_path):
    args = maestro_args(toy_maestro, stores, tmp_path)
    message = refused("1_train_onsets_velocities.py", *args, "NETWORK=OnsetsAndVelocities")
    assert "needs log-mels of 229 bands (script 0a or 0b with MELBINS=229), found 250" in message


def test_ctrl_c_saves_the_step_that_was_reached(toy_maestro, stores, tmp_path):
    args = (*maestro_args(toy_maestro, stores, tmp_path), *TINY, "XV_EVERY=100000", "SAVE_EVERY=100000")
    command = [sys.executable, ROOT / "1_train_onsets_velocities.py", *args]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while "step 2: losses" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "interrupted"
    (state,) = saved_states(tmp_path / "training_states")
    (jsonl,) = (tmp_path / "txt_logs").glob("*.jsonl")
    assert TrainingState.load(state).step == json.loads(jsonl.read_text().splitlines()[-1])["step"]


def test_a_finished_run_is_cleaned_up_and_not_validated_again(toy_maestro, stores, trained, tmp_path):
    again = shutil.copytree(trained, tmp_path / "again")
    before = sorted(again.glob("model_snapshots/*"))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    leftover = partial_path(again / "training_states" / "training_state_step=4.pt", ended.pid)
    leftover.touch()
    args = (*maestro_args(toy_maestro, stores, again), *TINY, "MAX_STEPS=4", "RESUME=auto")
    succeed("1_train_onsets_velocities.py", *args, "SNAPSHOT_INPATH=gone.torch")  # only needed to begin
    assert sorted(again.glob("model_snapshots/*")) == before
    assert not leftover.exists()


def test_frozen_onsets_stay_and_a_snapshot_starts_the_run(toy_maestro, stores, trained, tmp_path):
    start = sorted((trained / "model_snapshots").glob("*.torch"))[0]
    args = (*maestro_args(toy_maestro, stores, tmp_path), *TINY, "MAX_STEPS=2")
    succeed("1_train_onsets_velocities.py", *args, "TRAINABLE_ONSETS=false", f"SNAPSHOT_INPATH={start}")
    before = load_snapshot(start, OnsetVelocityNet()).state_dict()
    (end,) = (tmp_path / "model_snapshots").glob("*.torch")
    after = load_snapshot(end, OnsetVelocityNet()).state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"velocity_stage"}


def test_evaluation_prints_and_saves_both_tables(toy_maestro, stores, trained, tmp_path):
    snapshot = sorted((trained / "model_snapshots").glob("*.torch"))[-1]
    args = (*maestro_args(toy_maestro, stores, tmp_path), f"SNAPSHOT_INPATH={snapshot}")
    printed = succeed("2_eval_onsets_velocities.py", *args, "SEARCH_THRESHOLDS=[0.3,0.5]", "SEARCH_SHIFTS=[-0.01,0]")
    assert "ONSETS+VELOCITIES" in printed
    (folder,) = (tmp_path / "eval").iterdir()
    onsets = pd.read_csv(folder / "onsets.csv")
    assert list(onsets.columns) == ["Filename", "P", "R", "F1"]
    assert onsets["Filename"].iloc[-1].startswith("AVERAGES (t=0.")
    assert len(onsets) == 3
    assert len(pd.read_csv(folder / "search.csv")) == 4
    assert len(list((folder / "events").glob("*.csv"))) == 2
    assert [path.stem for path in sorted((folder / "pictures").iterdir())] == sorted(onsets["Filename"].iloc[:2])
    assert (folder / "search.png").is_file()


def test_a_snapshot_in_the_published_format_is_evaluated(toy_maestro, stores, tmp_path):
    shapes = json.loads((Path(__file__).parent / "golden" / "state_dict.json").read_text())
    state = {name: torch.ones(shape, dtype=getattr(torch, dtype)) for name, (shape, dtype) in shapes.items()}
    torch.save(state, tmp_path / "published.torch")
    args = maestro_args(toy_maestro, stores, tmp_path)
    printed = accepted("2_eval_onsets_velocities.py", *args, f"SNAPSHOT_INPATH={tmp_path / 'published.torch'}")
    assert "AVERAGES (t=0.77, s=-0.01)" in printed


def test_maps_from_preprocessing_to_evaluation(toy_maps, tmp_path):
    succeed("0b_maps_to_hdf5mel.py", f"MAPS_INPATH={toy_maps}", f"OUTPUT_DIR={tmp_path}")
    args = (
        f"MAPS_PATH={toy_maps}",
        f"HDF5_MEL_PATH={tmp_path / MAPS_MEL_NAME}",
        f"HDF5_ROLL_PATH={tmp_path / MAPS_ROLL_NAME}",
        f"OUTPUT_DIR={tmp_path / 'out'}",
    )
    succeed("1_train_onsets_velocities.py", *args, *TINY, "MAX_STEPS=2")
    (snapshot,) = (tmp_path / "out" / "model_snapshots").glob("*.torch")
    printed = succeed("2_eval_onsets_velocities.py", *args, f"SNAPSHOT_INPATH={snapshot}")
    assert "MAPS_MUS-mz_331_2_ENSTDkCl" in printed
    assert "MAPS_MUS-scn15_7_ENSTDkAm" in printed
    assert "AkPnBcht" not in printed.split("ONSETS")[1]


@pytest.mark.parametrize(
    ("arg", "expected"),
    [
        ("TRAIN_BSS=8", "did you mean TRAIN_BS?"),
        ("HDF5_MEL_PATH=nowhere.h5", "nowhere.h5: expected a file name like"),
    ],
)
def test_unusable_settings_of_training_are_one_line(toy_maestro, stores, tmp_path, arg, expected):
    args = [a for a in maestro_args(toy_maestro, stores, tmp_path) if a.split("=")[0] != arg.split("=")[0]]
    assert expected in refused("1_train_onsets_velocities.py", *args, arg)


def test_a_wrong_setting_stops_before_the_frame_cache_is_written(stores, tmp_path):
    mel, roll = (shutil.copy(stores / name, tmp_path) for name in (MEL_NAME, ROLL_NAME))
    args = (f"HDF5_MEL_PATH={mel}", f"HDF5_ROLL_PATH={roll}", f"OUTPUT_DIR={tmp_path / 'out'}", "MAESTRO_PATH=nowhere")
    assert "nowhere: no such folder" in refused("1_train_onsets_velocities.py", *args)
    assert list(tmp_path.glob("*.frames*")) == []


@pytest.mark.parametrize("secs", [0.25, 0.5, 2.0])
def test_chunks_begin_once_a_second_or_one_after_the_other(stores, secs):
    script = load_script("1_train_onsets_velocities.py")
    pair = open_pair(stores / MEL_NAME, stores / ROLL_NAME)
    chunks = script.training_chunks(script.ConfDef(TRAIN_BATCH_SECS=secs), pair)
    steps = np.diff(chunks.begins[chunks.recordings == chunks.recordings[0]])
    assert set(steps) == {min(chunks.length, round(1 / pair.frame_secs))}


def test_a_nonfinite_loss_stops_with_the_recordings_named(toy_maestro, stores, tmp_path):
    model = OnsetVelocityNet()
    with torch.no_grad():
        model.velocity_stage[2].bn.weight.fill_(3e38)
        model.velocity_stage[2].bn.bias.fill_(3e38)
    save_snapshot(model, tmp_path / "huge.torch")
    args = (*maestro_args(toy_maestro, stores, tmp_path), *TINY, f"SNAPSHOT_INPATH={tmp_path / 'huge.torch'}")
    line = fail("1_train_onsets_velocities.py", *args)
    assert "step 1: the loss is not finite" in line
    assert "RESUME=auto to continue from the last good state" in line
    assert "MIDI-Unprocessed_train_" in line
    (saved,) = (tmp_path / "training_states").iterdir()
    assert saved.name == "not_finite_after_step=0.pt"
    assert TrainingState.load(saved).step == 0


def test_importing_a_script_does_nothing_and_help_lists_every_setting(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for path in sorted(ROOT.glob("[0-9]*.py")):
        script = load_script(path.name)
        with pytest.raises(SystemExit) as ended:
            run(script.main, script.ConfDef, ["--help"])
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        for name in script.ConfDef.__dataclass_fields__:
            assert f"  {name}=" in shown
    assert list(tmp_path.iterdir()) == []


def test_store_names_quoted_once_reach_the_script(toy_maestro, stores, tmp_path):
    command = (
        f'"{sys.executable}" 1_train_onsets_velocities.py "HDF5_MEL_PATH={stores / MEL_NAME}" '
        f'"HDF5_ROLL_PATH={tmp_path / ROLL_NAME}" OUTPUT_DIR="{tmp_path}"'
    )
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"HDF5_MEL_PATH: {stores / MEL_NAME}" in done.stdout
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path / ROLL_NAME}: no such file")


def test_a_second_training_in_the_same_folder_is_refused(toy_maestro, stores, tmp_path):
    args = (*maestro_args(toy_maestro, stores, tmp_path), "DEVICE=cpu", *TINY, "MAX_STEPS=1")
    with locked(tmp_path / "training_states"):
        assert "training_states: another run is making it" in refused("1_train_onsets_velocities.py", *args)
    assert not (tmp_path / "training_states").exists()
