"""Two trainings at once on the same cores: seconds per step of 4 chunks of 5 s, by how long waiting threads spin.

Spinning threads block cores that another program needs. A fair share is twice the seconds per step of one training;
the cost of less spinning shows in a single training.
"""

import ov_piano  # noqa: F401 -- first, as in the commands

# isort: split
import os
import statistics
import subprocess
import sys
import time

import torch

from tests.benchmarks.bench_model import training_stepper
from tests.scripts import ROOT

BATCH, STEPS, ROUNDS = 4, 6, 3
WAITING = {"ours": {}, "plain": {"GOMP_SPINCOUNT": "300000"}}  # plain: what libgomp takes without settings
UNSET = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


def benchmarks() -> dict[str, dict]:
    """Seconds per step of ``ours`` and ``plain``, with two trainings at once and with one."""
    secs = {(name, together): [] for name in WAITING for together in (1, 2)}
    for _ in range(ROUNDS):
        for (name, together), times in secs.items():
            times.append(step_secs(together, WAITING[name]))
    medians = {key: statistics.median(times) for key, times in secs.items()}
    alone = {f"{name}_alone": medians[name, 1] for name in WAITING}
    shares = {f"{name}_two_by_one": medians[name, 2] / medians[name, 1] for name in WAITING}
    ours, plain = medians["ours", 2], medians["plain", 2]
    print("sharing: " + ", ".join(f"{name} {value:.2f}" for name, value in (alone | shares).items()))
    return {"sharing": {"ours": ours, "plain": plain, "ratio": plain / ours, "unit": "s", **alone, **shares}}


def step_secs(together: int, settings: dict[str, str]) -> float:
    """Median seconds per step over the processes."""
    env = {key: value for key, value in os.environ.items() if key not in UNSET} | settings
    command = [sys.executable, "-m", "tests.benchmarks.bench_sharing"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=ROOT, env=env, **pipes) for _ in range(together)]
    for process in processes:
        process.stdout.readline()  # it is ready
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return statistics.median(float(process.communicate()[0]) for process in processes)


def main() -> None:
    """One training process: prints a line when ready and, after the start signal, its seconds per step."""
    step = training_stepper(torch.randn(BATCH, 250, 208) * 20 - 40, fast=True)
    step()
    print("ready", flush=True)
    sys.stdin.readline()
    begin = time.perf_counter()
    for _ in range(STEPS):
        step()
    print((time.perf_counter() - begin) / STEPS)


if __name__ == "__main__":
    main()
