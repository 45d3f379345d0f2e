"""ONNX files compute what the networks compute and say how to use them."""

import json

import numpy as np
import pytest
import torch

from ov_piano import export
from ov_piano.cli import run
from ov_piano.export import ConfDef, export_onnx, main
from ov_piano.model.fast import optimize_for_inference
from ov_piano.model.networks import NETWORKS
from ov_piano.model.sidecar import write_operating_point
from ov_piano.model.snapshot import save_snapshot
from ov_piano.settings import Chunking, OperatingPoint
from ov_piano.transcription.strided import onset_velocity_maps
from tests.golden_weights import golden_state
from tests.scripts import ROOT

SIZES = {"OnsetVelocityNet": (250, "model_eval.npz"), "OnsetsAndVelocities": (229, "model_2023_eval.npz")}


@pytest.mark.parametrize("name", NETWORKS)
def test_exported_files_compute_the_maps_of_the_network_for_any_batch_and_length(name, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    network = NETWORKS[name](init=False).eval()
    network.load_state_dict(golden_state(network))
    save_snapshot(network, tmp_path / "x.torch")
    write_operating_point(tmp_path / "x.torch", OperatingPoint(0.7, -0.02))
    run(main, ConfDef, [str(tmp_path / "x.torch"), str(tmp_path / "x.onnx")])
    assert f"x.onnx: {name}, " in capsys.readouterr().out

    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    bins, golden = SIZES[name]
    x = np.load(ROOT / "tests" / "golden" / golden)
    stage = max(key for key in x.files if key.startswith("onset_stage"))
    found = session.run(None, {"logmel": x["x"]})
    for maps, logits in zip(found, (x[stage], x["velocity"]), strict=True):
        np.testing.assert_allclose(maps[:, :, 1:], 1 / (1 + np.exp(-logits.astype(float))), atol=1e-3)
        assert (maps[:, :, 0] == 0).all()
    logmel = torch.randn(bins, 700) * 15 - 40
    expected = onset_velocity_maps(network.infer, logmel, Chunking(1000, 0))
    for maps, wanted in zip(session.run(None, {"logmel": logmel[None].numpy()}), expected, strict=True):
        np.testing.assert_allclose(maps[0], wanted, atol=1e-3)

    facts = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    assert (facts["network"], facts["snapshot"], facts["lowest_note"]) == (name, "x.torch", 21)
    decoder = [facts["decoder"][key] for key in ("threshold", "shift", "gauss_std", "gauss_ksize")]
    assert decoder == [0.7, -0.02, 1, 11]
    logmel = [facts["logmel"][key] for key in ("sample_rate", "window", "hop", "mels", "fmin", "fmax", "top_db")]
    assert logmel == [16_000, 2048, 384, bins, 50, 8000, 80]


def test_the_network_with_optimised_kernels_is_refused(tmp_path):
    network = NETWORKS["OnsetVelocityNet"](init=False).eval()
    with pytest.raises(TypeError, match="expected a plain network, found"):
        export_onnx(optimize_for_inference(network), tmp_path / "x.onnx", {})
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_and_existing_files_are_one_line(tmp_path, monkeypatch, capsys):
    network = NETWORKS["OnsetVelocityNet"](init=False)
    save_snapshot(network, tmp_path / "x.torch")
    (tmp_path / "there.onnx").touch()
    for out, message in (
        ("there.onnx", "there.onnx: exists already; pass OVERWRITE=true"),
        ("x.onnx", "needs no_such_package: pip"),
    ):
        monkeypatch.setattr(export, "EXTRA", ("no_such_package",))
        with pytest.raises(SystemExit):
            run(main, ConfDef, [str(tmp_path / "x.torch"), str(tmp_path / out)])
        assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"x.torch", "there.onnx"}


def test_a_file_that_fails_its_check_is_not_written(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    save_snapshot(NETWORKS["OnsetsAndVelocities"](init=False), tmp_path / "x.torch")
    (tmp_path / "x.onnx").write_text("an earlier export")
    monkeypatch.setattr(export, "largest_difference", lambda network, path: 0.1)
    with pytest.raises(SystemExit) as stop:
        run(main, ConfDef, [str(tmp_path / "x.torch"), str(tmp_path / "x.onnx"), "OVERWRITE=true"])
    assert stop.value.code == 2
    assert "x.onnx: differs from the network by up to 1.0e-01" in capsys.readouterr().err
    assert (tmp_path / "x.onnx").read_text() == "an earlier export"
    assert {path.name for path in tmp_path.iterdir()} == {"x.torch", "x.onnx"}
