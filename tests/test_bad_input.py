"""Invalid user input: each script prints a one-line error, exits with status 2 and changes nothing."""

import hashlib
import os
import pickle
import shutil
from dataclasses import dataclass, make_dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile as sf
import torch

from ov_piano.cli import run
from ov_piano.config import option
from ov_piano.data.audio import load_mono
from ov_piano.data.hdf5 import Store
from ov_piano.errors import InputError
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.snapshot import load_snapshot, save_snapshot
from tests.conftest import write_midi
from tests.scripts import MEL_NAME, ROLL_NAME, accepted, refused

MAESTRO, MAPS = "0a_maestro_to_hdf5mel.py", "0b_maps_to_hdf5mel.py"
TRAIN, EVALUATE = "1_train_onsets_velocities.py", "2_eval_onsets_velocities.py"
CSV = "maestro/maestro-v3.0.0.csv"


@pytest.mark.parametrize(
    ("script", "args", "message"),
    [
        (MAESTRO, ["MAESTRO_INPTH=x"], "unknown setting 'MAESTRO_INPTH': did you mean MAESTRO_INPATH?"),
        (MAESTRO, ["maestro_version=3"], "unknown setting 'maestro_version': did you mean MAESTRO_VERSION?"),
        (MAESTRO, ["MAESTRO_VERSION=4"], "setting MAESTRO_VERSION=4: expected one of 1, 2, 3"),
        (MAESTRO, ["STFT_HOPSIZE=2049"], "setting STFT_HOPSIZE=2049: expected at most STFT_WINSIZE=2048"),
        (MAESTRO, ["STFT_HOPSIZE=0"], "setting STFT_HOPSIZE=0: expected a number above 0"),
        (MAESTRO, ["MELBINS=many"], "setting MELBINS=many: expected a whole number"),
        (MAESTRO, ["WORKERS=0"], "setting WORKERS=0: expected a number above 0"),
        (MAESTRO, ["IGNORE_MEL=perhaps"], "setting IGNORE_MEL=perhaps: expected true or false"),
        (MAESTRO, ["HDF5_CHUNKLEN_SECONDS=inf"], "setting HDF5_CHUNKLEN_SECONDS=inf: expected finite numbers"),
        (
            MAESTRO,
            ["HDF5_CHUNKLEN_SECONDS=100000"],
            "HDF5_CHUNKLEN_SECONDS=100000.0: expected a number above 0, at most 3600",
        ),
        (TRAIN, [f"RANDOM_SEED={2**64}"], f"setting RANDOM_SEED={2**64}: expected a number from 0 to 2**64 - 1"),
        (MAPS, ["MEL_FMAX=8001"], "MEL_FMAX=8001: expected MEL_FMIN below MEL_FMAX and MEL_FMAX at most half"),
        (MAPS, ["MAPS_INSTRUMENTS=[]"], "setting MAPS_INSTRUMENTS=[]: expected one or more values"),
        (MAPS, ["MAPS_INSTRUMENTS=[Steinway]"], "unknown instrument 'Steinway': expected one of StbgTGd2"),
        (MAPS, ["MAPS_CATEGORIES=[MUZ]"], "unknown category 'MUZ'"),
        (MAPS, ["MAPS_REPEATED_PIECES=two"], "expected one of keep, one, drop"),
        (MAPS, ["MAPS_INSTRUMENTS=[ENSTDkCl]", "MAPS_CATEGORIES=[UCHO]"], "no recording left"),
        (TRAIN, ["XV_CHUNK_SIZE=-1"], "setting XV_CHUNK_SIZE=-1.0: expected a number above 0"),
        (TRAIN, ["XV_CHUNK_OVERLAP=2.52"], "expected an even number of overlapping frames"),
        (TRAIN, ["XV_CHUNK_SIZE=2"], "and less than the chunk size 83"),
        (TRAIN, ["TRAIN_BATCH_SECS=0"], "setting TRAIN_BATCH_SECS=0.0: expected a number above 0"),
        (TRAIN, ["TRAIN_BATCH_SECS=0.001"], "expected at least 2 frames"),
        (TRAIN, ["TRAIN_BATCH_SECS=0.048", "TRAIN_BS=1"], "expected at least 3 frames"),
        (TRAIN, ["TRAIN_BS=4000"], "chunks do not fill a batch of 4000"),
        (TRAIN, ["XV_SHIFT=1e300"], "setting XV_SHIFT=1e+300: expected a number of seconds from -3600 to 3600"),
        (EVALUATE, ["SEARCH_SHIFTS=[0,4000]"], "expected one or more numbers of seconds from -3600"),
        (TRAIN, ["ENDS_INPATH=x.ends.torch"], "setting ENDS_INPATH=x.ends.torch: expected TRAIN_ENDS=true"),
        (TRAIN, ["XV_SHIFT=nan"], "setting XV_SHIFT=nan: expected finite numbers"),
        (TRAIN, ["MOMENTUM=2"], "setting MOMENTUM=2.0: expected a number from 0 to 1"),
        (TRAIN, ["MAESTRO_VERSION=2"], "but MAESTRO_VERSION=2"),
        (TRAIN, ["RESUME=nowhere.pt"], "nowhere.pt: training state not found"),
        (TRAIN, ["TRAIN_BS=eight"], "setting TRAIN_BS=eight: expected a whole number"),
        (TRAIN, ["TRAIN_BS=0"], "setting TRAIN_BS=0: expected a number above 0"),
        (TRAIN, ["LR_MIN=7"], "expected at most LR_MAX"),
        (TRAIN, ["XV_THRESHOLDS=[]"], "expected one or more numbers from 0 to 1"),
        (TRAIN, ["XV_THRESHOLDS=[0.5,1.5]"], "expected one or more numbers from 0 to 1"),
        (TRAIN, ["DECODER_GAUSS_KSIZE=10"], "expected an odd number"),
        (TRAIN, ["XV_CHUNK_OVERLAP=-1"], "expected a number of at least 0"),
        (TRAIN, ["DEVICE=gpu"], "DEVICE=gpu: not a usable device"),
        (TRAIN, ["DEVICE=meta"], "DEVICE=meta: not a usable device"),
        (TRAIN, ["TRAIN_BS"], "argument 'TRAIN_BS': expected KEY=value"),
        (EVALUATE, ["INFERENCE_CHUNK_OVERLAP=11.016"], "expected an even number of overlapping frames"),
        (EVALUATE, ["XV_TAKE_ONE_EVERY=0"], "setting XV_TAKE_ONE_EVERY=0: expected a number above 0"),
        (EVALUATE, ["TOLERANCE_SECS=0", "TRAIN_BS=3"], "unknown setting 'TRAIN_BS'"),
        (EVALUATE, ["DEVICE=cuda:99"], "DEVICE=cuda:99: not a usable device"),
    ],
)
def test_unusable_settings_are_one_line_and_status_2(case, script, args, message):
    assert message in refused(script, *case.args(script), *args)
    assert not case.output.exists() or case.output_files() == []


