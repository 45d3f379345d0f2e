"""The loaders to fuzz: valid inputs to corrupt, and a call that may succeed or raise `InputError`."""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

from ov_piano.config import describe, parse_args, to_yaml
from ov_piano.constants import SAMPLE_RATE
from ov_piano.data import maestro, maps
from ov_piano.data.audio import LogMel, audio_info, load_mono, resampled_length
from ov_piano.data.hdf5 import MelName, RollName, Store, StoreWriter, parse_mel_name, parse_roll_name
from ov_piano.data.midi import read_notes
from ov_piano.data.pianoroll import piano_roll
from ov_piano.errors import InputError
from ov_piano.model.sidecar import read_sidecar, sidecar_path
from ov_piano.model.snapshot import load_snapshot, save_snapshot
from ov_piano.settings import LogMelSettings
from ov_piano.training.breakpoint import BreakpointFile
from tests.conftest import COLUMNS, TOY_MAPS, random_notes, write_midi
from tests.midi_files import GOLDEN_MIDI
from tests.scripts import load_script

LONG_SECS = 3600  # rolls of longer MIDI files are made with coarser frames
SCRIPTS = ("0a_maestro_to_hdf5mel.py", "0b_maps_to_hdf5mel.py", "1_train_onsets_velocities.py")
SCRIPTS += ("2_eval_onsets_velocities.py",)
NUMBERS = (b"0", b"-1", b"1e999", b"nan", b"3.5", b"99999999999999999999", b"1_0", b"0x10", b"\xd9\xa3", b"null", b"")
TEXT = (*NUMBERS, b"=", b",", b"(", b")", b"[", b"]", b"{", b"${", b'"', b"'", b"\\", b"\n", b"\r", b"\0", b" ", b"%s")
TEXT += (b"{}", b"/", b"..", b"\xff", "é".encode(), "\u2028".encode(), b"!!python/object:os.system", b"&a *a", b"~")
MIDI_TOKENS = (b"MThd", b"MTrk", b"\xff\x51\x03\0\0\0", b"\xff\x51\x03\xff\xff\xff", b"\xff\x2f\0", b"\xf0\x01\xf7")
MIDI_TOKENS += (b"\xff\xff\xff\x7f", b"\x90\x3c\x40", b"\x80\x3c\x40", b"\xb0\x40\x7f", b"\xb0\x42\x7f", b"\xc0\x05")
MIDI_TOKENS += (b"\xff\x01\x05abcde", b"\xff\x59\x02\x0f\x05", b"\xe7\x28", b"\xf4", b"\xff\xff\xff\xff")
WAVE_TOKENS = (b"RIFF", b"RIFX", b"RF64", b"WAVE", b"fmt ", b"data", b"fact", b"LIST", b"FORM", b"AIFF", b"COMM")
WAVE_TOKENS += (b"SSND", b".snd", b"fLaC", b"OggS", b"\xfe\xff", b"\x03\0", b"\x07\0", b"\0\0\xc0\x7f", b"\xff" * 8)


@dataclass
class Loader:
    """``seeds``: valid inputs; ``load``: loads one input; ``share``: this loader's share of all inputs."""

    seeds: list[bytes]
    load: Callable[[bytes], None]
    tokens: tuple[bytes, ...] = TEXT
    share: float = 0.1


def make_loaders(folder: Path) -> dict[str, Loader]:
    """All loaders; they read files from ``folder``."""
    return {
        "MIDI": _midi(folder / "midi"),
        "wave_header": _wave(folder / "wave"),
        "MAESTRO_CSV": _csv(folder / "csv"),
        "HDF5_name": _names(),
        "MAPS_name": _maps_names(),
        "configuration": _configuration(),
        "HDF5_store": _store(folder / "store"),
        "snapshot": _snapshot(folder / "snapshot"),
        "operating_point": _operating_point(folder / "point"),
        "breakpoint.json": _breakpoint(folder / "breakpoint"),
    }


