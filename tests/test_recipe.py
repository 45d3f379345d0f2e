"""The programs that make training data (assets/recipe): labels, trees, means of weights, note ends."""

import importlib
import subprocess
import sys

import h5py
import mido
import numpy as np
import pytest
import soundfile as sf
import torch

from ov_piano.data import maestro
from ov_piano.data.midi import read_notes
from ov_piano.errors import InputError
from ov_piano.model.ends import load_ends
from ov_piano.model.networks import load_network
from ov_piano.resources import ASSETS, default_snapshot
from tests.scripts import ROOT, accepted

RECIPE = ROOT / "assets" / "recipe"
PEDAL = 50  # position at which the dampers lift
SECOND = 960  # ticks at 120 beats a minute


@pytest.fixture
def recipe(monkeypatch):
    """Import a module of the recipe by name."""
    monkeypatch.syspath_prepend(str(RECIPE))
    return importlib.import_module


def program(name: str, *args: object) -> str:
    """Run a program of the recipe; returns its output."""
    command = [sys.executable, RECIPE / name, *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def performance(seed: int = 0) -> mido.MidiFile:
    """Ten seconds of random keys and pedal positions, in MAESTRO's layout of two tracks."""
    rng = np.random.default_rng(seed)
    messages, down = [mido.Message("program_change", program=0)], set()
    for _ in range(400):
        wait, note = int(rng.integers(0, SECOND // 20)), int(rng.integers(55, 62))
        if rng.random() < 0.3:
            kind = {"type": "control_change", "control": 64, "value": int(rng.integers(0, 128))}
        else:
            kind = {"type": "note_on", "note": note, "velocity": 0 if note in down else int(rng.integers(1, 128))}
            down ^= {note}
        messages.append(mido.Message(**kind, time=wait))
    messages += [mido.Message("note_on", note=note, velocity=0, time=9) for note in sorted(down)]
    messages.append(mido.Message("control_change", control=64, value=0, time=SECOND))
    tempo = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=500_000)])
    return mido.MidiFile(type=1, ticks_per_beat=SECOND // 2, tracks=[tempo, mido.MidiTrack(messages)])


def notes_of(mid: mido.MidiFile, tmp_path) -> np.ndarray:
    """The labels that script 0a reads."""
    mid.save(tmp_path / "x.mid")
    return read_notes(tmp_path / "x.mid").notes


@pytest.mark.parametrize("seed", range(3))
def test_the_notes_that_are_rendered_are_those_of_the_labels(recipe, tmp_path, seed):
    tools, mid = recipe("midi_tools"), performance(seed)
    rendered, _ = tools.sounding_notes(mid, PEDAL)
    mid = performance(seed)  # mido keeps the merged tracks from before a change
    tools.switch_pedal(mid, PEDAL)
    again, length = tools.sounding_notes(mid, 64)
    assert again == rendered
    labels = notes_of(mid, tmp_path)
    rendered = np.array(rendered)
    order = np.lexsort((rendered[:, 2], rendered[:, 0]))
    np.testing.assert_allclose(rendered[order], labels, atol=1e-6)
    curve = tools.pedal_curve(mid, int(length * 1000), 1000, 64)
    secs, values = read_notes(tmp_path / "x.mid").pedals[64].T
    held = np.diff(secs)[values[:-1] >= 64].sum()
    assert curve.sum() / 1000 == pytest.approx(held, abs=0.1)
    assert held > 1


def test_a_cut_keeps_the_notes_that_begin_in_the_window(recipe, tmp_path):
    tools, mid = recipe("midi_tools"), performance()
    whole = notes_of(mid, tmp_path)
    part = notes_of(tools.cut(mid, 2.0, 3.0), tmp_path)
    inside = whole[(whole[:, 0] >= 2.0) & (whole[:, 0] < 5.0)]
    np.testing.assert_allclose(part[:, [0, 2, 3]], inside[:, [0, 2, 3]] - [2.0, 0, 0], atol=1e-6)
    assert part[:, 1].max() < 3.0 + 2 / SECOND  # held by the pedal, to the end of the track


def test_stretched_and_softened_copies(recipe, tmp_path):
    tools, mid = recipe("midi_tools"), performance()
    before = notes_of(mid, tmp_path)
    longer = notes_of(tools.stretch(mid, 1.25), tmp_path)
    np.testing.assert_allclose(longer, before * [1.25, 1.25, 1, 1], atol=0.002)
    tools.soften(mid, 0.5)
    softer = notes_of(mid, tmp_path)
    np.testing.assert_array_equal(softer[:, 3], np.maximum(1, np.round(before[:, 3] * 0.5)))


def test_joined_trees_hold_out_a_piano(toy_maestro, tmp_path):
    recordings = maestro.load_recordings(toy_maestro)
    chosen = recordings[0].name
    program("join.py", tmp_path / "joined", f"a={toy_maestro}", "--hold-out", chosen)
    joined = {recording.name: recording for recording in maestro.load_recordings(tmp_path / "joined")}
    assert set(joined) == {f"a_{recording.name}" for recording in recordings}
    for recording in recordings:
        split = "validation" if recording.name == chosen else recording.metadata.split.replace("validation", "train")
        assert joined[f"a_{recording.name}"].metadata.split == split
        assert joined[f"a_{recording.name}"].midi_path.resolve() == recording.midi_path.resolve()


def test_the_mean_of_weights(tmp_path):
    for name, value in (("a", 1.0), ("b", 4.0)):
        torch.save({"x.weight": torch.full((2,), value), "x.steps": torch.tensor(7)}, tmp_path / f"{name}.torch")
    program("average.py", tmp_path / "mean.torch", tmp_path / "a.torch", tmp_path / "b.torch")
    mean = torch.load(tmp_path / "mean.torch")
    assert mean["x.weight"].tolist() == [2.5, 2.5]
    assert mean["x.steps"] == 7


@pytest.mark.parametrize("content", [None, {"x.weight": torch.zeros(3)}])
def test_weights_of_another_network_are_not_averaged(recipe, content, tmp_path):
    torch.save({"x.weight": torch.zeros(2)}, tmp_path / "a.torch")
    other = tmp_path / "b.torch"
    if content:
        torch.save(content, other)
    message = "expected weights of the same network as .*a.torch" if content else "snapshot not found"
    with pytest.raises(InputError, match=f"b.torch: {message}"):
        recipe("average").read_all([tmp_path / "a.torch", other])


def test_key_up_measures_the_fall_after_a_note(recipe):
    rate, secs = 16_000, np.arange(3 * 16_000) / 16_000
    tone = np.sin(2 * np.pi * 440 * secs) * 10 ** (-60 * np.maximum(secs - 1, 0) / 20)  # falls by 60 dB a second
    fall = recipe("key_up").falls(tone, rate, np.array([[0.2, 1.0, 69, 80]]))
    np.testing.assert_allclose(fall, [[6, 12]], atol=0.7)
    with_neighbour = np.array([[0.2, 1.0, 69, 80], [0.5, 2.0, 57, 80]])  # whose second partial is in the band
    assert recipe("key_up").falls(tone, rate, with_neighbour).shape[0] < 2


def test_note_ends_are_fitted_on_stored_logits(tmp_path):
    stores = tmp_path / "stores"
    accepted("0a_maestro_to_hdf5mel.py", f"MAESTRO_INPATH={ASSETS / 'sample'}", f"OUTPUT_DIR={stores}", "MELBINS=229")
    snapshot, out = default_snapshot(), tmp_path / "ends"
    program("fit_ends.py", snapshot, stores, out, "--steps", 2)
    model = load_network(snapshot)
    load_ends(out / "fitted.ends.torch", model)
    (logits,) = out.glob("logits_*/*.npy")
    (train,) = [r for r in maestro.load_recordings(ASSETS / "sample") if r.metadata.split == "train"]
    assert logits.stem.rpartition("_")[0] == train.name
    assert abs(np.load(logits).shape[1] * 0.024 - sf.info(train.audio_path).duration) < 0.1
    (log_mels,) = stores.glob("*_logmel_*.h5")
    with h5py.File(log_mels, "r+") as file:
        file["data"][:] += 1  # rendered anew, under the same name
    program("fit_ends.py", snapshot, stores, out, "--steps", 2)
    assert len(list(out.glob("logits_*/*.npy"))) == 2
