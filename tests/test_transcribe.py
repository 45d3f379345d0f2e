"""Recordings to MIDI: chunks equal the whole, files read back, the command line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from torch.nn.functional import pad

import ov_piano
from ov_piano.cli import run
from ov_piano.constants import KEYS, MELS
from ov_piano.data.audio import LogMel, load_mono
from ov_piano.data.midi import read_notes
from ov_piano.errors import InputError
from ov_piano.machine.atomic import atomic_write
from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.onsets_and_velocities import OnsetsAndVelocities
from ov_piano.model.sidecar import read_sidecar, write_operating_point
from ov_piano.model.snapshot import save_snapshot
from ov_piano.plots.transcription import plot_transcription
from ov_piano.settings import Chunking, DecoderSettings, LogMelSettings, OperatingPoint
from ov_piano.transcribe import ConfDef, main, plan_outputs
from ov_piano.transcription.decoder import Decoder
from ov_piano.transcription.events import decode_pieces
from ov_piano.transcription.files import find_recordings, recording_seconds
from ov_piano.transcription.midi_writer import TICK_SECS, to_midi, to_notes, write_midi
from ov_piano.transcription.stream import SpooledLogMel, spool_logmel
from ov_piano.transcription.strided import onset_velocity_maps
from ov_piano.transcription.transcriber import Transcriber

ROOT = Path(__file__).parents[1]
RATE = 16_000
THRESHOLD = 0.35


def music(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """(samples, channels): decaying tones with louder and softer passages."""
    rng, t = np.random.default_rng(5), np.arange(int(seconds * rate)) / rate
    wave = 0.001 * rng.normal(size=(len(t), channels))
    for onset in np.arange(0.2, seconds - 0.3, 0.35):
        hz = 440 * 2 ** (rng.integers(-20, 20) / 12)
        after = np.maximum(0, t - onset)
        tone = (t >= onset) * np.exp(-4 * after) * np.sin(2 * np.pi * hz * after) * rng.uniform(0.02, 0.4)
        wave += tone[:, None] * rng.uniform(0.3, 1, channels)
    return wave.astype(np.float32)


def save_random_snapshot(network: type[OnsetVelocityBase], path: Path) -> None:
    """Save random weights, with batch-norm statistics of music and unsaturated last layers."""
    torch.manual_seed(0)
    model = network().train()
    with torch.no_grad():
        model(LogMel(LogMelSettings(mels=model.in_bins))(torch.from_numpy(music(8)[:, 0]))[None])
        for stage in (*model.onset_stages, model.velocity_stage):
            last = [conv for conv in stage.modules() if isinstance(conv, torch.nn.Conv2d)][-1]
            last.weight *= 0.1
            last.bias -= 0.4
    save_snapshot(model, path)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("snapshot") / "random.torch"
    save_random_snapshot(OnsetVelocityNet, path)
    write_operating_point(path, OperatingPoint(THRESHOLD, -0.02), commit="abc", data="noise")
    return path


def command(*args: str, **kwargs) -> subprocess.Popen:
    """Start the command in its own process."""
    line = [sys.executable, "-u", "-m", "ov_piano.transcribe", *args]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, **kwargs)


def refused(capsys, *args: str) -> str:
    """The command's error message."""
    with pytest.raises(SystemExit) as stop:
        run(main, ConfDef, args)
    assert stop.value.code == 2
    return capsys.readouterr().err


# Pieces and whole


