"""Random seeds, a check for leftover processes, and toy datasets in the published layouts (copy before writing)."""

import csv
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import HealthCheck, settings

from tests.processes import MARK, leftovers

TICKS_PER_SEC = 1000  # 500 ticks a beat at the default 120 beats a minute
COLUMNS = ["canonical_composer", "canonical_title", "split", "year", "midi_filename", "audio_filename", "duration"]
TOY_SPLITS = {"train": (2004, 4), "validation": (2009, 2), "test": (2018, 2)}  # year folder, recordings
TOY_MAPS = (
    "AkPnBcht/MUS/MAPS_MUS-chpn_op27_2_AkPnBcht",
    "AkPnBcht/MUS/MAPS_MUS-bk_xmas1_AkPnBcht",
    "StbgTGd2/MUS/MAPS_MUS-bk_xmas1_StbgTGd2",
    "StbgTGd2/MUS/MAPS_MUS-mz_331_2_StbgTGd2",
    "SptkBGAm/MUS/MAPS_MUS-alb_se3_SptkBGAm",
    "ENSTDkCl/MUS/MAPS_MUS-mz_331_2_ENSTDkCl",
    "ENSTDkAm/MUS/MAPS_MUS-scn15_7_ENSTDkAm",
    "AkPnBcht/ISOL/NO/MAPS_ISOL_NO_F_S0_M60_AkPnBcht",
    "AkPnBcht/ISOL/CH/MAPS_ISOL_CH0.3_M_AkPnBcht",
    "AkPnBcht/RAND/P2/M36-95/I60-68/MAPS_RAND_P2_M36-95_I60-68_S0_n1_AkPnBcht",
    "AkPnBcht/UCHO/I60-68/C0-4-7/MAPS_UCHO_C0-4-7_I60-68_S1_n2_AkPnBcht",
)

UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "database": None}
settings.register_profile("tests", derandomize=True, **UNTIMED)
settings.register_profile("fuzz", max_examples=2000, **UNTIMED)
settings.load_profile("tests")
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs that a shell puts into the background ignore Ctrl-C


@pytest.fixture(scope="session", autouse=True)
def no_leftovers() -> Iterator[None]:
    """Fail if a process that a test started is still running after the last test (of this pytest-xdist worker)."""
    os.environ[MARK] = f"{os.getpid()}"
    yield
    left = leftovers(patience_secs=60)
    assert not left, f"tests left processes running: {left}"


@pytest.fixture(autouse=True)
def seed() -> None:
    """Make random numbers independent of the order of the tests."""
    torch.manual_seed(0)


def random_notes(rng: np.random.Generator, seconds: float) -> list[tuple[float, float, int, int]]:
    """About four notes per second that do not overlap on a key: onset s, offset s, MIDI note, velocity."""
    notes, free_at = [], {}
    for onset in np.sort(rng.uniform(0.1, seconds - 0.6, round(4 * seconds))):
        note, velocity = int(rng.integers(40, 85)), int(rng.integers(20, 120))
        if free_at.get(note, 0) < onset:
            offset = onset + rng.uniform(0.1, 0.5)
            notes.append((float(onset), float(offset), note, velocity))
            free_at[note] = offset + 0.05
    return notes


