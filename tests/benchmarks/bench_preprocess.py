"""Script 0a on an hour of 44.1 kHz stereo with MIDI, against a single process that works sequentially.

Both run as commands, so the time includes starting Python. Also reports the peak memory of all
processes together (proportional set size, Linux) for six and for twelve recordings.
"""

import csv
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import soundfile as sf

from tests.benchmarks.bench_midi import performances
from tests.benchmarks.paired import paired
from tests.conftest import COLUMNS, random_notes, write_wave
from tests.processes import descendants
from tests.scripts import MEL_NAME, ROOT

RECORDINGS, MINUTES = 6, 10
LOUD_SECS = 60  # synthesised, then repeated at other levels


def benchmarks() -> dict[str, dict]:
    with tempfile.TemporaryDirectory() as folder:
        tree, output = Path(folder) / "maestro-v3.0.0", Path(folder) / "out"
        write_tree(tree, RECORDINGS)
        entry = paired(lambda: run_ours(tree, output), lambda: run_plain(tree, output), rounds=3)
        run_plain(tree, output)
        plain = (output / MEL_NAME).rename(Path(folder) / "plain.h5")
        entry["peak_bytes"] = peak_memory(lambda: run_ours(tree, output))
        with h5py.File(plain) as expected, h5py.File(output / MEL_NAME) as ours:
            assert np.abs(expected["data"][:, :50_000] - ours["data"][:, :50_000]).max() < 1e-2
        write_tree(tree, 2 * RECORDINGS)
        entry["peak_bytes_twice_the_data"] = peak_memory(lambda: run_ours(tree, output))
    print(f"preprocess: {entry['peak_bytes'] / 1e6:.0f} MB, {entry['peak_bytes_twice_the_data'] / 1e6:.0f} MB for 2 h")
    return {"preprocess": entry}


def write_tree(root: Path, recordings: int) -> None:
    """Create recordings of ten minutes each, with unrelated MIDI files."""
    rng, rows = np.random.default_rng(0), []
    (root / "2004").mkdir(parents=True, exist_ok=True)
    midis = performances(root)
    for index in range(recordings):
        wave, midi = root / "2004" / f"{index}.wav", root / "2004" / f"{index}.midi"
        rows.append(("", "", "train", 2004, f"2004/{midi.name}", f"2004/{wave.name}", 60 * MINUTES))
        if wave.exists():
            continue
        write_wave(wave, random_notes(rng, LOUD_SECS), LOUD_SECS, seed=index)
        minute, rate = sf.read(wave, dtype="int16")
        gains = rng.uniform(0.2, 1, 60 * MINUTES // LOUD_SECS)
        sf.write(wave, np.concatenate([(gain * minute).astype(np.int16) for gain in gains]), rate)
        shutil.copy(midis[index], midi)
    with open(root / "maestro-v3.0.0.csv", "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def run_ours(tree: Path, output: Path) -> None:
    shutil.rmtree(output, ignore_errors=True)
    _run(ROOT / "0a_maestro_to_hdf5mel.py", f"MAESTRO_INPATH={tree}", f"OUTPUT_DIR={output}")


def run_plain(tree: Path, output: Path) -> None:
    shutil.rmtree(output, ignore_errors=True)
    _run("-m", "tests.plain_pipeline", tree, output)


def _run(*command: str | Path) -> None:
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)


def peak_memory(work) -> int:
    """Peak memory in bytes of all processes that ``work`` starts."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, sum(map(_own_memory, descendants(os.getpid()))))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return peak


def _own_memory(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