def test_events_do_not_depend_on_chunking(tmp_path, snapshot):
    path = tmp_path / "stereo.flac"
    sf.write(path, music(15, 44_100, channels=2), 44_100)
    transcriber = Transcriber(snapshot, device="cpu", chunking=Chunking(200, 20), threshold=0.3)
    events = transcriber(path)
    assert len(events) > 100

    logmel = LogMel()(load_mono(path))
    maps = onset_velocity_maps(transcriber.infer, logmel, Chunking(200, 20))
    whole = Decoder()(maps[0][None], maps[1][None], 0.3)
    expected = pd.DataFrame(
        {
            "onset_secs": (whole["t_idx"] * 0.024 - 0.02).clip(lower=0),
            "note": whole["key"] + 21,
            "velocity": whole["vel"] * 127,
            "prob": whole["prob"],
        }
    )
    pd.testing.assert_frame_equal(events, expected.sort_values(["onset_secs", "note"], ignore_index=True), atol=1e-4)


def test_a_snapshot_of_2023_transcribes_any_audio_at_its_published_operating_point(tmp_path, caplog):
    path, audio = tmp_path / "OnsetsAndVelocities_step=1.torch", tmp_path / "music.flac"
    save_random_snapshot(OnsetsAndVelocities, path)
    sf.write(audio, music(15, 44_100, channels=2), 44_100)
    transcriber = Transcriber(path, device="cpu", chunking=Chunking(1000, 20))
    assert (transcriber.threshold, transcriber.shift) == (0.74, -0.01)
    assert "the published threshold 0.74 and shift -0.01 s" in caplog.text
    transcriber.threshold = 0.5
    found = transcriber(audio)
    logmel = LogMel(LogMelSettings(mels=229))(load_mono(audio))
    with torch.no_grad():
        onsets, velocities = (pad(x.sigmoid(), (1, 0)) for x in ov_piano.load_model(path).infer(logmel[None]))
    expected = Decoder()(onsets, velocities, 0.5)
    assert len(found) == len(expected) > 20
    np.testing.assert_allclose(np.sort(found["prob"]), np.sort(expected["prob"]), atol=1e-4)
    midi = tmp_path / "out.mid"
    run(main, ConfDef, [f"AUDIO={audio}", f"OUT={midi}", f"SNAPSHOT_INPATH={path}", "THRESHOLD=0.5"])
    assert len(read_notes(midi).notes) == len(expected)


def test_floor_is_relative_to_the_maximum_of_the_whole_recording():
    wave = music(12)
    wave[: 10 * RATE] *= 1e-3  # the loudest comes last
    spooled = spool_logmel(wave, RATE)
    whole = LogMel()(torch.from_numpy(wave[:, 0]))
    assert float((whole == whole.min()).float().mean()) > 0.3
    assert spooled.frames == whole.shape[1]
    torch.testing.assert_close(spooled.read(0, spooled.frames), whole, atol=2e-3, rtol=0)
    torch.testing.assert_close(spooled.read(17, 20), whole[:, 17:20], atol=2e-3, rtol=0)


@pytest.mark.parametrize("sizes", [(1,) * 60, (60,), (7, 1, 1, 30, 2, 19), (59, 1)])
def test_decoding_in_chunks_equals_decoding_the_whole(sizes):
    maps = torch.rand(2, KEYS, 60, generator=torch.Generator().manual_seed(1))
    maps[0, :, 20:24] = 0.5  # plateaus, too
    decoder = Decoder()
    joined = pd.concat([table for table, _ in decode_pieces(decoder, maps.split(sizes, dim=2), 0.4)])
    whole = decoder(maps[None, 0], maps[None, 1], 0.4)
    assert len(whole) > 300
    pd.testing.assert_frame_equal(joined.sort_values(["key", "t_idx"], ignore_index=True), whole)


