"""`make fuzz`: new examples for the property tests, corrupted inputs for every loader, kills of scripts 0a and 1.

1. Search for counterexamples to the properties that the tests check on a few examples.
2. Run each loader on its share of INPUTS mutated inputs. An input that is neither accepted nor rejected
   with a one-line error is written to OUTPUT_DIR with its traceback.
3. Kill scripts 0a and 1 KILLS times at random moments, then once before each change to their output
   folder, restart them, and compare the result with that of an undisturbed run.

The same SEED gives the same inputs. The exit status is 1 if there are findings.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ov_piano.cli import run
from ov_piano.config import NON_NEGATIVE, POSITIVE, option
from ov_piano.errors import InputError
from tests.fuzz.campaign import Campaign, Count, fuzz
from tests.fuzz.kills import BrokenByKillError, kill_and_restart, kill_at_changes, preprocessing_task, training_task
from tests.fuzz.loaders import make_loaders


@dataclass
class ConfDef:
    """Settings, each overridden by KEY=value."""

    SEED: int = option(0, "seed for examples, inputs and times of kills", NON_NEGATIVE)
    PROPERTIES: bool = option(True, "search for counterexamples to the property tests")
    INPUTS: int = option(20_000, "number of inputs for all loaders together", NON_NEGATIVE)
    SECONDS: float | None = option(None, "stop giving inputs after this many seconds; null: no limit", POSITIVE)
    ONLY: str | None = option(None, "name of a loader to fuzz alone; null: all loaders")
    KILLS: int = option(10, "kills of each script at random moments; 0: no kills at all", NON_NEGATIVE)
    OUTPUT_DIR: str = option("out/fuzz", "folder for findings")


def main(conf: ConfDef) -> None:
    torch.set_num_threads(1)
    deadline = time.monotonic() + (conf.SECONDS or float("inf"))
    with tempfile.TemporaryDirectory() as folder:
        found = search_counterexamples(conf.SEED) if conf.PROPERTIES else 0
        found += fuzz_all(conf, Path(folder), deadline) if conf.INPUTS else 0
        found += kill_all(conf, Path(folder)) if conf.KILLS else 0
    if found:
        sys.exit(1)


def search_counterexamples(seed: int) -> int:
    """Print pytest's report; return whether a test failed."""
    args = ["-m", "hypothesis", "--hypothesis-profile=fuzz", f"--hypothesis-seed={seed}"]
    return int(subprocess.run([sys.executable, "-m", "pytest", *args], check=False).returncode != 0)


def kill_all(conf: ConfDef, folder: Path) -> int:
    """Print a line for each script and kind of kill; return the number of findings."""
    found = 0
    for make_task in (preprocessing_task, training_task):
        for manner in (partial(kill_and_restart, kills=conf.KILLS, seed=conf.SEED), kill_at_changes):
            place = folder / f"{make_task.__name__}_{len(list(folder.iterdir()))}"
            place.mkdir()
            try:
                task = make_task(place)
                print(f"script {task.script}: {manner(task, place)}", flush=True)
            except BrokenByKillError as error:
                print(f"FOUND {error}", flush=True)
                found += 1
    return found


def fuzz_all(conf: ConfDef, folder: Path, deadline: float) -> int:
    """Print a row per loader; return the number of findings."""
    loaders = make_loaders(folder)
    if conf.ONLY and conf.ONLY not in loaders:
        raise InputError(f"setting ONLY={conf.ONLY}: expected one of {', '.join(loaders)}")
    chosen = {conf.ONLY: loaders[conf.ONLY]} if conf.ONLY else loaders
    whole = sum(loader.share for loader in chosen.values())
    print(f"{'loader':<16}{'tried':>8}{'used':>8}{'refused':>8}{'found':>7}{'s':>7}")
    total = Count()
    for name, loader in chosen.items():
        begin = time.monotonic()
        inputs = round(conf.INPUTS * loader.share / whole)
        count = fuzz(Campaign(name, loader, conf.SEED, inputs, Path(conf.OUTPUT_DIR), deadline))
        print_row(name, count, time.monotonic() - begin)
        total = Count(*map(sum, zip(total, count, strict=True)))
    print_row("all", total)
    if total.found:
        print(f"findings written to {conf.OUTPUT_DIR}")
    return total.found


def print_row(name: str, count: Count, secs: float | None = None) -> None:
    print(f"{name:<16}" + "".join(f"{number:>8}" for number in count[:3]) + f"{count.found:>7}", end="")
    print(f"{secs:>7.0f}" if secs is not None else "", flush=True)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    run(main, ConfDef)
