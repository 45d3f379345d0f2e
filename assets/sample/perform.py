"""Make the sample recordings of this folder: perform three scores and play them on a sampled piano.

1. A seeded performer turns each score (``scores.py``) into timed notes and pedal: phrases that
   gather and relax, a ritardando, dynamics, voices balanced, hands not quite together.
2. The performance is written as MIDI, structured as MAESTRO's.
3. The written MIDI is rendered with recorded piano tones to 16 kHz mono PCM-16.

    python assets/sample/perform.py PIANO_PATH=path/to/salamander [OUTPUT_DIR=assets/sample]

PIANO_PATH is a folder of recorded tones with an ``index.csv`` (file, midi, layer, lovel, hivel,
gain); it does not ship with the project. The same settings make the same files.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import mido
import numpy as np
import pandas as pd
import soundfile
from scipy.signal import oaconvolve, resample
from scores import PIECES, Piece

from ov_piano.cli import run
from ov_piano.config import REQUIRED, option
from ov_piano.errors import InputError

RATE = 16_000  # Hz
TICKS_PER_BEAT = 384
TICK_SECS = 0.5 / TICKS_PER_BEAT  # at MIDI's default tempo, as in MAESTRO
LEAD_SECS = 0.5  # silence before the first note
TAIL_SECS = 1.0  # after the last
PEDAL_DOWN, PEDAL_UP = 104, 0  # values of control 64
PEDAL_HELD = 64  # from this value on the dampers are off the strings
UNDAMPED_NOTE = 90  # strings from F#6 up have no damper
PEAK = 0.7


@dataclass
class ConfDef:
    """Settings of the program."""

    PIANO_PATH: str = option(REQUIRED, "folder of the sampled piano, with its index.csv")
    OUTPUT_DIR: str = option("assets/sample", "where the MAESTRO tree is written")
    RANDOM_SEED: int = option(846, "seed of the performer and of the room")


class PlayedNote(NamedTuple):
    """onset and offset in seconds, MIDI note, velocity."""

    onset: float
    offset: float
    note: int
    velocity: int


# The performer


def tempo_map(piece: Piece, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Score positions in quarters and the seconds at which they are reached, for np.interp."""
    end = max(note.quarter + note.quarters for note in piece.notes)
    quarters = np.arange(0, end + 1, 0.25)
    phrase = quarters / (piece.quarters_per_bar * piece.bars_per_phrase) % 1
    pace = 0.95 + 0.09 * np.sin(np.pi * phrase)  # quicker inside a phrase than at its ends
    drift = np.convolve(rng.normal(0, 0.02, len(quarters) + 7), np.ones(8) / 8, "valid")
    ritardando = 1 - 0.35 * np.clip(
        (quarters - (end - piece.quarters_per_bar * 1.5)) / (piece.quarters_per_bar * 1.5), 0, 1
    )
    secs_per_step = 0.25 * 60 / (piece.quarters_per_minute * (pace + drift) * ritardando)
    return quarters, LEAD_SECS + np.concatenate([[0], np.cumsum(secs_per_step[:-1])])


def play(piece: Piece, rng: np.random.Generator) -> tuple[list[PlayedNote], list[tuple[float, int]]]:
    """The performed notes and the sustain pedal as (seconds, value)."""
    clock = tempo_map(piece, rng)
    played = []
    for score in sorted(piece.notes):
        loudness, held = piece.voices[score.voice]
        onset = np.interp(score.quarter, *clock) + rng.normal(0, 0.006) - 0.0008 * max(0, loudness)  # melody leads
        offset = np.interp(score.quarter + held * score.quarters, *clock) + rng.normal(0.01, 0.01)
        velocity = np.interp(score.quarter, *zip(*piece.hairpins, strict=True)) + loudness + rng.normal(0, 2.5)
        beat = score.quarter % piece.quarters_per_bar
        velocity += 5 if beat == 0 else 2 if beat % 1 == 0 else -2
        played.append(PlayedNote(onset, max(offset, onset + 0.05), score.note, int(np.clip(round(velocity), 15, 115))))
    pedal = []
    for quarter in piece.pedal:
        change = np.interp(quarter, *clock)
        lift, press = change - 0.02 + rng.normal(0, 0.01), change + 0.16 + rng.normal(0, 0.02)
        if quarter > piece.pedal[0]:
            pedal += [(lift + 0.012 * i, round(PEDAL_DOWN * (1 - i / 4))) for i in range(1, 5)]
        pedal += [(press + 0.012 * i, round(PEDAL_DOWN * i / 4)) for i in range(1, 5)]
    if pedal:
        pedal.append((max(note.offset for note in played) + 0.6, PEDAL_UP))
    return separate_repetitions(played), pedal


def separate_repetitions(notes: list[PlayedNote]) -> list[PlayedNote]:
    """Release each key at least 30 ms before it is struck again."""
    following, result = {}, []
    for note in sorted(notes, reverse=True):
        latest = following.get(note.note, np.inf) - 0.03
        result.append(note._replace(offset=min(note.offset, latest)))
        following[note.note] = note.onset
    return result[::-1]


def to_midi(notes: list[PlayedNote], pedal: list[tuple[float, int]]) -> mido.MidiFile:
    """Type 1, two tracks, a note_on of velocity 0 for each note-off, as in MAESTRO."""
    events = [(note.onset, "note_on", {"note": note.note, "velocity": note.velocity}) for note in notes]
    events += [(note.offset, "note_on", {"note": note.note, "velocity": 0}) for note in notes]
    events += [(secs, "control_change", {"control": 64, "value": value}) for secs, value in pedal]
    track, last = mido.MidiTrack([mido.Message("program_change", program=0)]), 0
    for secs, kind, values in sorted(events, key=lambda event: event[0]):
        tick = round(secs / TICK_SECS)
        track.append(mido.Message(kind, time=tick - last, **values))
        last = tick
    track.append(mido.MetaMessage("end_of_track", time=1))
    meta = [mido.MetaMessage("set_tempo", tempo=500_000), mido.MetaMessage("time_signature")]
    head = mido.MidiTrack([*meta, mido.MetaMessage("end_of_track", time=1)])
    return mido.MidiFile(type=1, ticks_per_beat=TICKS_PER_BEAT, tracks=[head, track])