def test_arrays_are_transcribed_as_files_are(tmp_path, snapshot):
    wave = music(6, 22_050, channels=2)
    sf.write(tmp_path / "six.wav", wave, 22_050, subtype="FLOAT")
    transcriber = Transcriber(snapshot, device="cpu")
    assert (transcriber.threshold, transcriber.shift) == (THRESHOLD, -0.02)
    from_file, from_array = transcriber(tmp_path / "six.wav"), transcriber(wave, sample_rate=22_050)
    assert len(from_file) > 10
    pd.testing.assert_frame_equal(from_file, from_array, atol=1e-3)


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (np.zeros(5000), None, "sample_rate"),
        (np.zeros(5000), 44_100.5, "whole number from 1000 to 1000000, found 44100.5"),
        (np.zeros(5000), float("nan"), "sample_rate"),
        (np.zeros(5000, np.int64), RATE, "floating-point or PCM samples, found int64"),
        (np.zeros(5000, complex), RATE, "floating-point or PCM samples, found complex128"),
        (np.zeros((500, 5000)), RATE, r"expected shape \(samples,\)"),
        (np.zeros((2, 2, 5000)), RATE, r"expected shape \(samples,\)"),
        (np.array(5.0), RATE, r"expected shape \(samples,\)"),
        ([[1.0], [1.0, 2.0]], RATE, "expected an array of samples"),
        (np.full(5000, np.nan), RATE, "NaN"),
        (np.zeros(1000), RATE, "more than 1024 samples, found 1000"),
    ],
)
def test_unusable_arrays_are_refused(audio, rate, message):
    with pytest.raises(InputError, match=message):
        spool_logmel(audio, rate)


def test_arrays_of_any_layout_give_the_same_spectrogram():
    pcm = np.round(music(4, RATE, channels=2) * 2**15).astype(np.int16)  # (samples, 2)
    expected = spool_logmel((pcm / 2**15).astype(np.float32), RATE)
    expected = expected.read(0, expected.frames)
    assert float(expected.std()) > 5
    layouts = (
        pcm,
        pcm.T,
        pcm.astype(">i2"),
        pcm.astype(np.int32) << 16,
        pcm / 2**15,
        torch.from_numpy((pcm / 2**15).T.copy()),
        (pcm / 2**15)[::-1][::-1],
        pcm.mean(axis=1) / 2**15,
    )
    for layout in layouts:
        for rate in (RATE, float(RATE), np.float64(RATE), np.int64(RATE)):
            found = spool_logmel(layout, rate)
            torch.testing.assert_close(found.read(0, found.frames), expected, atol=1e-3, rtol=0)
    eight_bits = np.round(music(4)[:, 0] * 127 + 128).astype(np.uint8)
    found, expected = spool_logmel(eight_bits, RATE), spool_logmel((eight_bits - 128.0) / 128, RATE)
    torch.testing.assert_close(found.read(0, found.frames), expected.read(0, expected.frames), atol=1e-3, rtol=0)


def test_numbers_that_are_not_finite_are_refused(snapshot):
    nan = float("nan")
    calls = (
        lambda: Transcriber(snapshot, threshold=nan),
        lambda: Transcriber(snapshot, shift=nan),
        lambda: Transcriber(snapshot, leaky_relu_slope=nan),
        lambda: DecoderSettings(gauss_std=nan),
        lambda: Chunking.from_secs(nan),
        lambda: to_midi(events_table((1.0, 60, 64.0, 0.9)), note_secs=nan),
        lambda: to_midi(events_table((nan, 60, 64.0, 0.9))),
    )
    for call in calls:
        with pytest.raises(InputError, match=r"nan|finite"):
            call()


def test_errors_name_the_audio_or_the_temporary_file():
    def failing(error: OSError):
        raise error
        yield

    cases = ((PermissionError(13, "no", "a.wav"), r"no: 'a\.wav'"), (OSError(28, "full"), "temporary spectrogram"))
    for error, named in cases:
        with pytest.raises(OSError, match=named):
            SpooledLogMel(failing(error), LogMelSettings(), lambda secs: None)


@pytest.mark.parametrize("event", [(1.0, 128, 64.0, 0.9), (1.0, -1, 64.0, 0.9), (-0.1, 60, 64.0, 0.9)])
def test_events_that_midi_cannot_hold_are_refused(event):
    with pytest.raises(InputError, match="expected notes from 0 to 127 and onsets of at least 0 s"):
        to_midi(events_table(event))


