"""Render MAESTRO v3 performances with sampled pianos, as a MAESTRO v3 tree with 16 kHz mono audio.

    python render.py DATA OUT --pianos NAME,NAME [--splits train] [--performances N] [--seconds S] [--dynamics LO,HI]

Random choices depend on --seed and the performance's name only, so the same call makes the same files. --seconds cuts
a window out of each performance. --dynamics multiplies the velocities of half of the performances by a factor from
that range, since MAESTRO's pianists play louder than others.
"""

import argparse
import zlib
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import mido
import numpy as np
import soundfile as sf
import soxr
from acoustics import recorded, with_key_noise, with_resonance
from instruments import SOUND_FONTS, SR, Action, SampledPiano, play, play_sound_font
from midi_tools import cut, pedal_curve, soften, sounding_notes, stretch, switch_pedal
from tree import read_rows, write_rows

PEDAL_DOWN = 64  # of a pedal that is either 0 or 127
NEVER_DOWN = 128  # above all values of the pedal
load_piano = cache(SampledPiano)


def render(mid: mido.MidiFile, piano: str, data: Path, rng: np.random.Generator, **action: tuple | None) -> np.ndarray:
    """Render a MIDI file, after `switch_pedal`, to a float32 wave, one second longer than the MIDI.

    ``action`` goes to `Action.draw`.
    """
    notes, secs = sounding_notes(mid, PEDAL_DOWN)
    tuning = 2 ** (rng.uniform(-0.3, 0.3) / 12)  # played slower, then resampled: pitch moves, time does not
    if piano in SOUND_FONTS:
        wave = play_sound_font(stretch(mid, tuning), piano, rng)
    else:
        wave = play(notes, secs, load_piano(data / "pianos" / piano), Action.draw(rng, **action), tuning)
    length = int((secs + 1) * SR)
    wave = soxr.resample(wave, SR * tuning, SR, quality="HQ")
    wave = np.pad(wave, (0, max(0, length - len(wave))))[:length]
    wave = with_resonance(wave, pedal_curve(mid, length, SR, PEDAL_DOWN), rng)
    return recorded(with_key_noise(wave, notes, rng), rng)


def render_performance(row: dict, data: Path, out: Path, args: argparse.Namespace) -> dict:
    """Write audio and MIDI of one row of MAESTRO's CSV; returns the row with the new duration."""
    rng = np.random.default_rng([args.seed, zlib.crc32(row["midi_filename"].encode())])
    piano = args.pianos[rng.integers(len(args.pianos))]
    source, target = data / "maestro-v3.0.0-midi" / row["midi_filename"], out / row["midi_filename"]
    target.parent.mkdir(parents=True, exist_ok=True)
    mid = mido.MidiFile(source)
    softer = rng.uniform(*args.dynamics) if args.dynamics and rng.random() < 0.5 else 1.0
    if args.seconds and mid.length > args.seconds:
        mid = cut(mid, rng.uniform(0, mid.length - args.seconds), args.seconds)
    soften(mid, softer)
    unpedalled = args.unpedalled > 0 and rng.random() < args.unpedalled
    switch_pedal(mid, NEVER_DOWN if unpedalled else int(rng.integers(20, 90)))
    mid.save(target)
    mid = mido.MidiFile(target)  # mido keeps the merged tracks from before the changes
    wave = render(mid, piano, data, rng, damping=args.damping, sympathy=args.sympathy)
    sf.write(out / row["audio_filename"], wave, SR)
    return {**row, "duration": f"{min(mid.length, args.seconds or mid.length):.6f}"}


def numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pianos", type=lambda text: text.split(","), required=True)
    parser.add_argument("--splits", type=lambda text: text.split(","), default=["train"])
    parser.add_argument("--performances", type=int, help="at most this many per split, drawn by the seed")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--dynamics", type=numbers)
    parser.add_argument("--damping", type=numbers, default=(0.5, 2.0), help="the larger, the longer keys ring on")
    parser.add_argument("--sympathy", type=numbers, help="range of the level of sympathetic strings, in dB")
    parser.add_argument("--unpedalled", type=float, default=0.0, help="share of performances without sustain pedal")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    rows = read_rows(args.data / "maestro-v3.0.0-midi")
    chosen = []
    for split in args.splits:
        of_split = [row for row in rows if row["split"] == split]
        if args.performances and args.performances < len(of_split):
            picks = np.random.default_rng([args.seed, len(split)])
            of_split = [of_split[i] for i in sorted(picks.choice(len(of_split), args.performances, replace=False))]
        chosen += of_split
    args.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(args.jobs) as pool:
        job = partial(render_performance, data=args.data, out=args.out, args=args)
        done = list(pool.map(job, chosen, chunksize=4))
    write_rows(args.out, done)


if __name__ == "__main__":
    main()
