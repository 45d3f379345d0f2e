"""Pianos: sampled pianos, rendered note by note, and General MIDI sound fonts, rendered by FluidSynth."""

import csv
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import mido
import numpy as np
import soundfile as sf
import soxr
from scipy.signal import lfilter

SR = 16_000  # Hz
FONTS = Path("/usr/share")  # where Debian installs sound fonts
FONT_RATE = 48_000  # Hz: FluidSynth's filters need headroom
SOUND_FONTS = {  # name -> file, bank, program
    "fluid": ("sounds/sf2/FluidR3_GM.sf2", 0, 0),
    "fluid_bright": ("sounds/sf2/FluidR3_GM.sf2", 0, 1),
    "musescore": ("sounds/sf2/MuseScore_General_Full.sf2", 0, 0),
    "musescore_bright": ("sounds/sf2/MuseScore_General_Full.sf2", 0, 1),
    "musescore_mellow": ("sounds/sf2/MuseScore_General_Full.sf2", 8, 0),
    "generaluser": ("minuet/soundfonts/GeneralUser-v1.47.sf2", 0, 0),
    "generaluser_bright": ("minuet/soundfonts/GeneralUser-v1.47.sf2", 0, 1),
    "timgm": ("sounds/sf2/TimGM6mb.sf2", 0, 0),
    "timgm_2": ("sounds/sf2/TimGM6mb.sf2", 0, 1),
    "csound": ("sounds/sf2/sf_GMbank.sf2", 0, 0),
    "csound_2": ("sounds/sf2/sf_GMbank.sf2", 0, 1),
    "csound_3": ("sounds/sf2/sf_GMbank.sf2", 0, 2),
}
DAMPER_SECS = (0.2, 0.06)  # time constant of a damped string, lowest to highest key
SYMPATHY_SECS = 3  # how long a key's strings answer to other keys
SYMPATHY_PARTIALS = 4
UNDAMPED_MIDI = 90  # strings from here up have no damper
# Velocity -> level in dB: the median over the keys of a 16-layer grand at its natural recording levels.
CURVE_VELOCITY = np.array([1, 20, 40, 60, 80, 100, 127])
CURVE_DB = np.array([-42, -30, -21, -14, -8.5, -4, 0])