# What is written


def events_table(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["onset_secs", "note", "velocity", "prob"])


def test_notes_last_until_the_next_onset_of_their_key_or_the_limit():
    events = events_table((1.2, 60, 70.4, 0.9), (1.0, 60, 200.0, 0.9), (1.1, 61, 0.2, 0.9), (1.1, 61, 0.1, 0.8))
    expected = [[1.0, 1.2, 60, 127], [1.1, 1.6, 61, 1], [1.2, 1.7, 60, 70]]
    assert to_notes(events, 0.5) == pytest.approx(np.array(expected))
    assert to_notes(events.iloc[:0]).shape == (0, 4)


def test_midi_reads_back_as_the_events(tmp_path):
    rng = np.random.default_rng(3)
    rows = [(rng.uniform(0, 300), rng.integers(21, 109), rng.uniform(1, 127), 0.9) for _ in range(3000)]
    events = events_table(*rows)
    write_midi(events, tmp_path / "a.mid", note_secs=0.7)
    read = read_notes(tmp_path / "a.mid")
    expected = to_notes(events, 0.7)
    assert (read.restruck, read.unmatched) == (0, 0)
    assert len(read.notes) == len(expected) == 3000
    order = np.lexsort((np.round(read.notes[:, 0] / TICK_SECS), read.notes[:, 2]))
    wanted = np.lexsort((expected[:, 0], expected[:, 2]))
    difference = np.abs(read.notes[order] - expected[wanted])
    assert difference[:, :2].max() < 0.0003  # half a tick
    assert difference[:, 2:].max() == 0
    midi = to_midi(events)
    assert (midi.type, len(midi.tracks)) == (1, 2)
    assert [message.program for message in midi.tracks[1] if message.type == "program_change"] == [0]
    assert [message.tempo for message in midi.tracks[0] if message.type == "set_tempo"] == [500_000]


def test_midi_of_no_events_is_a_file_without_notes(tmp_path):
    write_midi(events_table(), tmp_path / "none.mid")
    assert read_notes(tmp_path / "none.mid").notes.shape == (0, 4)


