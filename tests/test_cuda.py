"""Checks for a machine with a GPU, ``make cuda``: same results as on the CPU; prints speed and memory.

Skipped without a GPU.
"""

import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import soundfile as sf
import torch

from ov_piano.constants import KEYS, MELS
from ov_piano.data.audio import LogMel
from ov_piano.evaluation.scoring import score
from ov_piano.machine.device import select_device
from ov_piano.model.networks import NETWORKS
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.training.schedule import CyclicDecay
from ov_piano.training.step import TrainingForward, TrainingStep, sgd
from ov_piano.transcription.transcriber import Transcriber
from tests.golden_weights import GOLDEN, golden_state
from tests.scripts import MEL_NAME, ROLL_NAME, ROOT, succeed
from tests.test_processes import records, torchrun, training_args

DEVICE = "cuda"
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

SAMPLE = ROOT / "assets" / "sample"
TRAIN_BS, FRAMES, STEPS = 30, 208, 20  # script 1's defaults: 5 s
MINUTES = 20  # of inference
TRAIN = "1_train_onsets_velocities.py"


@pytest.fixture(autouse=True)
def float32():
    """Full precision by default; restores the settings afterwards."""
    select_device(DEVICE, tf32=False)
    yield
    select_device(DEVICE, tf32=True)


@pytest.fixture(scope="module")
def stores(toy_maestro, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    succeed("0a_maestro_to_hdf5mel.py", f"MAESTRO_INPATH={toy_maestro}", f"OUTPUT_DIR={folder}")
    return folder


@pytest.mark.parametrize(
    ("name", "file"), [("OnsetVelocityNet", "model_eval.npz"), ("OnsetsAndVelocities", "model_2023_eval.npz")]
)
@pytest.mark.parametrize("tf32", [False, True])
def test_outputs_equal_the_golden_ones(name, file, tf32):
    select_device(DEVICE, tf32=tf32)
    golden = np.load(GOLDEN / file)
    model = NETWORKS[name](init=False)
    model.load_state_dict(golden_state(model))
    with torch.no_grad():
        onset_stages, velocities = model.eval().to(DEVICE)(torch.from_numpy(golden["x"]).to(DEVICE))
    expected = [golden[f"onset_stage_{i}"] for i in range(len(onset_stages))] + [golden["velocity"]]
    for found, logits in zip([*onset_stages, velocities], expected, strict=True):
        error = np.abs(found.cpu().numpy() - logits).max()
        assert error < (0.02 * np.abs(logits).max() if tf32 else 1e-3)


def test_logmel_equals_the_cpus():
    wave = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, 100_000).astype(np.float32))
    torch.testing.assert_close(LogMel().to(DEVICE)(wave.to(DEVICE)).cpu(), LogMel()(wave), atol=1e-2, rtol=0)


def stepper(batch, device, dropout=0.15, bf16=False):
    """Model with golden weights, its training step, and a batch."""
    rng = np.random.default_rng(0)
    model = OnsetVelocityNet(dropout=dropout, init=False)
    model.load_state_dict(golden_state(model))
    model.train().to(device)
    schedule = CyclicDecay(lr_max=0.001, lr_min=1e-5, period=1000, decay=1.0, slowdown=1.0)
    forward, optimizer = TrainingForward(model, trainable_onsets=True, fast=False), sgd(model, 0.85, 0.0)
    step = TrainingStep(forward, optimizer, schedule, positives_weight=8.0, velocity_weight=10.0, bf16=bf16)
    logmel = torch.from_numpy(rng.normal(-40, 20, (batch, MELS, FRAMES)).astype(np.float32)).to(device)
    velocities = torch.from_numpy(
        rng.integers(1, 128, (batch, KEYS, FRAMES)) * (rng.random((batch, KEYS, FRAMES)) < 0.01)
    )
    return model, step, logmel, velocities.float().to(device)


def test_a_training_step_equals_the_cpus():
    results = {}
    for device in ("cpu", DEVICE):
        model, step, logmel, velocities = stepper(4, device, dropout=0)
        losses = step.losses(logmel, velocities)
        step.update(losses, 1)
        norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
        results[device] = [losses.onset.item(), losses.velocity.item()], norms, model.state_dict()
    (cpu_losses, cpu_norms, cpu_state), (losses, norms, state) = results["cpu"], results[DEVICE]
    np.testing.assert_allclose(losses, cpu_losses, rtol=1e-4)
    np.testing.assert_allclose(list(norms.values()), list(cpu_norms.values()), rtol=1e-2, atol=1e-5)
    for name, expected in cpu_state.items():
        torch.testing.assert_close(state[name].cpu(), expected, rtol=1e-2, atol=1e-4, msg=name)


