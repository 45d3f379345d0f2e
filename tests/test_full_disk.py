"""A full disk and a read-only folder end a run with one line; existing files stay and the run can be resumed."""

import contextlib
import errno
import os
import resource
import subprocess

import pytest
import torch

from ov_piano.data.hdf5 import open_pair
from ov_piano.log import RunLog
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.snapshot import save_snapshot
from ov_piano.training.state import TrainingState
from tests.scripts import MEL_NAME, ROLL_NAME, accepted, refused

PREPROCESS, TRAIN, EVALUATE = (
    "0a_maestro_to_hdf5mel.py",
    "1_train_onsets_velocities.py",
    "2_eval_onsets_velocities.py",
)
FULL = os.strerror(errno.EFBIG)  # the error of a file that exceeds the limit below
READ_ONLY = os.strerror(errno.EROFS)


@contextlib.contextmanager
def no_file_above(size):
    """Writing fails beyond ``size`` bytes, as on a full disk; no rights are needed for that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def read_only(tmp_path):
    """An empty read-only file system."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a file system here")
    yield folder
    subprocess.run(["umount", folder], capture_output=True, check=False)


@pytest.fixture(scope="module")
def inputs(toy_maestro, tmp_path_factory):
    """Paths of the inputs of scripts 1 and 2, and of a snapshot."""
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


def test_preprocessing_on_a_full_disk_resumes_when_there_is_room(toy_maestro, tmp_path):
    args = (f"MAESTRO_INPATH={toy_maestro}", f"OUTPUT_DIR={tmp_path / 'out'}", "WORKERS=1")
    kept = tmp_path / "out" / ROLL_NAME.replace("True", "False")
    kept.parent.mkdir()
    kept.write_bytes(b"another file")
    done = []
    for size in (110_000, 400_000):  # too little for a part, for the joined file
        with no_file_above(size):
            line = refused(PREPROCESS, *args)
        assert line.startswith(f"error: {kept.parent}/")
        assert line.endswith(f": {FULL}")
        done.append(len(list(kept.parent.rglob("*.part"))))
        assert not (kept.parent / MEL_NAME).exists()
    assert done == [0, 8]
    assert "continuing: 8 of 8 recordings are done" in accepted(PREPROCESS, *args)
    assert len(open_pair(kept.parent / MEL_NAME, kept.parent / ROLL_NAME).metadata) == 8
    assert kept.read_bytes() == b"another file"


def test_a_failed_training_state_leaves_the_one_before(inputs, tmp_path):
    args = training(inputs, tmp_path, "SAVE_EVERY=1", "XV_EVERY=99", "RESUME=auto")
    accepted(TRAIN, *args, "MAX_STEPS=1")
    with no_file_above(40_000_000):  # a state takes 50 MB
        line = refused(TRAIN, *args, "MAX_STEPS=3")
    assert line == f"error: {tmp_path / 'training_states' / 'training_state_step=2.pt'}: {FULL}"
    (state,) = (tmp_path / "training_states").iterdir()
    assert TrainingState.load(state).step == 1


def test_a_snapshot_without_room_is_one_line(inputs, tmp_path):
    with no_file_above(20_000_000):
        line = refused(TRAIN, *training(inputs, tmp_path, "MAX_STEPS=1"))
    assert f"error: {tmp_path / 'model_snapshots'}/OnsetVelocityNet_" in line
    assert line.endswith(f".torch: {FULL}")
    assert list((tmp_path / "model_snapshots").iterdir()) == []


@pytest.mark.parametrize(("size", "suffix"), [(100, ".log"), (2500, ".jsonl")])
def test_a_log_without_room_ends_the_run(tmp_path, capsys, size, suffix):
    def log_much():
        with RunLog(tmp_path, "x") as log:
            for step in range(200):
                log.record(step=step, value=1.0) if suffix == ".jsonl" else log.info("a message")

    with no_file_above(size), pytest.raises(OSError, match=FULL) as caught:
        log_much()
    assert caught.value.filename == str(tmp_path / "txt_logs" / f"x{suffix}")
    assert "Traceback" not in capsys.readouterr().err


def test_evaluation_on_a_full_disk_leaves_no_report(inputs, tmp_path):
    with no_file_above(100):
        line = refused(EVALUATE, *inputs[0], f"OUTPUT_DIR={tmp_path}", f"SNAPSHOT_INPATH={inputs[1]}", "DEVICE=cpu")
    assert f"error: {tmp_path / 'eval'}/" in line
    assert line.endswith(FULL)
    assert list((tmp_path / "eval").iterdir()) == []


def test_read_only_output_folders_are_named(toy_maestro, inputs, read_only):
    lines = [
        refused(PREPROCESS, f"MAESTRO_INPATH={toy_maestro}", f"OUTPUT_DIR={read_only}", "WORKERS=1"),
        refused(TRAIN, *training(inputs, read_only)),
        refused(EVALUATE, *inputs[0], f"OUTPUT_DIR={read_only}", f"SNAPSHOT_INPATH={inputs[1]}", "DEVICE=cpu"),
    ]
    for line in lines:
        assert line.startswith(f"error: {read_only}/")
        assert line.endswith(READ_ONLY)
