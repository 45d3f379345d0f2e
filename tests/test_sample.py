"""The sample recordings: a consistent MAESTRO v3 tree, audio that matches its MIDI, a reproducible program."""

import csv
import sys
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile

from ov_piano.data.maestro import load_recordings
from tests.scripts import MEL_NAME, ROLL_NAME, accepted

SAMPLE = Path(__file__).parents[1] / "assets" / "sample"
COLUMNS = ["canonical_composer", "canonical_title", "split", "year", "midi_filename", "audio_filename", "duration"]
RATE = 16_000


def table() -> list[dict]:
    with open(SAMPLE / "maestro-v3.0.0.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def perform(monkeypatch):
    """The program beside the recordings."""
    monkeypatch.syspath_prepend(SAMPLE)
    import perform  # noqa: PLC0415

    yield perform
    sys.modules.pop("perform")
    sys.modules.pop("scores")


def test_tree_is_a_small_maestro():
    assert list(table()[0]) == COLUMNS
    assert [row["split"] for row in table()] == ["train", "validation", "test"]
    recordings = load_recordings(SAMPLE, version=3)
    assert [recording.name for recording in recordings] == [Path(row["audio_filename"]).stem for row in table()]
    listed = {SAMPLE / row[column] for row in table() for column in ("midi_filename", "audio_filename")}
    assert {path for path in SAMPLE.rglob("*") if path.suffix in (".wav", ".midi")} == listed
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 4 * 2**20


@pytest.mark.parametrize("row", table(), ids=lambda row: row["split"])
def test_audio_is_as_documented(row):
    info = soundfile.info(SAMPLE / row["audio_filename"])
    assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16")
    assert 20 <= info.duration <= 30
    assert info.duration == pytest.approx(float(row["duration"]), abs=1e-6)
    wave, _ = soundfile.read(SAMPLE / row["audio_filename"])
    assert 0.5 < np.abs(wave).max() < 0.9
    assert np.abs(wave[: int(0.45 * RATE)]).max() < 0.002  # silence before the first note


@pytest.mark.parametrize(
    ("row", "notes"), list(zip(table(), (176, 51, 141), strict=True)), ids=("train", "validation", "test")
)
def test_midi_is_structured_as_in_maestro(row, notes):
    midi = mido.MidiFile(SAMPLE / row["midi_filename"])
    assert (midi.type, midi.ticks_per_beat, len(midi.tracks)) == (1, 384, 2)
    assert [message.type for message in midi.tracks[0]] == ["set_tempo", "time_signature", "end_of_track"]
    types = [message.type for message in midi.tracks[1]]
    assert types[0] == "program_change"
    assert types[-1] == "end_of_track"
    assert set(types[1:-1]) <= {"note_on", "control_change"}
    down, onsets = set(), 0
    for message in midi.tracks[1]:
        if message.type == "note_on" and message.velocity:
            assert message.note not in down
            down.add(message.note)
            onsets += 1
        elif message.type == "note_on":
            down.remove(message.note)
    assert onsets == notes
    assert not down
    assert float(row["duration"]) - 2 < midi.length < float(row["duration"])


def rise_secs(wave: np.ndarray, onset: float, note: int) -> float | None:
    """Seconds from ``onset`` until the first partials reach half their height; None if they already sounded."""
    around = wave[int((onset - 0.06) * RATE) :][: int(0.14 * RATE)]
    seconds, envelope = np.arange(len(around)) / RATE, 0
    for partial in (1, 2, 3):
        hz = partial * 440 * 2 ** ((note - 69) / 12)
        envelope = envelope + np.abs(np.convolve(around * np.exp(-2j * np.pi * hz * seconds), np.hanning(384), "same"))
    before, after = envelope[480:800].mean(), envelope[960:1600].max()
    if after < 3 * before:
        return None
    return (640 + np.argmax(envelope[640:] > (before + after) / 2)) / RATE - 0.06


@pytest.mark.parametrize("row", table(), ids=lambda row: row["split"])
def test_audio_plays_its_midi(row):
    wave, _ = soundfile.read(SAMPLE / row["audio_filename"])
    now, rises = 0.0, []
    for message in mido.MidiFile(SAMPLE / row["midi_filename"]):
        now += message.time
        if message.type == "note_on" and message.velocity and message.note >= 54:
            rises.append(rise_secs(wave, now, message.note))
    heard = np.array([rise for rise in rises if rise is not None])
    assert len(heard) > 30
    assert abs(np.median(heard)) < 0.007
    assert np.mean(np.abs(heard) < 0.012) > 0.9


@pytest.mark.parametrize(("network", "mels"), [("OnsetVelocityNet", 250), ("OnsetsAndVelocities", 229)])
def test_each_network_is_trained_and_evaluated_on_it(network, mels, tmp_path):
    accepted("0a_maestro_to_hdf5mel.py", f"MAESTRO_INPATH={SAMPLE}", f"OUTPUT_DIR={tmp_path}", f"MELBINS={mels}")
    stores = (
        f"MAESTRO_PATH={SAMPLE}",
        f"HDF5_MEL_PATH={tmp_path / MEL_NAME.replace('mel=250', f'mel={mels}')}",
        f"HDF5_ROLL_PATH={tmp_path / ROLL_NAME}",
        f"OUTPUT_DIR={tmp_path}",
    )
    tiny = ("TRAIN_BS=2", "TRAIN_BATCH_SECS=1", "DATALOADER_WORKERS=0", "MAX_STEPS=2")
    accepted("1_train_onsets_velocities.py", *stores, *tiny, f"NETWORK={network}")
    (snapshot,) = (tmp_path / "model_snapshots").glob(f"{network}_*step=2_f1=*.torch")
    printed = accepted("2_eval_onsets_velocities.py", *stores, f"SNAPSHOT_INPATH={snapshot}")
    assert "bach_invention_bwv772" in printed
    assert "AVERAGES (t=0.77, s=-0.01)" in printed


def test_performance_is_the_one_that_ships(perform, tmp_path):
    for number, piece in enumerate(perform.PIECES):
        midi = perform.to_midi(*perform.play(piece, np.random.default_rng([846, number])))
        midi.save(tmp_path / "again.midi")
        shipped = SAMPLE / str(piece.year) / f"{piece.file}.midi"
        assert (tmp_path / "again.midi").read_bytes() == shipped.read_bytes()


@pytest.fixture
def piano(tmp_path) -> Path:
    """A sampled piano of three decaying sines, each after 10 ms of silence."""
    folder = tmp_path / "piano"
    folder.mkdir()
    seconds = np.arange(4 * RATE) / RATE
    rows = ["file,midi,layer,lovel,hivel,gain"]
    for midi in (36, 60, 84):
        tone = np.exp(-seconds) * np.sin(2 * np.pi * 440 * 2 ** ((midi - 69) / 12) * seconds)
        soundfile.write(folder / f"{midi}.wav", np.concatenate([np.zeros(160), 0.9 * tone]), RATE)
        rows.append(f"{midi}.wav,{midi},1,1,127,0.5")
    (folder / "index.csv").write_text("\n".join(rows))
    return folder


def test_tones_begin_at_their_note_on_and_end_with_their_note(perform, piano):
    midi = perform.to_midi([perform.PlayedNote(1.0, 1.5, 60, 80)], [])
    wave = np.abs(perform.render(midi, perform.Piano(piano), np.random.default_rng(0)))
    assert wave[:15_990].max() < 0.002
    assert wave[16_000:16_080].max() > 0.5
    assert wave[24_000 + 10_000 :].max() < 0.02


def test_whole_program_is_deterministic(perform, piano, tmp_path):
    for out in ("a", "b"):
        perform.main(perform.ConfDef(PIANO_PATH=str(piano), OUTPUT_DIR=str(tmp_path / out)))
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
