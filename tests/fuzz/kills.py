"""Kill scripts 0a and 1 (SIGKILL) at random moments and restart them: the result must equal an undisturbed run.

Processes are forked from a server that has already imported torch, so that kills hit the actual
work and not the imports.
"""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import torch

from ov_piano.cli import run
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.snapshot import save_snapshot
from ov_piano.training.state import TrainingState, saved_states
from tests.conftest import write_toy_maestro
from tests.scripts import MEL_NAME, ROLL_NAME, load_script

PREPROCESSING, TRAINING = "0a_maestro_to_hdf5mel.py", "1_train_onsets_velocities.py"
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}  # audit events of the interpreter
PATIENCE_SECS = 600  # for one run; longer is a hang
TINY = ("DEVICE=cpu", "TRAIN_BS=2", "TRAIN_BATCH_SECS=1", "DATALOADER_WORKERS=0", "LR_MAX=0.5", "LR_PERIOD=5")


class BrokenByKillError(AssertionError):
    """Damage caused by a kill."""


@dataclass
class Report:
    """Counts; ``finished`` runs were compared with the undisturbed one."""

    kills: int = 0
    finished: int = 0
    moments: list[str] = field(default_factory=list)  # what had been reached when the kill came

    def __str__(self) -> str:
        reached = ", ".join(f"{self.moments.count(moment)} x {moment}" for moment in sorted(set(self.moments)))
        return f"{self.kills} kills ({reached}), {self.finished} finished runs equal to the one left alone"


@dataclass
class Task:
    """A script, its settings without the output folder, and how to check that folder.

    :param check: checks the folder after each kill and returns the progress
    :param check_end: compares the folder with that of the undisturbed run
    """

    script: str
    args: Sequence[str]
    check: Callable[[Path], str]
    check_end: Callable[[Path, Path], None]