def test_results_are_complete_or_absent(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("before")

    def interrupted() -> None:
        with atomic_write(path) as partial:
            partial.write_text("hal")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [file.name for file in tmp_path.iterdir()] == ["x.csv"]
    assert path.read_text() == "before"
    with atomic_write(path) as partial:
        partial.write_text("after")
    assert path.read_text() == "after"


@pytest.mark.parametrize(("seconds", "axes"), [(20, 4), (30.5, 4), (1200, 40)])
def test_pictures_are_drawn_for_any_length(seconds, axes):
    class Quiet:
        floor_db, frames, settings = -40.0, int(seconds / 0.024), LogMelSettings()

        def read(self, begin, end):
            return torch.full((MELS, end - begin), -40.0)

    logmel = Quiet()
    logmel.seconds = seconds
    events = events_table((1.0, 60, 64.0, 0.9), (seconds - 2.0, 72, 100.0, 0.9))
    figure = plot_transcription(logmel, events, 0.5, "x.wav")
    assert len(figure.axes) == axes  # a spectrogram, a roll and a colour scale for each, a row
    assert figure.axes[1].collections[0].get_segments()[0][:, 0] == pytest.approx([1.0, 1.5])
    drawn = sum(
        len(part.get_segments()) for ax in figure.axes for part in ax.collections if hasattr(part, "get_segments")
    )
    assert drawn == 2
    rolls = [ax for ax in figure.axes if ax.get_ylabel() == "note"]
    assert {ax.get_ylim() for ax in rolls} == {(57.5, 74.5)}  # with two notes more on either side
    assert {ax.collections[0].get_clim() for ax in rolls} == {(64, 100)}


def test_the_operating_point_beside_a_snapshot_is_used(tmp_path):
    snapshot = tmp_path / "OnsetVelocityNet_2025_01_01_10_00_00.123step=500_f1=0.9643.torch"
    assert read_sidecar(snapshot).point is None
    path = write_operating_point(snapshot, OperatingPoint(0.7, 0.01), data="MAPS")
    assert path.name == "OnsetVelocityNet_2025_01_01_10_00_00.123step=500_f1=0.9643.yaml"
    assert path.read_text() == "threshold: 0.7\nshift: 0.01\ndata: MAPS\n"
    assert read_sidecar(snapshot).point == (0.7, 0.01)
    for text in ("threshold: 0.7", "[1, 2]", "threshold: 7\nshift: 0", "threshold: x\nshift: 0", "{", ""):
        path.write_text(text)
        with pytest.raises(InputError, match="threshold"):
            read_sidecar(snapshot)


# The command


def test_recordings_are_found_by_file_folder_pattern_and_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b.wav", "[c].wav", "d.wav", "folder/e.FLAC", "folder/deeper/f.mp3", "folder/notes.txt", "no/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()

    def found(audio) -> list[tuple[str, str]]:
        return [(path.as_posix(), name.as_posix()) for path, name in find_recordings(audio)]

    assert found("a,b.wav") == [("a,b.wav", "a,b")]
    assert found("[c].wav") == [("[c].wav", "[c]")]
    assert found("[d.wav, folder]") == [("d.wav", "d"), ("folder/deeper/f.mp3", "deeper/f"), ("folder/e.FLAC", "e")]
    assert found("d.wav,[c].wav,folder/../d.wav") == [("folder/../d.wav", "d"), ("[c].wav", "[c]")]
    assert found("*.wav") == [("[c].wav", "[c]"), ("a,b.wav", "a,b"), ("d.wav", "d")]
    for audio, message in (("d.wav,no.wav", "'no.wav'"), ("[]", "no such"), ("", "no such"), ("no", "no audio files")):
        with pytest.raises(InputError, match=message):
            find_recordings(audio)
    assert found(["d.wav", "folder"]) == found("d.wav,folder")
    assert found("f*/**/*.mp3") == [("folder/deeper/f.mp3", "folder/deeper/f")]
    assert found("folder/**") == [("folder/deeper/f.mp3", "deeper/f"), ("folder/e.FLAC", "e")]
    assert found("fold*") == [("folder/deeper/f.mp3", "deeper/f"), ("folder/e.FLAC", "e")]
    monkeypatch.setenv("HOME", str(tmp_path / "folder"))
    assert [path.name for path, _ in find_recordings("d.wav,~/e.FLAC")] == ["d.wav", "e.FLAC"]


def test_files_that_must_be_converted_first_are_named(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    for name in ("phone/a.M4A", "phone/b.wma", "both/a.wav", "both/c.aac"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    hint = r"a\.M4A: .M4A is not supported; convert it first: ffmpeg -i a\.M4A a\.wav"
    with pytest.raises(InputError, match=hint):
        find_recordings("phone")
    with pytest.raises(InputError, match=hint):
        recording_seconds(Path("phone/a.M4A"))
    caplog.clear()
    assert [path.name for path, _ in find_recordings("both")] == ["a.wav"]
    assert [record.message.split(";")[0] for record in caplog.records] == ["skipping both/c.aac: .aac is not supported"]


def test_outputs_are_planned_without_clashes(tmp_path):
    two = [(Path("x/a.wav"), Path("a")), (Path("y/a.b.wav"), Path("deep/a.b"))]
    conf = ConfDef(AUDIO=[], OUT=str(tmp_path))
    assert list(plan_outputs(two, conf).values()) == [tmp_path / "a.mid", tmp_path / "deep" / "a.b.mid"]
    same = [(Path("x/a.wav"), Path("x/a")), (Path("x/a.mp3"), Path("x/a")), two[1]]
    names = ["x/a.wav.mid", "x/a.mp3.mid", "deep/a.b.mid"]
    assert list(plan_outputs(same, conf).values()) == [tmp_path / name for name in names]
    with pytest.raises(InputError, match=r"x/a\.wav and y/a\.wav would both be written"):
        plan_outputs([two[0], (Path("y/a.wav"), Path("a"))], conf)
    (tmp_path / "a.csv").touch()
    with pytest.raises(InputError, match=r"a\.csv: exists already"):
        plan_outputs(two, conf)
    conf.OVERWRITE = True
    assert len(plan_outputs(two, conf)) == 2
    conf.OVERWRITE, conf.SKIP_EXISTING = False, True
    assert len(plan_outputs(two, conf)) == 2  # a.csv without a.mid is incomplete
    (tmp_path / "a.mid").touch()
    assert list(plan_outputs(two, conf)) == [two[1][0]]
    conf.PLOT = True
    assert len(plan_outputs(two, conf)) == 2
    with pytest.raises(InputError, match="SKIP_EXISTING=true: expected OVERWRITE=false"):
        ConfDef(AUDIO=[], OVERWRITE=True, SKIP_EXISTING=True)
    conf.OVERWRITE, conf.SKIP_EXISTING, conf.PLOT = True, False, False
    conf.OUT = str(tmp_path / "song.MID")
    assert plan_outputs(two[:1], conf) == {Path("x/a.wav"): tmp_path / "song.MID"}
    with pytest.raises(InputError, match="expected a folder for 2 recordings"):
        plan_outputs(two, conf)


def test_the_command_writes_midi_csv_and_picture(tmp_path, snapshot, monkeypatch, capsys):
    sf.write(tmp_path / "left, right.wav", music(4, 48_000, channels=2), 48_000)
    sf.write(tmp_path / "other.mp3", music(3, 44_100), 44_100)
    settings = ("OUT=out", f"SNAPSHOT_INPATH={snapshot}", "DEVICE=cpu", "NOTE_SECS=0.25", "PLOT=true")
    process = command("AUDIO=.", *settings, cwd=tmp_path)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert stderr == ""
    assert f"threshold {THRESHOLD}, shift -0.02 s" in stdout
    assert "x real time" in stdout.splitlines()[-1]
    names = {f"{stem}.{suffix}" for stem in ("left, right", "other") for suffix in ("mid", "csv", "png")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names

    events = pd.read_csv(tmp_path / "out" / "left, right.csv")
    assert list(events.columns) == ["onset_secs", "note", "velocity", "prob"]
    expected = Transcriber(snapshot, device="cpu")(tmp_path / "left, right.wav")
    assert len(events) == len(expected) > 5
    np.testing.assert_allclose(events, expected, atol=1e-3)
    notes = read_notes(tmp_path / "out" / "left, right.mid").notes
    assert len(notes) == len(to_notes(expected))
    assert np.max(notes[:, 1] - notes[:, 0]) <= 0.2505

    monkeypatch.chdir(tmp_path)
    message = refused(capsys, "AUDIO=other.mp3", *settings)
    assert "other.mid and 2 more: exists already" in message
    (tmp_path / "out" / "other.mid").unlink()
    run(main, ConfDef, ["AUDIO=.", *settings, "SKIP_EXISTING=true"])
    assert "already transcribed: 1 of 2 recordings" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    run(main, ConfDef, ["AUDIO=.", *settings, "SKIP_EXISTING=true"])
    assert "already transcribed: 2 of 2 recordings" in capsys.readouterr().out


@pytest.mark.parametrize(
    "case",
    [
        ((), "setting AUDIO is required"),
        (("AUDIO=missing.wav",), "missing.wav"),
        (("AUDIO=text.wav",), "text.wav: not an audio file"),
        (("AUDIO=short.wav", "SNAPSHOT_INPATH={snapshot}"), "short.wav: expected more than 1024 samples, found 500"),
        (("AUDIO=short.wav", "SNAPSHOT_INPATH=text.wav"), "text.wav: not a snapshot"),
        (("AUDIO=short.wav", "THRESHOLD=1.5"), "THRESHOLD=1.5: expected a number from 0 to 1"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, snapshot, monkeypatch, capsys, case):
    args, message = case
    (tmp_path / "text.wav").write_text("not audio")
    sf.write(tmp_path / "short.wav", music(1)[:500], RATE)
    monkeypatch.chdir(tmp_path)
    error = refused(capsys, *(arg.format(snapshot=snapshot) for arg in args))
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["short.wav", "text.wav"]


def test_unusable_files_are_named_and_the_others_transcribed(tmp_path, snapshot, monkeypatch, capsys):
    sf.write(tmp_path / "a.wav", music(2), RATE)
    (tmp_path / "b.flac").write_text("not audio")
    sf.write(tmp_path / "c.wav", np.full(2 * RATE, np.nan), RATE, subtype="FLOAT")  # found out while it is read
    sf.write(tmp_path / "d.ogg", music(2), RATE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run(main, ConfDef, [".", "OUT=out", f"SNAPSHOT_INPATH={snapshot}", "DEVICE=cpu"])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    errors = printed.err.splitlines()
    assert [line.split(":")[0:2] for line in errors[:2]] == [["skipped", " b.flac"], ["skipped", " c.wav"]]
    assert errors[2:] == ["error: not transcribed, 2 of 4 recordings: b.flac, c.wav"]
    assert "recordings: 2, 4.0 s of audio" in printed.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.mid", "a.csv", "d.mid", "d.csv"}


def test_recordings_are_arguments_and_the_configuration_is_not_printed(tmp_path, snapshot, monkeypatch, capsys):
    sf.write(tmp_path / "a.wav", music(2), RATE)
    sf.write(tmp_path / "b=1.wav", music(2), RATE)
    monkeypatch.chdir(tmp_path)
    run(main, ConfDef, ["a.wav", "OUT=out", "b=1.wav", f"SNAPSHOT_INPATH={snapshot}"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.mid", "a.csv", "b=1.mid", "b=1.csv"}
    assert "AUDIO" not in capsys.readouterr().out


def test_ctrl_c_leaves_nothing_half_written(tmp_path, snapshot):
    sf.write(tmp_path / "long.wav", np.random.default_rng(0).normal(0, 0.1, 1200 * RATE), RATE)
    settings = ("OUT=out", f"SNAPSHOT_INPATH={snapshot}", "INFERENCE_CHUNK_SIZE=2.4", "INFERENCE_CHUNK_OVERLAP=0.48")
    process = command("AUDIO=long.wav", *settings, cwd=tmp_path)
    while "threshold" not in process.stdout.readline().lower().split(":")[-1]:
        assert process.poll() is None
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.strip() == "interrupted"
    assert not list(tmp_path.glob("out/*"))


def test_package_exports_the_public_names_and_imports_fast(snapshot, tmp_path):
    code = "import sys, ov_piano; assert 'torch' not in sys.modules and 'Transcriber' in dir(ov_piano)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    transcriber = ov_piano.Transcriber(snapshot, device="cpu", threshold=0.3)
    events = transcriber(music(2)[:, 0], sample_rate=RATE)
    ov_piano.write_midi(events, tmp_path / "two.mid")
    assert len(read_notes(tmp_path / "two.mid").notes) == len(events) > 0
    assert not ov_piano.load_model(snapshot).training
    with pytest.raises(InputError, match="threshold 7: expected a number from 0 to 1"):
        ov_piano.Transcriber(snapshot, threshold=7)
    with pytest.raises(InputError, match="gauss_ksize: expected an odd number above 0, found 10"):
        ov_piano.Transcriber(snapshot, decoder=DecoderSettings(gauss_ksize=10))
    with pytest.raises(AttributeError, match="no_such"):
        _ = ov_piano.no_such
