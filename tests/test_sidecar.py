"""The YAML file beside a snapshot: written by training, respected by every reader."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from ov_piano import export
from ov_piano.constants import ROLL_ROWS
from ov_piano.data.audio import LogMel
from ov_piano.data.hdf5 import StoreWriter, open_pair
from ov_piano.data.maestro import MaestroMetadata
from ov_piano.data.store_names import MelName, RollName
from ov_piano.errors import InputError
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.sidecar import (
    read_sidecar,
    sidecar_path,
    write_operating_point,
    write_sidecar,
)
from ov_piano.model.snapshot import save_snapshot
from ov_piano.settings import LogMelSettings, OperatingPoint
from ov_piano.training.snapshots import SnapshotFolder
from ov_piano.transcription.streaming import StreamingTranscriber
from ov_piano.transcription.transcriber import Transcriber, load_model
from tests.scripts import load_script

SETTINGS = LogMelSettings()


def slopes(model: nn.Module) -> set[float]:
    return {layer.negative_slope for layer in model.modules() if isinstance(layer, nn.LeakyReLU)}


def save(folder, slope=0.01, logmel=SETTINGS):
    """A snapshot saved as training saves it."""
    model = OnsetVelocityNet(in_bins=logmel.mels, leaky_relu_slope=slope, init=False)
    origin = {"dataset": "MAESTROv3", "commit": "abc"}
    return SnapshotFolder(folder, None, slope, logmel, origin).save(model, 7, {"F1": np.float64(0.5)})


def change(snapshot, **entries) -> None:
    write_sidecar(snapshot, entries)


def test_training_writes_how_the_snapshot_was_made(tmp_path):
    snapshot = save(tmp_path)
    assert yaml.safe_load(sidecar_path(snapshot).read_text()) == {
        "network": "OnsetVelocityNet",
        "leaky_relu_slope": 0.01,
        "logmel": asdict(SETTINGS),
        "training": {"dataset": "MAESTROv3", "commit": "abc", "steps": 7, "scores": {"F1": 0.5}},
    }
    sidecar = read_sidecar(snapshot)
    assert (sidecar.network, sidecar.leaky_relu_slope, sidecar.logmel) == ("OnsetVelocityNet", 0.01, SETTINGS)
    assert read_sidecar(snapshot).point is None


def test_a_snapshot_that_cannot_be_saved_leaves_no_yaml_file(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ov_piano.training.snapshots.save_snapshot", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_saving_the_operating_point_keeps_the_other_entries(tmp_path):
    snapshot = save(tmp_path)
    before = yaml.safe_load(sidecar_path(snapshot).read_text())
    evaluate = load_script("2_eval_onsets_velocities.py")
    for point in (OperatingPoint(0.7, 0.01), OperatingPoint(0.8, -0.01)):
        evaluate.save_operating_point(str(snapshot), point)
        after = yaml.safe_load(sidecar_path(snapshot).read_text())
        assert {name: after[name] for name in before} == before
        assert after.keys() - before.keys() == {"threshold", "shift", "commit"}
        assert read_sidecar(snapshot).point == point


def test_the_slope_of_training_is_used_without_a_setting(tmp_path):
    snapshot = save(tmp_path)
    write_operating_point(snapshot, OperatingPoint(0.7, 0.0))
    assert slopes(load_model(snapshot)) == slopes(load_model(snapshot, leaky_relu_slope=0.01)) == {0.01}
    logmel = torch.randn(1, 250, 40) * 20 - 40
    with torch.no_grad():
        found = Transcriber(snapshot, device="cpu", fast=False).infer(logmel)
        expected = load_model(snapshot).infer(logmel)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_plain_state_dicts_and_operating_points_alone_have_the_published_slope(tmp_path):
    snapshot = tmp_path / "x.torch"
    save_snapshot(OnsetVelocityNet(init=False), snapshot)
    assert slopes(load_model(snapshot)) == {0.1}
    write_operating_point(snapshot, OperatingPoint(0.7, 0.0), commit="abc")
    assert slopes(load_model(snapshot)) == {0.1}
    assert slopes(load_model(snapshot, leaky_relu_slope=0.3)) == {0.3}
    assert Transcriber(snapshot, device="cpu").logmel == SETTINGS


def test_another_slope_than_in_training_is_refused_in_one_line(tmp_path):
    snapshot = save(tmp_path)
    for call in (
        lambda: load_model(snapshot, leaky_relu_slope=0.1),
        lambda: Transcriber(snapshot, device="cpu", leaky_relu_slope=0.1),
        lambda: export.main(export.ConfDef(str(snapshot), str(tmp_path / "x.onnx"), LEAKY_RELU_SLOPE=0.1)),
    ):
        with pytest.raises(InputError) as refusal:
            call()
        assert f"{sidecar_path(snapshot)}: trained with a leaky ReLU slope of 0.01, found 0.1" in str(refusal.value)
        assert "\n" not in str(refusal.value)


def store_pair(folder, logmel):
    """A pair of HDF5 files with one short recording."""
    mel, roll = folder / str(MelName("MAESTROv3", logmel)), folder / str(RollName("MAESTROv3", logmel.frame_secs, True))
    metadata = MaestroMetadata("a", 2018, "test", 0.24, "composer", "title")
    for path, height in ((mel, logmel.mels), (roll, ROLL_ROWS)):
        with StoreWriter(path, height, 10) as store:
            store.append(np.zeros((height, 10), np.float32), metadata)
    return open_pair(mel, roll), mel, roll


def inference(snapshot, pair, mel, roll, **settings):
    """Script 2's network for the snapshot and the stores."""
    evaluate = load_script("2_eval_onsets_velocities.py")
    paths = {"SNAPSHOT_INPATH": str(snapshot), "HDF5_MEL_PATH": str(mel), "HDF5_ROLL_PATH": str(roll)}
    return evaluate.load_inference(evaluate.ConfDef(**paths, DEVICE="cpu", FAST=False, **settings), pair)


