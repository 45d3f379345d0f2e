"""The shipped snapshot on the sample's test recording, and the fallback for a missing operating point."""

import logging
import shutil
from pathlib import Path

import pytest

from ov_piano.evaluation.ground_truth import load_ground_truths
from ov_piano.evaluation.scoring import score
from ov_piano.evaluation.search import as_notes
from ov_piano.model.ends import SUFFIX
from ov_piano.model.networks import NETWORKS
from ov_piano.model.snapshot import save_snapshot
from ov_piano.resources import default_snapshot
from ov_piano.transcription.transcriber import Transcriber

ASSETS = Path(__file__).parents[1] / "assets"
SAMPLE = ASSETS / "sample"


@pytest.mark.parametrize(("network", "notes"), [("OnsetVelocityNet", 141), ("OnsetsAndVelocities", 140)])
def test_a_shipped_snapshot_finds_the_notes_of_the_sample(network, notes):
    (snapshot,) = (path for path in ASSETS.glob(f"{network}_*.torch") if not path.name.endswith(SUFFIX))
    wave = SAMPLE / "2008" / "bach_invention_bwv772.wav"
    (reference,) = load_ground_truths([wave.with_suffix(".midi")])
    events = Transcriber(snapshot, device="cpu")(wave)
    assert len(reference) == 141
    assert len(events) == notes
    assert score(reference, as_notes(events)).onsets.f1 >= 0.99


@pytest.mark.parametrize(
    ("network", "published"), [("OnsetVelocityNet", (0.77, -0.01)), ("OnsetsAndVelocities", (0.74, -0.01))]
)
def test_without_an_operating_point_the_published_one_is_used_with_a_warning(tmp_path, caplog, network, published):
    path = tmp_path / "own.torch"
    save_snapshot(NETWORKS[network](init=False), path)
    with caplog.at_level(logging.WARNING):
        transcriber = Transcriber(path, device="cpu")
    assert (transcriber.threshold, transcriber.shift) == published
    assert f"no operating point found for {path}" in caplog.text
    caplog.clear()
    given = Transcriber(path, device="cpu", threshold=0.5, shift=0.0)
    assert (given.threshold, given.shift) == (0.5, 0.0)
    assert not caplog.records


def test_the_operating_point_travels_with_the_snapshot(tmp_path, caplog):
    for suffix in (".torch", ".yaml"):
        shutil.copy(default_snapshot().with_suffix(suffix), tmp_path / f"own{suffix}")
    shipped, copy = Transcriber(device="cpu"), Transcriber(tmp_path / "own.torch", device="cpu")
    assert (copy.threshold, copy.shift) == (shipped.threshold, shipped.shift)
    assert not caplog.records