class SampledPiano:
    """The samples of one instrument."""

    def __init__(self, folder: Path):
        with open(folder / "index.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        self.layers = sorted({int(row["layer"]) for row in rows})
        self.centre = {int(row["layer"]): (int(row["lovel"]) + int(row["hivel"])) / 2 for row in rows}
        self.roots = {layer: {} for layer in self.layers}
        levels = {layer: [] for layer in self.layers}
        for row in rows:
            wave = sf.read(folder / row["file"], dtype="float32")[0] * np.float32(row["gain"])
            self.roots[int(row["layer"])][int(row["midi"])] = wave
            levels[int(row["layer"])].append(20 * np.log10(np.sqrt(np.mean(wave[:4800] ** 2)) + 1e-9))
        self.level = {layer: float(np.median(values)) for layer, values in levels.items()}  # dB
        self._tones = {}

    def layer(self, velocity: float) -> int:
        """The nearest velocity layer."""
        return min(self.layers, key=lambda layer: abs(self.centre[layer] - velocity))

    def tone(self, midi: int, layer: int) -> np.ndarray:
        """A key's tone in a layer, derived from the nearest sample: float32 at ``SR``."""
        if (midi, layer) not in self._tones:
            roots = self.roots[layer]
            root = min(roots, key=lambda other: abs(other - midi))
            wave = roots[root]
            if root != midi:
                wave = soxr.resample(wave, SR * 2 ** ((midi - root) / 12), SR, quality="HQ")
            self._tones[midi, layer] = wave.astype(np.float32)
        return self._tones[midi, layer]


@dataclass
class Action:
    """Random properties of one piano on one day; arrays have one value per MIDI note."""

    slope: float  # of level over velocity
    bend: float  # exponent of timbre over velocity
    damping: float  # factor of the dampers' time constants
    key_level: np.ndarray  # dB
    key_touch: np.ndarray  # velocities: timbre of single keys
    cents: np.ndarray  # tuning of keys
    beat: np.ndarray  # cents between the strings of a unison
    unison: np.ndarray  # level of the second string
    sympathy: float  # level, relative to the played tones, of what they excite in the strings of other sounding keys

    @classmethod
    def draw(
        cls, rng: np.random.Generator, damping: tuple[float, float], sympathy: tuple[float, float] | None
    ) -> "Action":
        """Draw a piano.

        :param damping: range of the factor of the dampers' time constants
        :param sympathy: range of the level of sympathetic strings in dB, which 7 of 10 pianos get; None gives none
        """
        spread = rng.choice([0.0, rng.uniform(0, 3), rng.uniform(3, 9)])  # cents: how well it is tuned
        stretch = rng.uniform(0, 12) * ((np.arange(128) - 65) / 43) ** 3  # cents: octaves tuned wide
        return cls(
            slope=rng.uniform(0.75, 1.2),
            bend=np.exp(rng.uniform(np.log(0.6), np.log(1.6))),
            damping=np.exp(rng.uniform(*np.log(damping))),
            key_level=rng.normal(0, 1.2, 128),
            key_touch=rng.normal(0, 6, 128),
            cents=rng.normal(0, 1, 128) * spread + stretch,
            beat=rng.normal(0, 0.3 + spread / 4, 128),
            unison=rng.uniform(0, 0.9, 128) * (rng.random() < 0.6),
            sympathy=10 ** (rng.uniform(*sympathy) / 20) * (rng.random() < 0.7) if sympathy else 0.0,
        )


class Struck(NamedTuple):
    """A rendered note."""

    begin: int  # first sample
    hold: int  # samples until the damper falls
    midi: int
    sound: np.ndarray  # (samples,)
    release: np.ndarray  # the damper's decay, 1 to 0


def play(notes: list, secs: float, piano: SampledPiano, action: Action, tuning: float) -> np.ndarray:
    """Render the notes to a float32 wave, slower by the factor ``tuning``; resampling shifts the pitch."""
    wave = np.zeros(int((secs + 1) * SR * tuning) + 1, np.float32)
    tones, releases, struck = {}, {}, []
    for onset, end, midi, velocity in notes:
        if not 21 <= midi <= 108:
            continue
        touch = np.clip(127 * (velocity / 127) ** action.bend + action.key_touch[midi], 1, 127)
        layer = piano.layer(touch)
        if (midi, layer) not in tones:
            tones[midi, layer] = _detuned(piano.tone(midi, layer), action, midi)
        tone = tones[midi, layer]
        begin, hold = round(onset * SR * tuning), int((end - onset) * SR * tuning)
        if midi >= UNDAMPED_MIDI:
            hold = len(tone)
        if midi not in releases:
            damped_secs = action.damping * np.interp(midi, (21, 88), DAMPER_SECS)
            releases[midi] = np.exp(-np.arange(int(5 * damped_secs * SR)) / (damped_secs * SR)).astype(np.float32)
        release = releases[midi]
        n = min(len(tone), hold + len(release), len(wave) - begin)
        level_db = np.interp(velocity, CURVE_VELOCITY, CURVE_DB) * action.slope - piano.level[layer]
        gain = 10 ** ((level_db + action.key_level[midi]) / 20)
        sound = gain * tone[:n]
        if n > hold:
            sound[hold:] *= release[: n - hold]
        wave[begin : begin + n] += sound
        if action.sympathy:
            struck.append(Struck(begin, hold, midi, sound, release))
    if not struck:
        return wave
    answer = np.zeros_like(wave)
    for note in struck:
        rings = _sympathetic(wave, note, action.cents[note.midi])
        answer[note.begin : note.begin + len(rings)] += rings
    return wave + action.sympathy * np.sqrt(np.mean(wave**2) / (np.mean(answer**2) + 1e-18)) * answer


def _sympathetic(wave: np.ndarray, note: Struck, cents: float) -> np.ndarray:
    """What a sounding key's strings add when others with common partials are struck: swells without an onset.

    :param wave: all notes, (samples,)
    :param cents: tuning of the key
    :returns: (at most as many samples), from the note's begin until its damper has stopped the strings
    """
    hold = min(note.hold, int(SYMPATHY_SECS * SR), len(wave) - note.begin)
    others = wave[note.begin : note.begin + hold + len(note.release)].copy()
    own = min(len(note.sound), len(others))
    others[:own] -= note.sound[:own]
    hz = 440 * 2 ** ((note.midi - 69) / 12 + cents / 1200)
    rings = np.zeros_like(others)
    for partial in range(1, SYMPATHY_PARTIALS + 1):
        at = hz * partial * (1 + 0.0004 * partial**2)
        if at < 0.45 * SR:  # a damped oscillator: a lasting tone of its frequency comes out at 1 / partial of its level
            decay_secs = np.interp(note.midi, (21, 108), (1.0, 0.15)) / partial**0.5
            radius, angle = np.exp(-1 / (decay_secs * SR)), 2 * np.pi * at / SR
            gain = (1 - radius) * np.sin(angle) * 2 / partial
            rings += lfilter([0, gain], [1, -2 * radius * np.cos(angle), radius**2], others).astype(np.float32)
    rings[hold:] *= note.release[: len(rings) - hold]
    return rings


def _detuned(tone: np.ndarray, action: Action, midi: int) -> np.ndarray:
    """The tone at the key's tuning, plus a second, slightly detuned string."""
    first = _moved(tone, action.cents[midi])
    level = action.unison[midi]
    if level > 0.05:
        second = _moved(tone, action.cents[midi] + action.beat[midi])
        n = min(len(first), len(second))
        first = (first[:n] + level * second[:n]) / np.sqrt(1 + level**2)
    return first.astype(np.float32)


def _moved(tone: np.ndarray, cents: float) -> np.ndarray:
    """Resample the tone by linear interpolation."""
    if abs(cents) < 0.1:
        return tone
    at = np.arange(int(len(tone) / 2 ** (cents / 1200)) - 1) * 2 ** (cents / 1200)
    low = at.astype(np.int64)
    share = (at - low).astype(np.float32)
    return tone[low] * (1 - share) + tone[np.minimum(low + 1, len(tone) - 1)] * share


def play_sound_font(mid: mido.MidiFile, name: str, rng: np.random.Generator) -> np.ndarray:
    """Render the MIDI file with FluidSynth and a random velocity curve: float32 wave at ``SR``."""
    font, bank, program = SOUND_FONTS[name]
    bend = np.exp(rng.uniform(np.log(0.75), np.log(1.3)))
    played = mido.MidiFile(type=1, ticks_per_beat=mid.ticks_per_beat)
    for track in mid.tracks:
        out = mido.MidiTrack()
        for msg in track:
            if msg.type == "program_change":
                out.append(mido.Message("control_change", control=0, value=bank, time=msg.time))
                out.append(mido.Message("program_change", program=program))
            elif msg.type == "note_on" and msg.velocity > 0:
                out.append(msg.copy(velocity=int(np.clip(round(127 * (msg.velocity / 127) ** bend), 1, 127))))
            else:
                out.append(msg)
        played.tracks.append(out)
    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/in.mid", f"{folder}/out.wav"
        played.save(source)
        options = ["-niq", "-R", "0", "-C", "0", "-g", "0.4", "-r", str(FONT_RATE), "-o", "synth.polyphony=512"]
        command = ["fluidsynth", *options, "-T", "wav", "-F", target, str(FONTS / font), source]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wave, rate = sf.read(target, dtype="float32")
    return soxr.resample(wave.mean(1), rate, SR, quality="HQ")