def test_script_2_uses_the_slope_and_refuses_another(tmp_path):
    snapshot, stores = save(tmp_path), store_pair(tmp_path, SETTINGS)
    assert slopes(inference(snapshot, *stores)) == {0.01}
    with pytest.raises(InputError, match=r"\.yaml: trained with a leaky ReLU slope of 0\.01, found 0\.1"):
        inference(snapshot, *stores, LEAKY_RELU_SLOPE=0.1)


@pytest.mark.parametrize(
    ("other", "expected", "found"),
    [({"hop": 320}, "hop=320", "hop=384"), ({"fmin": 30, "fmax": 7000}, "fmin=30, fmax=7000", "fmin=50, fmax=8000")],
)
def test_script_2_refuses_stores_of_other_log_mels(tmp_path, other, expected, found):
    snapshot = save(tmp_path, logmel=replace(SETTINGS, **other))
    pair, mel, roll = store_pair(tmp_path, SETTINGS)
    with pytest.raises(InputError) as refusal:
        inference(snapshot, pair, mel, roll)
    assert str(refusal.value) == (
        f"{mel}: expected log-mels with {expected}, as {sidecar_path(snapshot)} says, found {found}"
    )


def test_transcription_computes_the_log_mels_of_training(tmp_path):
    settings = replace(SETTINGS, window=4096, fmin=30, fmax=7000)
    snapshot = save(tmp_path, logmel=settings)
    transcriber = Transcriber(snapshot, device="cpu", fast=False)
    wave = (0.1 * np.random.default_rng(0).normal(size=16_000)).astype(np.float32)
    spooled = []
    transcriber.detect = lambda logmel: spooled.append(logmel.read(0, logmel.frames))
    transcriber(wave, 16_000)
    expected = LogMel(settings)(torch.from_numpy(wave))
    torch.testing.assert_close(spooled[0], expected, atol=1e-3, rtol=0)
    assert (expected - LogMel()(torch.from_numpy(wave))).abs().max() > 1
    stream = StreamingTranscriber(transcriber)
    assert torch.equal(stream._logmel.filters, LogMel(settings).filters)
    facts = export.onnx_metadata(load_model(snapshot), snapshot, OperatingPoint(0.7, 0.0))
    assert '"window": 4096' in facts["logmel"]


