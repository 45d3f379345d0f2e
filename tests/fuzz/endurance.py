"""Memory and open files of a long training run: ``python -m tests.fuzz.endurance [STEPS=2000]``.

Trains on toy stores with a few small chunks per step and two loader workers, cross-validates and
saves at intervals, and prints the memory and open files of the training process and its workers.
The exit status is 1 if memory or files grow from the first half of the run to the second.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ov_piano.cli import run
from ov_piano.config import POSITIVE, option
from tests.conftest import write_toy_maestro
from tests.fuzz.kills import PREPROCESSING, TRAINING, leave_alone, start
from tests.processes import descendants
from tests.scripts import MEL_NAME, ROLL_NAME

ROWS = 8
GROWTH = 1.05  # of memory, that allocators may explain
SPARE_FILES = 10


@dataclass
class ConfDef:
    """Settings, each overridden by KEY=value."""

    STEPS: int = option(2000, "steps to train", POSITIVE)


class Held(NamedTuple):
    """Resident memory in MB and open files, of the training process and of all its workers together."""

    mb: float
    files: int
    worker_mb: float
    worker_files: int


def main(conf: ConfDef) -> None:
    rows: list[tuple[int, Held]] = []
    with tempfile.TemporaryDirectory() as name:
        folder, output = Path(name), Path(name) / "out"
        process = start(TRAINING, training_args(folder, conf.STEPS), output)
        print(f"{'step':>6}{'MB':>8}{'files':>7}{'workers MB':>12}{'files':>7}")
        while process.is_alive():
            time.sleep(0.2)
            step, due = steps_done(output), round((len(rows) + 1) * conf.STEPS / (ROWS + 1))
            if step >= due:
                rows.append((step, held_by(process.pid)))
                print("{:>6}{:>8.0f}{:>7}{:>12.0f}{:>7}".format(step, *rows[-1][1]), flush=True)
        if process.exitcode or len(rows) < ROWS:
            sys.exit(f"status {process.exitcode}: {output.with_name('out.log').read_text()[-1000:]}")
    # Tensors on their way from a worker are open files, too: what counts is the most of each half.
    early, late = (Held(*map(max, zip(*(held for _, held in half), strict=True))) for half in (rows[1:4], rows[4:]))
    if late.files > early.files + SPARE_FILES or late.worker_files > early.worker_files + SPARE_FILES:
        sys.exit("the number of open files grows")
    if late.mb > GROWTH * early.mb or late.worker_mb > GROWTH * early.worker_mb:
        sys.exit("memory grows")


def training_args(folder: Path, steps: int) -> tuple[str, ...]:
    tree, stores = write_toy_maestro(folder / "maestro-v3.0.0"), folder / "stores"
    leave_alone(PREPROCESSING, (f"MAESTRO_INPATH={tree}", "WORKERS=1"), stores)
    paths = (f"MAESTRO_PATH={tree}", f"HDF5_MEL_PATH={stores / MEL_NAME}", f"HDF5_ROLL_PATH={stores / ROLL_NAME}")
    small = ("DEVICE=cpu", "TRAIN_BS=2", "TRAIN_BATCH_SECS=0.25", "DATALOADER_WORKERS=2", "NUM_EPOCHS=100000")
    every = (f"XV_EVERY={max(1, steps // 20)}", f"SAVE_EVERY={max(1, steps // 20)}", f"MAX_STEPS={steps}")
    return (*paths, *small, *every, "LR_MAX=0.01", "LR_PERIOD=1000")


def steps_done(output: Path) -> int:
    logs = list(output.glob("txt_logs/*.jsonl"))
    return sum('"onset_loss"' in line for line in logs[0].read_text().splitlines()) if logs else 0


def held_by(pid: int) -> Held:
    workers = descendants(pid)
    return Held(resident_mb(pid), _files(pid), sum(map(resident_mb, workers)), sum(map(_files, workers)))


def resident_mb(pid: int | str = "self") -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def _files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


if __name__ == "__main__":
    run(main, ConfDef)