class Case:
    """Copies of all inputs, which a test may damage, and an output folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, folder / "out"

    def args(self, script: str) -> list[str]:
        stores = [f"HDF5_MEL_PATH={self.folder / MEL_NAME}", f"HDF5_ROLL_PATH={self.folder / ROLL_NAME}"]
        stores += [f"MAESTRO_PATH={self.folder / 'maestro'}"]
        given = {
            MAESTRO: [f"MAESTRO_INPATH={self.folder / 'maestro'}"],
            MAPS: [f"MAPS_INPATH={self.folder / 'maps'}"],
            TRAIN: [*stores, f"SNAPSHOT_INPATH={self.folder / 'weights.torch'}"],
            EVALUATE: [*stores, f"SNAPSHOT_INPATH={self.folder / 'weights.torch'}"],
        }
        return [*given[script], f"OUTPUT_DIR={self.output}"]

    def output_files(self) -> list[str]:
        """All output files except logs."""
        return [path.name for path in self.output.rglob("*") if path.is_file() and path.parent.name != "txt_logs"]

    def digests(self) -> dict[Path, str]:
        files = [path for path in self.folder.rglob("*") if path.is_file() and self.output not in path.parents]
        files = [path for path in files if path.suffix != ".frames"]  # training's copy of the stores
        return {path: hashlib.md5(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def good(toy_maestro, toy_maps, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    accepted(MAESTRO, f"MAESTRO_INPATH={toy_maestro}", f"OUTPUT_DIR={folder}", "WORKERS=1")
    shutil.copytree(toy_maestro, folder / "maestro")
    shutil.copytree(toy_maps, folder / "maps")
    torch.manual_seed(0)
    save_snapshot(OnsetVelocityNet(), folder / "weights.torch")
    return folder


@pytest.fixture
def case(good, tmp_path) -> Case:
    return Case(shutil.copytree(good, tmp_path / "case", copy_function=os.link))  # to be replaced, not changed


def replace(path: Path, contents: bytes) -> None:
    path.unlink()
    path.write_bytes(contents)


def change(path: Path, edit) -> None:
    replace(path, edit(path.read_bytes()))


def change_store(path: Path, edit) -> None:
    change(path, lambda contents: contents)
    with h5py.File(path, "r+") as file:
        edit(file)


def half(contents: bytes) -> bytes:
    return contents[: len(contents) // 2]


class Executes:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def pickle_with_code(case: Case) -> None:
    replace(case.folder / "weights.torch", pickle.dumps({"stem.0.weight": Executes()}, protocol=2))


def other_network(case: Case) -> None:
    (case.folder / "weights.torch").unlink()
    save_snapshot(OnsetVelocityNet(in_bins=229, init=False), case.folder / "weights.torch")


def other_metadata(file: h5py.File) -> None:
    file["metadata"][1] = repr(("another", 2004, "train", 3.0, "Composer", "Title"))


def spoil_first_chunk(case: Case) -> None:
    change_store(case.folder / MEL_NAME, lambda file: file["data"].id.write_direct_chunk((0, 0), b"\xff" * 9))


VALIDATION_MIDI = "maestro/2009/MIDI-Unprocessed_validation_0_wav--0.midi"
FILES = {
    "no CSV": (MAESTRO, lambda c: (c.folder / CSV).unlink(), "maestro-v3.0.0.csv: no such file (found no CSV there)"),
    "empty CSV": (MAESTRO, lambda c: replace(c.folder / CSV, b""), "maestro-v3.0.0.csv: expected the columns"),
    "foreign CSV": (MAESTRO, lambda c: replace(c.folder / CSV, b"a,b\n1,2\n"), "expected the columns canonical_comp"),
    "ragged CSV": (
        MAESTRO,
        lambda c: change(c.folder / CSV, lambda x: x + b"," * 9),
        "line 10: expected 7 fields, found 10",
    ),
    "unknown split": (
        MAESTRO,
        lambda c: change(c.folder / CSV, lambda x: x.replace(b",test,", b",tset,")),
        "column split: expected train, validation, test, found 'tset'",
    ),
    "no audio": (MAESTRO, lambda c: next(c.folder.rglob("*test_0*.wav")).unlink(), "test_0_wav--0.wav: no such file"),
    "cut audio": (
        MAESTRO,
        lambda c: change(next(c.folder.rglob("*test_0*.wav")), half),
        "test_0_wav--0.wav: truncated",
    ),
    "cut MIDI": (MAESTRO, lambda c: change(next(c.folder.rglob("*test_0*.midi")), half), "file ends too early"),
    "foreign MAPS name": (MAPS, lambda c: (c.folder / "maps/AkPnBcht/MUS/x.wav").touch(), "x: not a MAPS file name"),
    "lonely MAPS audio": (
        MAPS,
        lambda c: (c.folder / "maps/AkPnBcht/MUS/MAPS_MUS-bk_xmas1_AkPnBcht.mid").unlink(),
        "MAPS_MUS-bk_xmas1_AkPnBcht.mid: no such file, although its counterpart exists",
    ),
    "empty MAPS": (MAPS, lambda c: shutil.rmtree(c.folder / "maps"), "maps: no such folder"),
    "no store": (TRAIN, lambda c: (c.folder / MEL_NAME).unlink(), f"{MEL_NAME}: no such file"),
    "cut store": (TRAIN, lambda c: change(c.folder / MEL_NAME, half), f"{MEL_NAME}: not a complete HDF5 file"),
    "no HDF5": (EVALUATE, lambda c: replace(c.folder / ROLL_NAME, b"roll"), f"{ROLL_NAME}: not a complete HDF5 file"),
    "other recordings": (
        TRAIN,
        lambda c: change_store(c.folder / ROLL_NAME, other_metadata),
        "do not belong together",
    ),
    "no MIDI for validation": (TRAIN, lambda c: (c.folder / VALIDATION_MIDI).unlink(), "validation_0_wav--0.midi: no"),
    "cut MIDI for validation": (TRAIN, lambda c: change(c.folder / VALIDATION_MIDI, half), "file ends too early"),
    "text as snapshot": (TRAIN, lambda c: replace(c.folder / "weights.torch", b"x"), "weights.torch: not a snapshot"),
    "cut snapshot": (EVALUATE, lambda c: change(c.folder / "weights.torch", half), "weights.torch: not a snapshot"),
    "code as snapshot": (
        EVALUATE,
        pickle_with_code,
        "not a snapshot: expected a saved state dict, found a pickle that",
    ),
    "other network": (
        EVALUATE,
        other_network,
        "OnsetVelocityNet needs log-mels of 229 bands",
    ),
    "damaged recording": (TRAIN, spoil_first_chunk, "recording MIDI-Unprocessed_train_"),
    "file as output": (TRAIN, lambda c: c.output.touch(), "txt_logs: Not a directory"),
}


@pytest.mark.parametrize(("script", "damage", "message"), FILES.values(), ids=FILES)
def test_unusable_files_are_one_line_and_status_2(case, monkeypatch, script, damage, message):
    monkeypatch.chdir(case.folder)
    damage(case)
    before = case.digests()
    tiny = ("TRAIN_BS=2", "TRAIN_BATCH_SECS=0.5", "DATALOADER_WORKERS=0") if script == TRAIN else ()
    assert message in refused(script, *case.args(script), *tiny)
    assert case.digests() == before
    assert not (case.folder / "executed").exists()
    assert case.output.is_file() or case.output_files() == []


def test_a_recording_damaged_in_the_store_is_named_by_loader_workers(case):
    spoil_first_chunk(case)
    args = ("DATALOADER_WORKERS=2", "TRAIN_BS=2", "TRAIN_BATCH_SECS=0.5")
    assert "recording MIDI-Unprocessed_train_" in refused(TRAIN, *case.args(TRAIN), *args)


def test_unusual_but_valid_files_are_used(case):
    """Eight recordings, each unusual in another way."""
    rng, oddities = np.random.default_rng(0), sorted((case.folder / "maestro").rglob("*.wav"))
    noise = rng.uniform(-0.1, 0.1, (96000, 6))
    formats = [("PCM_U8", 16000, 1), ("PCM_24", 96000, 6), ("DOUBLE", 8000, 2), ("FLOAT", 48000, 1)]
    for path, (subtype, rate, channels) in zip(oddities, formats, strict=False):
        path.unlink()
        sf.write(path, noise[: 3 * rate, :channels], rate, subtype=subtype)
    oddities[4].unlink()
    sf.write(oddities[4], np.zeros(48000), 16000)
    for path in (oddities[5], oddities[6]):
        path.with_suffix(".midi").unlink()
    write_midi(oddities[5].with_suffix(".midi"), [])
    write_midi(oddities[6].with_suffix(".midi"), [(0.1, 90.0, 60, 80), (50.0, 51.0, 61, 80)])  # longer than its audio
    printed = accepted(MAESTRO, *case.args(MAESTRO), "WORKERS=1")
    assert "1 silent recordings" in printed
    assert "MIDI files longer than their audio" in printed
    assert len(Store(case.output / MEL_NAME, 250)) == 8


def test_too_little_memory_is_one_line(capsys, monkeypatch):
    @dataclass
    class Conf:
        FRAMES: int = option(10**15, "to allocate")

    for allocate in (torch.zeros, np.zeros):
        with pytest.raises(SystemExit) as stop:
            run(lambda conf, allocate=allocate: allocate(conf.FRAMES), Conf, [])
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: out of memory: ")


def test_other_errors_keep_their_traceback():
    def main(conf):
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        run(main, make_dataclass("Conf", []), [])


def test_a_snapshot_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    def load(*args, **kwargs):
        raise OSError(22, "Invalid argument")

    (tmp_path / "odd.torch").write_bytes(b"PK")
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(InputError, match=r"odd\.torch: not a snapshot"):
        load_snapshot(tmp_path / "odd.torch", torch.nn.Linear(1, 1))


@pytest.mark.parametrize("rate", [44_055, 99_991])
def test_rates_whose_ratio_would_need_gigabytes_are_refused(tmp_path, rate):
    sf.write(tmp_path / "odd.wav", np.zeros(3000), rate)
    with pytest.raises(InputError, match=rf"odd\.wav: sampling rate {rate} Hz has no simple ratio to 16000 Hz"):
        load_mono(tmp_path / "odd.wav")


def test_a_header_with_an_implausible_length_is_refused(tmp_path):
    """FLAC headers have 36 bits for the number of samples."""
    path = tmp_path / "long.flac"
    sf.write(path, np.zeros(20_000), 16000)
    contents = bytearray(path.read_bytes())
    contents[21] |= 0x0F
    contents[22:26] = b"\xff" * 4
    path.write_bytes(contents)
    assert sf.info(path).frames == 2**36 - 1
    with pytest.raises(InputError, match=r"long\.flac: "):
        load_mono(path)


def test_many_channels_are_read_in_smaller_blocks(tmp_path):
    path = tmp_path / "many.wav"
    samples = np.random.default_rng(0).uniform(-1, 1, (70_000, 250)).astype(np.float32)  # more than 2**24 values
    sf.write(path, samples, 16000, subtype="FLOAT")
    np.testing.assert_allclose(load_mono(path), samples.mean(1), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("metadata", np.arange(8), "str"),
        ("metadata", np.zeros((8, 2)), "metadata: expected one dimension"),
        ("metadata", np.array([b"[" * 50_000] * 8), "nested"),
        ("data_idxs", np.zeros((2, 3), np.int64), r"data_idxs: expected shape \(2, 8\), found \(2, 3\)"),
        ("data_idxs", np.int64(3), r"found \(\)"),
    ],
)
def test_other_hdf5_files_are_refused_as_stores(case, name, contents, message):
    def edit(file):
        del file[name]
        file[name] = contents

    change_store(case.folder / MEL_NAME, edit)
    with pytest.raises(InputError, match=f"not a complete HDF5 file of recordings: .*{message}"):
        Store(case.folder / MEL_NAME)


def test_error_messages_are_one_line():
    assert str(InputError("a\nb\r\nc\u2028d\n")) == "a b c d"
