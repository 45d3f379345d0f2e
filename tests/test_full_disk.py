"""A full disk and a read-only folder: one clear line, what was there before stays as it was, and the run can go on."""

import subprocess

import pytest
import torch

from ov_piano.data.hdf5 import open_pair
from ov_piano.log import RunLog
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.snapshot import save_snapshot
from ov_piano.training.state import TrainingState, saved_states
from tests.scripts import MEL_NAME, ROLL_NAME, accepted, refused

PREPROCESS, TRAIN, EVALUATE = (
    "0a_maestro_to_hdf5mel.py",
    "1_train_onsets_velocities.py",
    "2_eval_onsets_velocities.py",
)
FULL, READ_ONLY = "No space left on device", "Read-only file system"


@pytest.fixture
def disk(tmp_path):
    """A folder that becomes a small file system when it is called with mount's options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("only root may mount a small file system here")
        return folder

    yield mount
    subprocess.run(["umount", folder], capture_output=True, check=False)


@pytest.fixture(scope="module")
def inputs(toy_maestro, tmp_path_factory):
    """Arguments of script 1 and 2 but for the output folder, and a few that make training short."""
    stores = tmp_path_factory.mktemp("stores")
    accepted(PREPROCESS, f"MAESTRO_INPATH={toy_maestro}", f"OUTPUT_DIR={stores}", "WORKERS=1")
    torch.manual_seed(0)
    save_snapshot(OnsetVelocityNet(), stores / "random.torch")
    paths = (
        f"MAESTRO_PATH={toy_maestro}",
        f"HDF5_MEL_PATH={stores / MEL_NAME}",
        f"HDF5_ROLL_PATH={stores / ROLL_NAME}",
    )
    return paths, stores / "random.torch"


def training(inputs, folder, *args):
    tiny = ("DEVICE=cpu", "TRAIN_BS=2", "TRAIN_BATCH_SECS=0.5", "DATALOADER_WORKERS=0", "LR_MAX=0.1")
    return (*inputs[0], f"OUTPUT_DIR={folder}", *tiny, *args)


def test_preprocessing_on_a_full_disk_goes_on_when_there_is_room(toy_maestro, disk):
    folder = disk("size=700k")
    args = (f"MAESTRO_INPATH={toy_maestro}", f"OUTPUT_DIR={folder}", "WORKERS=1")
    line = refused(PREPROCESS, *args)
    assert line.startswith(f"error: {folder}/")
    assert line.endswith(FULL)
    (parts,) = folder.iterdir()
    done = sorted(parts.iterdir())
    assert 0 < len(done) < 8
    assert all(path.suffix == ".part" for path in done)
    disk("remount,size=50m")
    assert f"continuing: {len(done)} of 8 recordings are done" in accepted(PREPROCESS, *args)
    assert len(open_pair(folder / MEL_NAME, folder / ROLL_NAME).metadata) == 8


def test_a_failed_training_state_leaves_the_one_before(inputs, disk):
    folder = disk("size=60m")  # a state takes 50
    args = training(inputs, folder, "SAVE_EVERY=1", "MAX_STEPS=3", "XV_EVERY=99", "RESUME=auto")
    line = refused(TRAIN, *args)
    assert line == f"error: {folder / 'training_states' / 'training_state_step=2.pt'}: {FULL}"
    (state,) = (folder / "training_states").iterdir()
    assert TrainingState.load(state).step == 1
    disk("remount,size=300m")
    accepted(TRAIN, *args)
    assert TrainingState.load(saved_states(folder / "training_states")[-1]).step == 3


def test_a_snapshot_without_room_is_one_line(inputs, disk):
    folder = disk("size=20m")
    line = refused(TRAIN, *training(inputs, folder, "MAX_STEPS=1"))
    assert f"error: {folder / 'model_snapshots'}/OnsetVelocityNet_" in line
    assert line.endswith(f".torch: {FULL}")
    assert list((folder / "model_snapshots").iterdir()) == []


def test_a_log_without_room_ends_the_run(inputs, disk):
    folder = disk("size=4k")  # one page: for the text file, none for the JSON lines
    line = refused(TRAIN, *training(inputs, folder, "MAX_STEPS=1"))
    assert f"error: {folder / 'txt_logs'}/" in line
    assert line.endswith(f".jsonl: {FULL}")


def test_a_text_log_without_room_ends_the_run(disk, capsys):
    folder = disk("size=8k")

    def log_much():
        with RunLog(folder, "x") as log:
            for _ in range(200):
                log.info("a line of a log that grows and grows")

    with pytest.raises(OSError, match=FULL) as caught:
        log_much()
    assert caught.value.filename == str(folder / "txt_logs" / "x.log")
    assert "Traceback" not in capsys.readouterr().err


def test_evaluation_on_a_full_disk_leaves_no_report(inputs, disk):
    folder = disk("size=4k")
    line = refused(EVALUATE, *inputs[0], f"OUTPUT_DIR={folder}", f"SNAPSHOT_INPATH={inputs[1]}", "DEVICE=cpu")
    assert f"error: {folder / 'eval'}/" in line
    assert line.endswith(FULL)
    assert list((folder / "eval").iterdir()) == []


def test_read_only_output_folders_are_named(toy_maestro, inputs, disk):
    folder = disk("ro")
    lines = [
        refused(PREPROCESS, f"MAESTRO_INPATH={toy_maestro}", f"OUTPUT_DIR={folder}", "WORKERS=1"),
        refused(TRAIN, *training(inputs, folder)),
        refused(EVALUATE, *inputs[0], f"OUTPUT_DIR={folder}", f"SNAPSHOT_INPATH={inputs[1]}", "DEVICE=cpu"),
    ]
    for line in lines:
        assert line.startswith(f"error: {folder}/")
        assert line.endswith(READ_ONLY)
