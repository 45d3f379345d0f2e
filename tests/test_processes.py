"""Training in several processes equals training in one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from ov_piano.errors import InputError
from ov_piano.machine.device import select_device
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.snapshot import save_snapshot
from ov_piano.training.processes import CpuSyncBatchNorm, Processes
from ov_piano.training.state import TrainingState, saved_states
from tests.golden_weights import golden_state
from tests.scripts import MEL_NAME, ROLL_NAME, ROOT, run_script, succeed

SCRIPT = "1_train_onsets_velocities.py"
STEPS = 10


@pytest.fixture(scope="module")
def stores(toy_maestro, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    succeed("0a_maestro_to_hdf5mel.py", f"MAESTRO_INPATH={toy_maestro}", f"OUTPUT_DIR={folder}")
    return folder


def torchrun(processes, *args):
    """Run script 1 with torchrun."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, SCRIPT, *args], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def records(output):
    """All JSON lines of the runs in a folder, in order."""
    logs = sorted((output / "txt_logs").glob("*.jsonl"))
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]


def training_args(toy_maestro, stores, output, lr_max=0.005):
    return (
        f"MAESTRO_PATH={toy_maestro}",
        f"HDF5_MEL_PATH={stores / MEL_NAME}",
        f"HDF5_ROLL_PATH={stores / ROLL_NAME}",
        f"OUTPUT_DIR={output}",
        *("DEVICE=cpu", "TRAIN_BS=4", "TRAIN_BATCH_SECS=1", "DATALOADER_WORKERS=0", f"LR_MAX={lr_max}"),
        *("LR_PERIOD=8", "DROPOUT=0", "BN_REESTIMATE_BATCHES=2", "FAST=false"),
    )


def test_training_in_two_processes_equals_training_in_one(toy_maestro, stores, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    done = run_script(SCRIPT, *training_args(toy_maestro, stores, one), f"MAX_STEPS={STEPS}")
    assert done.returncode == 0, done.stderr
    succeed(SCRIPT, *training_args(toy_maestro, stores, two), f"MAX_STEPS={STEPS // 2}")
    torchrun(2, *training_args(toy_maestro, stores, two), f"MAX_STEPS={STEPS}", "RESUME=auto")
    losses = [[(r["onset_loss"], r["velocity_loss"]) for r in records(run) if "lr" in r] for run in (one, two)]
    assert len(losses[0]) == len(losses[1]) == STEPS
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-4)
    final = [TrainingState.load(saved_states(run / "training_states")[-1]) for run in (one, two)]
    assert final[0].model.keys() == final[1].model.keys()
    assert (final[0].epoch, final[0].batch) == (final[1].epoch, final[1].batch)
    written = sorted(path.name.split("step=")[1].split("_")[0] for path in (two / "model_snapshots").glob("*.torch"))
    assert written == ["10", "5", "9.torch"]  # by the first process alone: validated ones and cycle ends


def test_note_ends_in_two_processes_equal_those_in_one(toy_maestro, stores, tmp_path):
    model = OnsetVelocityNet(init=False)
    model.load_state_dict(golden_state(model))
    save_snapshot(model, tmp_path / "net.torch")
    runs = [tmp_path / name for name in ("one", "two")]
    ends = ("TRAIN_ENDS=true", f"SNAPSHOT_INPATH={tmp_path / 'net.torch'}", f"MAX_STEPS={STEPS}", "OPTIMIZER=SGDR")
    args = [(*training_args(toy_maestro, stores, run, lr_max=0.0005), *ends) for run in runs]
    succeed(SCRIPT, *args[0])
    torchrun(2, *args[1])
    losses = [[r["end_loss"] for r in records(run) if "lr" in r] for run in runs]
    assert len(losses[0]) == len(losses[1]) == STEPS
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def synchronised_norm_worker(rank, port, x, result_path):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    with Processes.from_environment("cpu") as processes:
        torch.manual_seed(0)
        model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.85))
        model = processes.synchronise_norms(model)
        assert isinstance(model[0], CpuSyncBatchNorm)
        share = x[2 * rank : 2 * rank + 2].clone().requires_grad_()
        model(share).pow(3).sum().backward()
        gradient = processes.collect([share.grad])
        if processes.is_first:
            torch.save((torch.cat(gradient), model.state_dict()), result_path)
        assert processes.any(rank == 1)
        assert not processes.any(False)
        assert processes.collect(processes.share(list("abcde"))) == list("abcde")


def test_synchronised_norm_equals_the_norm_of_the_whole_batch(tmp_path):
    x = torch.randn(4, 3, 5, 7, generator=torch.Generator().manual_seed(3)) * 2 + 1
    norm = nn.BatchNorm2d(3, momentum=0.85)
    whole = x.clone().requires_grad_()
    norm(whole).pow(3).sum().backward()
    path, port = tmp_path / "result.pt", 29500 + os.getpid() % 1000
    torch.multiprocessing.spawn(synchronised_norm_worker, (port, x, path), nprocs=2)
    gradient, state = torch.load(path)
    torch.testing.assert_close(gradient, whole.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state["0.running_mean"], norm.running_mean)
    torch.testing.assert_close(state["0.running_var"], norm.running_var)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "x"}, "RANK=x in the environment: expected a number"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE=-2 in the environment: expected a number"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 without RANK in the environment: start with torchrun"),
        ({"RANK": "1"}, "expected a RANK below WORLD_SIZE"),
    ],
)
def test_variables_that_torchrun_would_not_set_are_refused(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message), Processes.from_environment("cpu"):
        pass


def test_a_single_process_keeps_everything():
    processes = Processes(select_device("cpu"))
    assert processes.share([1, 2, 3]) == [1, 2, 3]
    assert processes.collect([1, 2, 3]) == [1, 2, 3]
    model = nn.Sequential(nn.BatchNorm2d(2))
    assert processes.synchronise_norms(model) is model
    assert type(model[0]) is nn.BatchNorm2d
    assert processes.parallel(model) is model