def start(script: str, args: Sequence[str], output: Path, last_change: int | None = None) -> multiprocessing.Process:
    """Run the script in its own process; its output goes to ``output.log``.

    :param last_change: number of the change to the output folder before which the process kills itself
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    log = output.with_name(f"{output.name}.log")
    process = context.Process(target=_run, args=(script, (*args, f"OUTPUT_DIR={output}"), log, output, last_change))
    process.start()
    return process


def _run(script: str, args: Sequence[str], log: Path, output: Path, last_change: int | None) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    torch.set_num_threads(1)
    module = load_script(script)
    if last_change is not None:
        _kill_before_change(last_change, str(output))
    run(module.main, module.ConfDef, args)


def _kill_before_change(number: int, folder: str) -> None:
    """Kill this process at the ``number``-th creation, renaming or removal in ``folder``."""
    left = iter(range(number, -1, -1))

    def on_event(event: str, args: tuple) -> None:
        written = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (written or event in CHANGES) and str(args[0]).startswith(folder) and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(on_event)


def leave_alone(script: str, args: Sequence[str], output: Path) -> float:
    """Run to the end; return the elapsed seconds."""
    begin = time.monotonic()
    finish(start(script, args, output), output)
    return time.monotonic() - begin


def finish(process: multiprocessing.Process, output: Path) -> None:
    process.join(PATIENCE_SECS)
    if process.exitcode is None:
        process.kill()
        raise BrokenByKillError(f"{output}: still running after {PATIENCE_SECS} s")
    log = output.with_name(f"{output.name}.log").read_text()
    was_complete = process.exitcode == 2 and "exists already, is complete" in log.splitlines()[-1]
    if process.exitcode != 0 and not was_complete:  # killed when nothing was left to do, the next run refuses
        raise BrokenByKillError(f"{output}: status {process.exitcode} after a kill: {log[-2000:]}")


def kill_and_restart(task: Task, folder: Path, kills: int, seed: int) -> Report:
    """Kill at random moments, ``kills`` times; when a run finishes, start again in an empty folder."""
    rng, report = random.Random(seed), Report()
    alone = folder / "alone"
    leave_alone(task.script, ["--help"], folder / "help")  # starts the server, so that it is not in the seconds
    secs = leave_alone(task.script, task.args, alone)
    output = folder / "killed_0"
    while True:
        process = start(task.script, task.args, output)
        if report.kills < kills:
            process.join(rng.uniform(0, secs))
            if process.exitcode is None:
                process.kill()
                process.join()
        if process.exitcode == -signal.SIGKILL:
            report.kills += 1
            report.moments.append(task.check(output))
            continue
        finish(process, output)
        task.check_end(output, alone)
        report.finished += 1
        if report.kills >= kills:
            return report
        shutil.rmtree(output)
        output = folder / f"killed_{report.finished}"


def kill_at_changes(task: Task, folder: Path, first: int = 0, every: int = 1) -> Report:
    """Kill before change number ``first`` to the output folder, then every ``every`` changes, one kill per run."""
    report, alone = Report(), folder / "alone"
    leave_alone(task.script, task.args, alone)
    for number in itertools.count(first, every):
        output = folder / f"change_{number}"
        process = start(task.script, task.args, output, last_change=number)
        process.join(PATIENCE_SECS)
        if process.exitcode != -signal.SIGKILL:
            finish(process, output)
            return report
        report.kills += 1
        report.moments.append(task.check(output))
        finish(start(task.script, task.args, output), output)
        task.check_end(output, alone)
        report.finished += 1
        shutil.rmtree(output)


# Script 0a


def preprocessing_task(folder: Path) -> Task:
    """Script 0a on eight toy recordings, with one process."""
    tree = write_toy_maestro(folder / "maestro-v3.0.0")
    made: dict[str, int] = {}  # part -> time of its last change, in the run under way

    def check(output: Path) -> str:
        parts = {path.name: path.stat().st_mtime_ns for path in output.glob("*.parts/*.part")}
        if parts and not made.items() <= parts.items():
            raise BrokenByKillError(f"{output}: recordings that had been done were done again")
        made.clear()
        made.update(parts)
        for name in (MEL_NAME, ROLL_NAME):
            if (output / name).exists():
                _check_equal_stores(output / name, folder / "alone" / name)
        if list(output.glob("*.done")) or (output / MEL_NAME).exists() or (output / ROLL_NAME).exists():
            return "moving"
        joining = [*output.glob("*.parts/*.h5"), *output.glob("*.parts/.MAESTRO*.partial")]
        return "joining" if joining else f"{len(parts)} recordings done"

    def check_end(output: Path, alone: Path) -> None:
        made.clear()
        if sorted(path.name for path in output.iterdir()) != [MEL_NAME, ROLL_NAME]:
            raise BrokenByKillError(f"{output}: left behind {[path.name for path in output.iterdir()]}")
        for name in (MEL_NAME, ROLL_NAME):
            _check_equal_stores(output / name, alone / name)

    return Task(PREPROCESSING, (f"MAESTRO_INPATH={tree}", "WORKERS=1"), check, check_end)


def _check_equal_stores(path: Path, other: Path) -> None:
    with h5py.File(path) as one, h5py.File(other) as two:
        for name in ("data", "metadata", "data_idxs"):
            if not np.array_equal(one[name][()], two[name][()]):
                raise BrokenByKillError(f"{path}: {name} differs from that of a run left alone")


# Script 1


def training_task(folder: Path, steps: int = 12, ends: bool = False) -> Task:
    """Script 1 for a few steps on toy stores, with a saved state at each step and one cross-validation.

    :param ends: train note ends, for a network with random weights
    """
    tree, stores = write_toy_maestro(folder / "maestro-v3.0.0"), folder / "stores"
    leave_alone(PREPROCESSING, (f"MAESTRO_INPATH={tree}", "WORKERS=1"), stores)
    paths = (f"MAESTRO_PATH={tree}", f"HDF5_MEL_PATH={stores / MEL_NAME}", f"HDF5_ROLL_PATH={stores / ROLL_NAME}")
    every = ("SAVE_EVERY=1", f"XV_EVERY={max(2, steps // 2)}", f"MAX_STEPS={steps}", "RESUME=auto")
    if ends:
        save_snapshot(OnsetVelocityNet(), folder / "network.torch")
        every += ("TRAIN_ENDS=true", f"SNAPSHOT_INPATH={folder / 'network.torch'}")

    def check(output: Path) -> str:
        states = saved_states(output / "training_states")
        for path in states:
            TrainingState.load(path)
        for path in (output / "model_snapshots").glob("*.torch"):
            torch.load(path, weights_only=True)
        return f"step {TrainingState.load(states[-1]).step}" if states else "no state"

    def check_end(output: Path, alone: Path) -> None:
        _check_equal_states(*(saved_states(run_folder / "training_states")[-1] for run_folder in (output, alone)))
        if left := [*output.glob("training_states/.*"), *output.glob("model_snapshots/.*")]:
            raise BrokenByKillError(f"{output}: left behind {left}")

    return Task(TRAINING, (*paths, *TINY, *every), check, check_end)


def _check_equal_states(path: Path, other: Path) -> None:
    """Compare bit for bit, except for the output folder in the configuration."""
    one, two = TrainingState.load(path), TrainingState.load(other)
    if (one.step, one.epoch, one.batch) != (two.step, two.epoch, two.batch):
        raise BrokenByKillError(f"{path}: ends at step {one.step}, the run left alone at {two.step}")
    different = [name for name in two.model if not _same_bits(one.model[name], two.model[name])]
    moments, others = one.optimizer["state"], two.optimizer["state"]
    different += [
        f"{name} of weight {i}"
        for i in others
        for name in others[i]
        if not _same_bits(moments[i][name], others[i][name])
    ]
    if different or one.optimizer["param_groups"] != two.optimizer["param_groups"]:
        raise BrokenByKillError(f"{path}: differs from the run left alone in {different[:3] or 'the learning rate'}")


def _same_bits(one: torch.Tensor, two: torch.Tensor) -> bool:
    return one.numpy().tobytes() == two.numpy().tobytes()
