"""Preprocessing: equal to a plain implementation, also after interruptions; one-line errors for bad input."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import mido
import numpy as np
import pytest
import soundfile as sf
from filelock import FileLock

from ov_piano.data import hdf5, maestro
from ov_piano.data.midi import read_notes
from ov_piano.data.pianoroll import piano_roll
from ov_piano.errors import InputError
from ov_piano.preprocessing import preprocess
from ov_piano.preprocessing.conf import PreprocessConf
from tests.conftest import write_midi
from tests.plain_pipeline import preprocess_plainly
from tests.scripts import MAPS_MEL_NAME, MAPS_ROLL_NAME, MEL_NAME, ROLL_NAME, ROOT, fail, succeed

SCRIPT = "0a_maestro_to_hdf5mel.py"


def run(root: Path, output: Path, **settings) -> list[Path]:
    """Run script 0a's work, in this process unless WORKERS is above 1."""
    conf = PreprocessConf(**{"WORKERS": 1, **settings})
    recordings = maestro.load_recordings(root, need_audio=not conf.IGNORE_MEL)
    return preprocess.preprocess(recordings, conf.part_settings("MAESTROv3"), output, conf.WORKERS)


def assert_same_stores(folder: Path, expected: Path, decibels: float = 0.0) -> None:
    """Compare dataset by dataset, log-mels within ``decibels``; no other files may exist."""
    assert sorted(path.name for path in folder.iterdir()) == sorted([MEL_NAME, ROLL_NAME])
    for name in (MEL_NAME, ROLL_NAME):
        with h5py.File(folder / name) as ours, h5py.File(expected / name) as other:
            assert sorted(ours) == sorted(other) == ["data", "data_idxs", "metadata"]
            for key in ours:
                for attribute in ("shape", "dtype", "maxshape", "compression"):
                    assert getattr(ours[key], attribute) == getattr(other[key], attribute)
            assert ours["data"].chunks == other["data"].chunks
            np.testing.assert_array_equal(ours["metadata"].asstr()[()], other["metadata"].asstr()[()])
            np.testing.assert_array_equal(ours["data_idxs"], other["data_idxs"])
            tolerance = decibels if name == MEL_NAME else 0
            np.testing.assert_allclose(ours["data"][()], other["data"][()], rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def finished(toy_maestro, tmp_path_factory):
    """Folder with the files of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("finished")
    run(toy_maestro, folder)
    return folder


@pytest.fixture
def tree(toy_maestro, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(toy_maestro, tmp_path / "maestro-v3.0.0")


def test_stores_equal_those_of_a_plain_implementation(toy_maestro, finished, tmp_path):
    preprocess_plainly(toy_maestro, tmp_path / "plain")
    assert_same_stores(finished, tmp_path / "plain", decibels=1e-2)
    pair = hdf5.open_pair(finished / MEL_NAME, finished / ROLL_NAME)
    assert [entry.split for entry in pair.metadata] == ["train"] * 4 + ["validation"] * 2 + ["test"] * 2


def test_stores_do_not_depend_on_the_number_of_processes(toy_maestro, finished, tmp_path):
    printed = succeed(SCRIPT, f"MAESTRO_INPATH={toy_maestro}", f"OUTPUT_DIR={tmp_path}", "WORKERS=2")
    assert_same_stores(tmp_path, finished)
    assert "(processes: 2)" in printed
    assert "8 recordings, 0.01 h" in printed
    assert f"{tmp_path / ROLL_NAME}  0." in printed


def test_existing_outputs_are_kept(toy_maestro, finished, tmp_path):
    shutil.copy(finished / ROLL_NAME, tmp_path)
    with pytest.raises(InputError, match=r"extendsus=True\.h5: exists already, is complete \(8 recordings\)"):
        run(toy_maestro, tmp_path)
    (tmp_path / ROLL_NAME).unlink()
    (tmp_path / MEL_NAME).write_bytes((finished / MEL_NAME).read_bytes()[:100_000])
    with pytest.raises(InputError, match="exists already, is not complete"):
        run(toy_maestro, tmp_path)
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [(MEL_NAME, 100_000)]


class Killed(BaseException):
    """Simulates a kill of the process."""


def _kill_at(monkeypatch, target, name: str, call: int) -> None:
    """Make the ``call``-th call of ``target.name`` end the run at once."""
    original, calls = getattr(target, name), []

    def wrapped(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(target, name, wrapped)


@pytest.mark.parametrize(
    "place",
    [
        (preprocess, "make_part", 1),
        (preprocess, "make_part", 6),
        (hdf5.StoreWriter, "append_chunked", 3),
        (hdf5.StoreWriter, "append_chunked", 12),  # the rolls are joined, the log-mels half
        (Path, "rename", 1),  # all is joined
        (preprocess.os, "replace", 11),  # the log-mels are in place (8 parts and 2 joined files were moved before)
        (preprocess.shutil, "rmtree", 1),  # both are in place
    ],
)
def test_an_interrupted_run_resumes_from_any_point(toy_maestro, finished, tmp_path, monkeypatch, place):
    name, call = place[1:]
    with monkeypatch.context() as patch:
        _kill_at(patch, *place)
        with pytest.raises(Killed):
            run(toy_maestro, tmp_path)
    made = []
    monkeypatch.setattr(preprocess, "make_part", lambda job, make=preprocess.make_part: (made.append(job), make(job)))
    run(toy_maestro, tmp_path)
    assert_same_stores(tmp_path, finished)
    assert len(made) == (9 - call if name == "make_part" else 0)


def test_a_killed_run_resumes(toy_maestro, finished, tmp_path):
    command = [sys.executable, ROOT / SCRIPT, f"MAESTRO_INPATH={toy_maestro}", f"OUTPUT_DIR={tmp_path}", "WORKERS=2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(tmp_path.glob("*.parts/*.part")):
            time.sleep(0.005)
        process.kill()
    assert process.returncode in (-signal.SIGKILL, 0)
    if process.returncode:
        assert not (tmp_path / MEL_NAME).exists() or list(tmp_path.glob("*.done"))
        run(toy_maestro, tmp_path)
    assert_same_stores(tmp_path, finished)


def test_one_run_at_a_time(toy_maestro, tmp_path):
    with FileLock(tmp_path / f"{ROLL_NAME}.lock"):
        with pytest.raises(InputError, match=r"extendsus=True\.h5: another run is making it"):
            run(toy_maestro, tmp_path)
        assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_finished_files_of_an_earlier_run_are_moved_into_place(toy_maestro, finished, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        _kill_at(patch, preprocess.os, "replace", 11)
        with pytest.raises(Killed):
            run(toy_maestro, tmp_path)
    run(toy_maestro, tmp_path, IGNORE_MEL=True)
    assert str(tmp_path / MEL_NAME) in capsys.readouterr().out
    assert_same_stores(tmp_path, finished)


def test_parts_of_changed_input_are_made_again(tree, finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        _kill_at(patch, hdf5.StoreWriter, "append_chunked", 1)
        with pytest.raises(Killed):
            run(tree, tmp_path / "out")
    midi = next(tree.rglob("*validation_0*.midi"))
    write_midi(midi, [(0.5, 1.0, 60, 100)])
    part = next((tmp_path / "out").rglob("*train_0*.part"))
    part.write_bytes(b"garbage")
    made = []
    monkeypatch.setattr(
        preprocess, "make_part", lambda job, make=preprocess.make_part: (made.append(job.recording.name), make(job))
    )
    _, _ = run(tree, tmp_path / "out")
    assert sorted(made) == ["MIDI-Unprocessed_train_0_wav--0", "MIDI-Unprocessed_validation_0_wav--0"]
    pair = hdf5.open_pair(tmp_path / "out" / MEL_NAME, tmp_path / "out" / ROLL_NAME)
    roll = pair.roll.read(pair.begins[4], pair.ends[4])
    np.testing.assert_array_equal(np.argwhere(roll[:128]), [[60, 20]])


def test_rolls_without_logmel_have_its_length_if_there_is_audio(tree, finished, tmp_path):
    (with_audio,) = run(tree, tmp_path / "a", IGNORE_MEL=True)
    assert len(hdf5.open_pair(finished / MEL_NAME, with_audio).metadata) == 8
    for path in tree.rglob("*.wav"):
        path.unlink()
    (without,) = run(tree, tmp_path / "b", IGNORE_MEL=True)
    store = hdf5.Store(without, 259)
    for recording, begin, end in zip(
        maestro.load_recordings(tree, need_audio=False), store.begins, store.ends, strict=True
    ):
        roll, _ = piano_roll(read_notes(recording.midi_path))
        np.testing.assert_array_equal(store.read(begin, end), roll)


def test_without_sustain_notes_end_with_their_keys(tree, tmp_path):
    (path,) = run(tree, tmp_path, IGNORE_MEL=True, MIDI_SUS_EXTEND=False)
    assert path.name == ROLL_NAME.replace("True", "False")
    store = hdf5.Store(path)
    roll, _ = piano_roll(read_notes(maestro.load_recordings(tree)[0].midi_path, extend_sustain=False))
    np.testing.assert_array_equal(store.read(0, roll.shape[1]), roll)


def test_anomalies_are_counted(tree, tmp_path, capsys, caplog):
    path = next(tree.rglob("*train_1*.midi"))
    twice = [(0.1, 0.105, 60, 50), (0.11, 0.2, 60, 60)]  # one frame: a collision
    overlap = [(0.5, 1.0, 62, 50), (0.7, 1.2, 62, 60)]  # overlapping notes, then an unmatched note-off
    write_midi(path, [*twice, *overlap, (30.0, 31.0, 64, 70)])
    sf.write(next(tree.rglob("*train_2*.wav")), np.zeros(40000), 16000)
    run(tree, tmp_path)
    printed = capsys.readouterr().out
    replaced = "1 notes replaced by a later one of the same key in the same frame"
    assert f"{replaced}, 1 overlapping notes, 1 unmatched note-offs" in printed
    assert "1 silent recordings" in printed
    cut = [line for line in printed.splitlines() if "longer than their audio" in line]
    assert cut
    anomalies = f"{replaced}, 1 overlapping notes, 1 unmatched note-offs, 1 notes dropped after the end of the audio"
    assert f"{path}: {anomalies}\n" in caplog.text
    assert f"{next(tree.rglob('*train_2*.midi'))}: " in caplog.text
    assert "silent" in caplog.text


@pytest.mark.parametrize(
    ("suffix", "contents", "message"),
    [
        (".midi", b"MThd\0\0\0\6\0\1\0\2\1\x80MTrk", "MIDI file"),
        (".midi", b"garbage", "MIDI file"),
        (".wav", b"garbage", "not an audio file"),
        (".wav", b"", "empty file"),
    ],
)
def test_unreadable_files_stop_the_run_before_anything_is_written(tree, tmp_path, suffix, contents, message):
    path = next(tree.rglob(f"*test_0*{suffix}"))
    path.write_bytes(contents)
    with pytest.raises(InputError, match=message) as error:
        run(tree, tmp_path / "out")
    assert str(path) in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_nan_in_the_audio_is_refused_and_finished_parts_are_kept(tree, tmp_path):
    sf.write(next(tree.rglob("*test_0*.wav")), np.full(20000, np.nan, np.float32), 16000, subtype="FLOAT")
    args = (f"MAESTRO_INPATH={tree}", f"OUTPUT_DIR={tmp_path / 'out'}")
    assert "test_0_wav--0.wav: contains samples that are NaN" in fail(SCRIPT, *args, "WORKERS=2")
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".parts"]


def test_tempo_changes_and_formats_0_and_2_are_read(tree, tmp_path):
    path = next(tree.rglob("*train_0*.midi"))
    messages = [
        mido.Message("note_on", note=60, velocity=80, time=480),
        mido.MetaMessage("set_tempo", tempo=250_000),
        mido.Message("note_off", note=60, velocity=64, time=480),
        mido.MetaMessage("end_of_track", time=2000),
    ]
    mido.MidiFile(type=0, ticks_per_beat=480, tracks=[mido.MidiTrack(messages)]).save(path)
    _, logmels = run(tree, tmp_path)
    roll = hdf5.Store(tmp_path / ROLL_NAME).read(0, 60)
    assert np.argwhere(roll[:128]).tolist() == [[60, 20]]  # 0.5 s
    assert np.flatnonzero(roll[128 + 60]).tolist() == list(range(20, 31))  # to 0.75 s
    assert logmels.name == MEL_NAME


def test_an_output_folder_that_cannot_be_made_is_one_line(toy_maestro, tmp_path):
    (tmp_path / "file").touch()
    message = fail(SCRIPT, f"MAESTRO_INPATH={toy_maestro}", f"OUTPUT_DIR={tmp_path / 'file'}")
    assert f"{tmp_path / 'file'}" in message
    assert "not a folder" in message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"STFT_HOPSIZE": 4096}, "STFT_HOPSIZE=4096: expected at most STFT_WINSIZE=2048"),
        ({"STFT_WINSIZE": 1, "STFT_HOPSIZE": 1}, "STFT_WINSIZE=1: expected at least 2"),
        ({"MEL_FMAX": 8001}, "at most half of TARGET_SR=16000"),
        ({"MEL_FMIN": 8000}, "MEL_FMIN below MEL_FMAX"),
        ({"HDF5_CHUNKLEN_SECONDS": 0.01}, "HDF5_CHUNKLEN_SECONDS=0.01: expected at least one frame, 0.024 s"),
        ({"DEVICE": "cuba"}, "DEVICE=cuba: not a usable device"),
    ],
)
def test_conflicting_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        PreprocessConf(**settings)


def test_parameters_are_in_the_file_names_and_the_stores(tree, tmp_path):
    run(tree, tmp_path, TARGET_SR=22050, STFT_WINSIZE=1024, STFT_HOPSIZE=512, MELBINS=40, MEL_FMAX=11025)
    mel_name = "MAESTROv3_logmel_sr=22050_stft=1024w512h_mel=40(50-11025).h5"
    roll_name = f"MAESTROv3_roll_quant={512 / 22050}_midivals=128_extendsus=True.h5"
    pair = hdf5.open_pair(tmp_path / mel_name, tmp_path / roll_name)
    assert pair.mel.height == 40
    assert pair.mel.data.chunks == (40, round(8 / (512 / 22050)))


def test_script_0b_preprocesses_maps(toy_maps, tmp_path):
    choice = ("MAPS_CATEGORIES=[MUS,RAND]", "MAPS_REPEATED_PIECES=drop")
    printed = succeed("0b_maps_to_hdf5mel.py", f"MAPS_INPATH={toy_maps}", f"OUTPUT_DIR={tmp_path}", *choice)
    pair = hdf5.open_pair(tmp_path / MAPS_MEL_NAME, tmp_path / MAPS_ROLL_NAME)
    assert [entry.basename for entry in pair.metadata] == [
        "MAPS_MUS-chpn_op27_2_AkPnBcht",
        "MAPS_RAND_P2_M36-95_I60-68_S0_n1_AkPnBcht",
        "MAPS_MUS-alb_se3_SptkBGAm",
        "MAPS_MUS-scn15_7_ENSTDkAm",
    ]
    notes = read_notes(toy_maps / "AkPnBcht" / "MUS" / "MAPS_MUS-chpn_op27_2_AkPnBcht.mid").notes
    assert np.count_nonzero(pair.roll.read(0, pair.ends[0])[:128]) == len(notes)
    assert "4 recordings, 0.00 h, " in printed
