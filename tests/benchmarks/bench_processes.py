"""Training with torchrun in two processes against one, on the same cores: seconds per step of 4 chunks of 5 s.

Both use plain PyTorch, since the optimised kernels support a single process only. On the same cores, two processes
gain nothing, so this measures the cost of synchronisation; distributed training pays off with several GPUs.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.scripts import MEL_NAME, ROLL_NAME, ROOT, succeed

BATCH, STEPS, ROUNDS = 4, 4, 2
SAMPLE = ROOT / "assets" / "sample"


def benchmarks() -> dict[str, dict]:
    cores = os.cpu_count() or 2
    secs: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        succeed("0a_maestro_to_hdf5mel.py", f"MAESTRO_INPATH={SAMPLE}", f"OUTPUT_DIR={folder}")
        for _ in range(ROUNDS):
            for processes, times in secs.items():
                times.extend(step_secs(Path(folder), processes, threads=max(1, cores // processes)))
    two, one = statistics.median(secs[2]), statistics.median(secs[1])
    rates = {"samples_per_second_2_processes": BATCH / two, "samples_per_second_1_process": BATCH / one}
    print("processes: " + ", ".join(f"{name} {rate:.2f}" for name, rate in rates.items()))
    return {"processes": {"ours": two, "plain": one, "ratio": one / two, "unit": "s", "cores": cores, **rates}}


def step_secs(folder: Path, processes: int, threads: int) -> list[float]:
    """Seconds of each step except the first, which allocates memory."""
    output = Path(tempfile.mkdtemp(dir=folder))
    args = [
        f"MAESTRO_PATH={SAMPLE}",
        f"HDF5_MEL_PATH={folder / MEL_NAME}",
        f"HDF5_ROLL_PATH={folder / ROLL_NAME}",
        f"OUTPUT_DIR={output}",
        *("DEVICE=cpu", f"TRAIN_BS={BATCH}", f"MAX_STEPS={STEPS}", "DATALOADER_WORKERS=0", "FAST=false"),
    ]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run([*launch, "1_train_onsets_velocities.py", *args], cwd=ROOT, env=env, check=True, capture_output=True)
    (log,) = (output / "txt_logs").glob("*.jsonl")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [record["secs"] for record in records if "lr" in record][1:]