@pytest.mark.parametrize("precision", ["float32", "TF32", "bfloat16"])
def test_speed_and_memory_of_training(precision, capsys):
    select_device(DEVICE, tf32=precision != "float32")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    _, step, logmel, velocities = stepper(TRAIN_BS, DEVICE, bf16=precision == "bfloat16")
    totals = []
    for i in range(1, STEPS + 6):
        if i == 6:  # the first ones choose algorithms and allocate
            torch.cuda.synchronize()
            begin = time.perf_counter()
        losses = step.losses(logmel, velocities)
        step.update(losses, i)
        totals.append(losses.total.detach())
    torch.cuda.synchronize()
    rate = STEPS / (time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated() / 1e9
    assert torch.stack(totals).isfinite().all()
    assert totals[-1] < totals[0]  # the same batch over and over is learned
    with capsys.disabled():
        name = torch.cuda.get_device_name()
        print(f"\ntraining, TRAIN_BS={TRAIN_BS}, {precision}, {name}: {rate:.2f} steps/s, {peak:.1f} GB")


def test_transcription_equals_the_cpus_and_its_speed(tmp_path, capsys):
    waves = [sf.read(path, dtype="float32")[0] for path in sorted(SAMPLE.glob("*/*.wav"))]
    wave = np.concatenate([wave if wave.ndim == 1 else wave.mean(1) for wave in waves])
    transcriber, on_cpu = Transcriber(device=DEVICE), Transcriber(device="cpu")
    found, expected = transcriber(wave, 16_000), on_cpu(wave, 16_000)
    reference = np.insert(expected[["onset_secs", "note", "velocity"]].to_numpy(float), 1, 0.0, axis=1)
    agreement = score(reference, found[["onset_secs", "note", "velocity"]].to_numpy(float))
    assert len(expected) > 100
    assert agreement.onsets_velocities.f1 > 0.99
    repeats = -(-MINUTES * 60 * 16_000 // len(wave))
    long = np.tile(wave, repeats)
    begin = time.perf_counter()
    notes = transcriber(long, 16_000)
    factor = len(long) / 16_000 / (time.perf_counter() - begin)
    assert len(notes) > 0.9 * repeats * len(expected)
    with capsys.disabled():
        print(f"\ninference, with log-mel, {torch.cuda.get_device_name()}: {factor:.0f} x real time")


def test_the_scripts_run_on_the_gpu(toy_maestro, stores, tmp_path):
    paths = (
        f"MAESTRO_PATH={toy_maestro}",
        f"HDF5_MEL_PATH={stores / MEL_NAME}",
        f"HDF5_ROLL_PATH={stores / ROLL_NAME}",
        f"OUTPUT_DIR={tmp_path}",
        f"DEVICE={DEVICE}",
    )
    tiny = ("TRAIN_BS=2", "TRAIN_BATCH_SECS=1", "DATALOADER_WORKERS=1", "LR_MAX=0.01", "XV_EVERY=3", "SAVE_EVERY=1")
    succeed(TRAIN, *paths, *tiny, "MAX_STEPS=3")
    succeed(TRAIN, *paths, *tiny, "MAX_STEPS=6", "RESUME=auto")
    steps = [record["step"] for record in records(tmp_path) if "lr" in record]
    assert steps == [1, 2, 3, 4, 5, 6]
    (snapshot,) = (tmp_path / "model_snapshots").glob("*step=6_f1=*.torch")
    assert "AVERAGES" in succeed("2_eval_onsets_velocities.py", *paths, f"SNAPSHOT_INPATH={snapshot}")


def test_preprocessing_on_the_gpu_equals_the_cpus(toy_maestro, stores, tmp_path):
    succeed("0a_maestro_to_hdf5mel.py", f"MAESTRO_INPATH={toy_maestro}", f"OUTPUT_DIR={tmp_path}", f"DEVICE={DEVICE}")
    with h5py.File(tmp_path / MEL_NAME) as found, h5py.File(stores / MEL_NAME) as expected:
        np.testing.assert_allclose(found["data"][:], expected["data"][:], atol=1e-2)


USES_NO_GPU = """
import sys, torch
from tests.scripts import accepted
accepted(*sys.argv[1:])
sys.exit("CUDA was initialised" if torch.cuda.is_initialized() else 0)
"""


def test_device_cpu_leaves_the_gpu_alone(toy_maestro, stores, tmp_path):
    args = [*training_args(toy_maestro, stores, tmp_path), "MAX_STEPS=2"]
    done = subprocess.run(
        [sys.executable, "-c", USES_NO_GPU, TRAIN, *args], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU: nccl needs two")
def test_two_gpus_give_the_losses_of_one(toy_maestro, stores, tmp_path):
    losses = []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        args = [arg for arg in training_args(toy_maestro, stores, output) if not arg.startswith("DEVICE=")]
        torchrun(processes, *args, f"DEVICE={DEVICE}", "TF32=false", "MAX_STEPS=20")
        losses.append([(r["onset_loss"], r["velocity_loss"]) for r in records(output) if "lr" in r])
    assert len(losses[0]) == len(losses[1]) == 20
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3, atol=1e-3)