def _midi(folder: Path) -> Loader:
    folder.mkdir()
    rng, path = np.random.default_rng(0), folder / "fuzzed.mid"
    pedals = [(0.5, 64, 90), (0.7, 66, 1), (1.5, 64, 0), (1.7, 66, 0), (1.8, 67, 60)]
    write_midi(folder / "maestro.mid", random_notes(rng, 4), controls=pedals)
    write_midi(folder / "maps.mid", random_notes(rng, 3), two_tracks=False)
    write_midi(folder / "empty.mid", [])
    seeds = [file.read_bytes() for file in (*folder.glob("*.mid"), *GOLDEN_MIDI)]

    def load(data: bytes) -> None:
        path.write_bytes(data)
        notes = read_notes(path)
        frame_secs = 0.024 if notes.last_secs < LONG_SECS else 2.4
        roll, collisions = piano_roll(notes, frame_secs)
        onsets, offsets = notes.notes[:, :2].T
        assert np.count_nonzero(roll[:128]) + collisions == len(onsets), "a note is neither in the roll nor counted"
        assert (onsets <= offsets).all(), "a note ends before it begins"
        assert not len(offsets) or offsets.max() <= notes.last_secs, "a note ends after the file"

    return Loader(seeds, load, MIDI_TOKENS, share=0.25)


def _wave(folder: Path) -> Loader:
    folder.mkdir()
    rng, path = np.random.default_rng(0), folder / "fuzzed"
    wave = rng.uniform(-0.5, 0.5, (3000, 2))
    for kind, subtype in (
        ("WAV", "PCM_16"),
        ("WAV", "PCM_U8"),
        ("WAV", "PCM_24"),
        ("WAV", "FLOAT"),
        ("RF64", "PCM_16"),
    ):
        sf.write(folder / f"{kind}_{subtype}", wave, 16000, format=kind, subtype=subtype)
    for kind in ("FLAC", "OGG", "AIFF", "AU", "CAF", "W64", "WAVEX"):
        sf.write(folder / kind, wave, 44100, format=kind)
    seeds = [file.read_bytes() for file in folder.iterdir()]
    transform = LogMel()

    def load(data: bytes) -> None:
        path.write_bytes(data)
        wave = load_mono(path)
        info = audio_info(path)
        assert len(wave) == resampled_length(info.samples, info.sample_rate, SAMPLE_RATE), "not the promised length"
        for block in transform.in_blocks(wave.split(4000)):
            assert torch.isfinite(block).all(), "the log-mel is not finite"

    return Loader(seeds, load, WAVE_TOKENS, share=0.2)


def _csv(folder: Path) -> Loader:
    (folder / "2004").mkdir(parents=True)
    for name in ("a", "b"):
        (folder / "2004" / f"{name}.midi").touch()
    rows = [
        ("Composer's name", 'Étude "No. 1"', "train", 2004, "2004/a.midi", "2004/a.wav", 12.5),
        ("Composer, name", "Title", "validation", 2004, "2004/b.midi", "2004/b.wav", 3),
        ("Composer", "Title", "test", 2018, "2018/c.midi", "2018/c.wav", 3),
    ]
    path = folder / "maestro-v3.0.0.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])

    def load(data: bytes) -> None:
        path.write_bytes(data)
        for recording in maestro.load_recordings(folder, need_audio=False):
            kinds = [type(value) for value in recording.metadata]
            assert kinds == [str, int, str, float, str, str], f"metadata of other types: {recording.metadata}"

    tokens = (*TEXT, b"train", b"2004/a.midi", b"canonical_title", b"year", b"\xef\xbb\xbf", b'"' * 3, b"," * 7)
    return Loader([path.read_bytes()], load, tokens)


def _names() -> Loader:
    seeds = [MelName("MAESTROv3"), MelName("MAPS", LogMelSettings(22050, 1024, 512, 229, 0, 11025))]
    seeds += [RollName("MAESTROv1", 0.024, True), RollName("MAPS", 512 / 22050, False)]

    def load(data: bytes) -> None:
        name = data.decode("utf-8", "surrogateescape")
        for parse in (parse_mel_name, parse_roll_name):
            try:
                parsed = parse(name)
            except InputError:
                continue
            assert str(parsed) == Path(name).name, f"{name!r} is read as {parsed}"

    return Loader([str(name).encode() for name in seeds], load, (*TEXT, b"_roll_quant=", b"_mel=", b"True", b"MAPS"))