def write_midi(path: Path, notes: list, two_tracks: bool = True, controls: list = ()) -> None:
    """MAESTRO's layout (type 1, tempo track and note track) or MAPS's (type 0).

    ``controls``: (seconds, control, value).
    """
    on_off = [(on, 1, mido.Message("note_on", note=note, velocity=vel)) for on, _, note, vel in notes]
    on_off += [(off, 0, mido.Message("note_on", note=note, velocity=0)) for _, off, note, _ in notes]
    on_off += [(secs, 2, mido.Message("control_change", control=ctl, value=val)) for secs, ctl, val in controls]
    now, messages = 0, []
    for secs, _, message in sorted(on_off, key=lambda event: event[:2]):
        tick = round(secs * TICKS_PER_SEC)
        messages.append(message.copy(time=tick - now))
        now = tick
    head = [mido.MetaMessage("set_tempo", tempo=500_000), mido.MetaMessage("time_signature")]
    end = mido.MetaMessage("end_of_track", time=1)
    if two_tracks:
        tracks = [mido.MidiTrack([*head, end]), mido.MidiTrack([mido.Message("program_change"), *messages, end])]
    else:
        tracks = [mido.MidiTrack([head[0], *messages, end])]
    file = mido.MidiFile(type=int(two_tracks), ticks_per_beat=TICKS_PER_SEC // 2, tracks=tracks)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save(path)


def write_wave(path: Path, notes: list, seconds: float, *, rate: int = 44100, channels: int = 2, seed: int = 0) -> None:
    """Decaying harmonics for each note, a little noise, 16 bit."""
    rng, time = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    wave = rng.normal(0, 1e-4, len(time))
    for onset, offset, note, velocity in notes:
        first, last = round(onset * rate), round(offset * rate)
        local, pitch = time[: last - first], 440 * 2 ** ((note - 69) / 12)
        tone = sum(np.sin(2 * np.pi * pitch * k * local) / k**2 for k in (1, 2, 3))
        wave[first:last] += (0.15 * velocity / 127 * np.exp(-3 * local) * tone)[: len(wave[first:last])]
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.repeat(wave[:, None], channels, axis=1), rate, subtype="PCM_16")


def write_toy_maestro(root: Path, seed: int = 0) -> Path:
    """Eight recordings of 3 to 6 s in three splits, alternately 44.1 kHz stereo and 16 kHz mono."""
    rng, rows = np.random.default_rng(seed), []
    for split, (year, count) in TOY_SPLITS.items():
        for index in range(count):
            name, seconds = f"{year}/MIDI-Unprocessed_{split}_{index}_wav--{index}", float(rng.uniform(3, 6))
            notes = random_notes(rng, seconds)
            pedal = [(0.5, 64, 90), (1.5, 64, 0), (2.0, 67, 60), (2.6, 67, 0)]
            write_midi(root / f"{name}.midi", notes, controls=pedal)
            rate, channels = ((44100, 2), (16000, 1))[index % 2]
            write_wave(root / f"{name}.wav", notes, seconds, rate=rate, channels=channels, seed=index)
            title = f'Étude "No. {index}", {split}'
            rows.append(("Composer's name", title, split, year, f"{name}.midi", f"{name}.wav", f"{seconds:.6f}"))
    with open(root / "maestro-v3.0.0.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return root


def write_toy_maps(root: Path, seed: int = 1) -> Path:
    """Eleven triples of 3 s: music on five instruments, and the other categories."""
    rng = np.random.default_rng(seed)
    for name in TOY_MAPS:
        notes = random_notes(rng, 3.0)
        write_midi(root / f"{name}.mid", notes, two_tracks=False)
        write_wave(root / f"{name}.wav", notes, 3.0)
        rows = "".join(f"{onset:.6f}\t{offset:.6f}\t{note}\n" for onset, offset, note, _ in notes)
        (root / f"{name}.txt").write_text("OnsetTime\tOffsetTime\tMidiPitch\n" + rows)
    return root


@pytest.fixture(scope="session")
def transcriber():
    """The default snapshot on the CPU."""
    from ov_piano.transcription.transcriber import Transcriber  # noqa: PLC0415 -- only where a test needs it

    return Transcriber(device="cpu")


@pytest.fixture(scope="session")
def toy_maestro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a tiny MAESTRO v3 tree (see `write_toy_maestro`)."""
    return write_toy_maestro(tmp_path_factory.mktemp("maestro") / "maestro-v3.0.0")


@pytest.fixture(scope="session")
def toy_maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a tiny MAPS tree (see `write_toy_maps`)."""
    return write_toy_maps(tmp_path_factory.mktemp("maps") / "MAPS")