# The piano


class Piano:
    """Recorded tones of one piano.

    ``tone(note, velocity)`` is a wave that begins with the attack and whose level grows with the
    square of the velocity (the General MIDI recommendation, 40 log10(v / 127) dB); levels are
    equalised per velocity layer, so the instrument's balance between the keys remains.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "index.csv").is_file():
            raise InputError(f"{folder}: expected a folder with a sampled piano's index.csv")
        index = pd.read_csv(folder / "index.csv")
        index["centre"] = (index.lovel + index.hivel) / 2
        self.tones, attack_level = {}, {}
        for row in index.itertuples():
            wave = soundfile.read(folder / row.file, dtype="float64")[0] * row.gain
            strike = np.abs(wave[: RATE // 20])
            wave = wave[np.argmax(strike > 0.05 * strike.max()) :]
            self.tones[row.midi, row.centre] = wave
            attack_level.setdefault(row.centre, []).append(np.sqrt(np.mean(wave[: RATE // 4] ** 2)))
        self.level = {centre: np.median(levels) for centre, levels in attack_level.items()}

    def tone(self, note: int, velocity: int) -> np.ndarray:
        """(samples,) of the undamped string."""
        centre = min(self.level, key=lambda layer: abs(layer - velocity))
        root = min((root for root, layer in self.tones if layer == centre), key=lambda root: abs(root - note))
        if (note, centre) not in self.tones:
            wave = self.tones[root, centre][: 8 * RATE]
            self.tones[note, centre] = resample(wave, round(len(wave) * 2 ** ((root - note) / 12)))
        return self.tones[note, centre] * (velocity / 127) ** 2 / self.level[centre]


def ends_of_sound(midi: mido.MidiFile) -> tuple[list[PlayedNote], float]:
    """The notes of a MIDI file with offsets at the fall of the dampers, and the file's length in seconds."""
    now, pedal, down, ringing, notes = 0.0, 0, {}, {}, []
    for message in midi:
        now += message.time
        if message.type == "control_change":
            pedal = message.value
        elif message.type == "note_on":
            for group in (ringing, down) if message.velocity else ():
                if message.note in group:
                    notes.append(group.pop(message.note)._replace(offset=now))
            if message.velocity:
                down[message.note] = PlayedNote(now, now, message.note, message.velocity)
            elif message.note in down:
                ringing[message.note] = down.pop(message.note)
        if pedal < PEDAL_HELD:
            notes += [note._replace(offset=now) for note in ringing.values()]
            ringing = {}
    return notes + [note._replace(offset=now) for note in (*ringing.values(), *down.values())], now


def render(midi: mido.MidiFile, piano: Piano, rng: np.random.Generator) -> np.ndarray:
    """(samples,) at RATE: the piano in a small room with a faint noise floor."""
    notes, secs = ends_of_sound(midi)
    wave = np.zeros(round((secs + TAIL_SECS) * RATE))
    for note in notes:
        begin = round(note.onset * RATE)
        tone = piano.tone(note.note, note.velocity)[: len(wave) - begin]
        sounding = np.arange(len(tone)) / RATE - (note.offset - note.onset)
        damping_secs = 0.06 + 0.1 * np.clip((80 - note.note) / 50, 0, 1)  # long strings take longer to fall silent
        if note.note < UNDAMPED_NOTE:
            tone = tone * np.exp(-np.maximum(0, sounding) / damping_secs)
        wave[begin : begin + len(tone)] += tone
    echoes = rng.normal(0, 1, int(0.5 * RATE)) * np.exp(-np.arange(int(0.5 * RATE)) / (0.09 * RATE))
    echoes[: int(0.012 * RATE)] = 0  # the direct sound comes first
    echoes *= 0.25 / np.sqrt(np.sum(echoes**2))
    wave += oaconvolve(wave, echoes)[: len(wave)]
    return wave * PEAK / np.abs(wave).max() + rng.normal(0, 2e-4, len(wave))


def main(conf: ConfDef) -> None:
    """Write the MAESTRO v3 tree: the CSV and each piece's .midi and .wav in its year's folder."""
    piano, root = Piano(Path(conf.PIANO_PATH)), Path(conf.OUTPUT_DIR)
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "maestro-v3.0.0.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = "canonical_composer canonical_title split year midi_filename audio_filename duration"
        writer.writerow(names.split())
        for number, piece in enumerate(PIECES):
            rng = np.random.default_rng([conf.RANDOM_SEED, number])
            midi = to_midi(*play(piece, rng))
            wave = render(midi, piano, rng)
            path = f"{piece.year}/{piece.file}"
            (root / str(piece.year)).mkdir(exist_ok=True)
            midi.save(root / f"{path}.midi")
            soundfile.write(root / f"{path}.wav", wave, RATE, subtype="PCM_16")
            duration = f"{len(wave) / RATE:.6f}"
            writer.writerow(
                [piece.composer, piece.title, piece.split, piece.year, f"{path}.midi", f"{path}.wav", duration]
            )
            print(f"{path}: {duration} s, {len(piece.notes)} notes")


if __name__ == "__main__":
    run(main, ConfDef)