@pytest.mark.parametrize("other", [{"hop": 320}, {"sample_rate": 22_050}, {"window": 768}, {"window": 1025}])
def test_log_mels_that_transcription_does_not_compute_are_refused(tmp_path, other):
    snapshot = save(tmp_path, logmel=replace(SETTINGS, **other))
    with pytest.raises(InputError, match=r"\.yaml: transcription needs log-mels with sample_rate=16000, hop=384 "):
        Transcriber(snapshot, device="cpu")


def test_a_yaml_file_of_another_network_is_refused(tmp_path):
    snapshot = save(tmp_path)
    change(snapshot, network="OnsetsAndVelocities")
    with pytest.raises(InputError, match="expected a snapshot of OnsetsAndVelocities, found one of OnsetVelocityNet"):
        load_model(snapshot)
    change(snapshot, network="OnsetVelocityNet", logmel=asdict(replace(SETTINGS, mels=229)))
    with pytest.raises(InputError, match="expected a snapshot for 229 mel bands, found 250"):
        load_model(snapshot)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "just text",
        "[1, 2]",
        "network: 3",
        "leaky_relu_slope: steep",
        "leaky_relu_slope: -1",
        "leaky_relu_slope: .nan",
        "leaky_relu_slope: true",
        f"leaky_relu_slope: 1{'0' * 400}",
        "logmel: 250",
        "logmel: {mels: 250}",
        "logmel: {sample_rate: 16000, window: 2048, hop: 0, mels: 250, fmin: 50, fmax: 8000}",
        "logmel: {sample_rate: 16000, window: 2048, hop: 384, mels: 250.5, fmin: 50, fmax: 8000}",
        "logmel: {sample_rate: 16000, window: 2048, hop: 384, mels: 250, fmin: 50, fmax: [1]}",
        "logmel: {sample_rate: 16000, window: 2048, hop: 384, mels: 250, fmin: 50, fmax: 40}",
        "logmel: {sample_rate: 16000, window: 9999999999, hop: 384, mels: 250, fmin: 50, fmax: 8000}",
        "threshold: 0.5",
    ],
)
def test_nonsense_is_refused_in_one_line(tmp_path, text):
    sidecar_path(tmp_path / "x.torch").write_text(text)
    with pytest.raises(InputError) as refusal:
        read_sidecar(tmp_path / "x.torch")
    assert str(refusal.value).startswith(f"{tmp_path / 'x.yaml'}: ")
    assert "\n" not in str(refusal.value)


def test_training_refuses_to_start_from_a_snapshot_of_another_slope_or_log_mel(tmp_path):
    train = load_script("1_train_onsets_velocities.py")
    pair, mel, _ = store_pair(tmp_path, SETTINGS)
    conf = train.ConfDef(SNAPSHOT_INPATH=str(save(tmp_path)), HDF5_MEL_PATH=str(mel), OUTPUT_DIR=str(tmp_path / "out"))
    with pytest.raises(InputError, match=r"leaky ReLU slope of 0\.01, found 0\.1"):
        train.build_trainer(conf, pair, None, None)
    conf.LEAKY_RELU_SLOPE = 0.01
    change(conf.SNAPSHOT_INPATH, logmel=asdict(replace(SETTINGS, fmin=30)))
    with pytest.raises(InputError, match=r"expected log-mels with fmin=30, .* found fmin=50"):
        train.build_trainer(conf, pair, None, None)


def test_an_operating_point_that_could_not_be_read_is_not_written(tmp_path):
    snapshot = save(tmp_path)
    before = sidecar_path(snapshot).read_text()
    with pytest.raises(InputError, match=r"\.yaml: expected a threshold from 0 to 1 and a shift below 1 s, found"):
        write_operating_point(snapshot, OperatingPoint(0.7, -10.0))
    assert sidecar_path(snapshot).read_text() == before