def _maps_names() -> Loader:
    def load(data: bytes) -> None:
        name = maps.parse_basename(data.decode("utf-8", "surrogateescape"))
        assert name["category"] in maps.CATEGORIES
        assert name["instrument"] in maps.INSTRUMENTS

    return Loader([name.split("/")[-1].encode() for name in TOY_MAPS], load, (*TEXT, b"_AkPnBcht", b"MUS", b"_S", b"-"))


def _configuration() -> Loader:
    """The first line of an input names the script."""
    classes = {name: load_script(name).ConfDef for name in SCRIPTS}
    seeds = []
    for name, conf_class in classes.items():
        shown = [line.strip() for line in describe(conf_class).splitlines() if not line.startswith("      ")]
        seeds += [f"{name}\n{line}".encode() for line in shown]

    def load(data: bytes) -> None:
        name, _, arg = data.decode("utf-8", "surrogateescape").partition("\n")
        given = [arg] if arg.startswith("SNAPSHOT_INPATH=") else [arg, "SNAPSHOT_INPATH=x"]
        conf_class = classes.get(name, classes[SCRIPTS[0]])
        given = given if "SNAPSHOT_INPATH" in conf_class.__dataclass_fields__ else [arg]
        conf = parse_args(conf_class, given)
        to_yaml(conf)
        if name.startswith("0"):
            conf.part_settings("MAPS")

    return Loader(seeds, load, (*TEXT, b"true", b"[0.5,1.5]", b"[]", b"{a: 1}", b"cuda:9", b"meta", b"xpu", b"mkldnn"))


def _store(folder: Path) -> Loader:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        with StoreWriter(folder / name, 5, 7) as writer:
            for index in range(3):
                writer.append(rng.normal(size=(5, 9 + index)), (f"recording {index}", "AkPnBcht", "MUS"))
    seeds, path = [(folder / name).read_bytes() for name in ("one", "two")], folder / "fuzzed.h5"

    def load(data: bytes) -> None:
        path.write_bytes(data)
        store = Store(path, 5)
        try:
            store.read(int(store.begins[0]), int(store.ends[0]))
        except OSError:  # damaged data; the datasets of `ov_piano.data.chunks` name the recording
            pass
        finally:
            store.close()

    return Loader(seeds, load, (b"\x89HDF\r\n\x1a\n", b"data", b"TREE", b"SNOD", b"HEAP", *TEXT), share=0.05)


def _snapshot(folder: Path) -> Loader:
    folder.mkdir()
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    save_snapshot(net, folder / "good.torch")
    torch.save(net.state_dict(), folder / "old.torch", _use_new_zipfile_serialization=False)
    seeds, path = [file.read_bytes() for file in folder.iterdir()], folder / "fuzzed.torch"

    def load(data: bytes) -> None:
        path.write_bytes(data)
        load_snapshot(path, net)

    return Loader(
        seeds, load, (b"PK\x03\x04", b"PK\x05\x06", b"cos\nsystem\n", b"\x80\x02", b"q\x01", *TEXT), share=0.05
    )


def _operating_point(folder: Path) -> Loader:
    folder.mkdir()
    snapshot = folder / "x.torch"

    def load(data: bytes) -> None:
        sidecar_path(snapshot).write_bytes(data)
        read_sidecar(snapshot)

    return Loader([b"threshold: 0.77\nshift: -0.01\ncommit: abc\n"], load, share=0.025)


def _breakpoint(folder: Path) -> Loader:
    folder.mkdir()
    path = folder / "breakpoint.json"
    rules = {"inconditional": False, "step_gt": 4, "step_every": None}

    def load(data: bytes) -> None:
        path.write_bytes(data)
        assert type(BreakpointFile(path).wants_pause(7)) is bool

    return Loader([json.dumps(rules).encode()], load, (*TEXT, b"true", b"[" * 5000, b"1" * 5000), share=0.025)
