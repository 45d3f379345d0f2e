"""Do notes end in the audio where their labels say? The fall in level after each note's end, in dB, by recording.

    python key_up.py TREE [--name PART]

TREE is a MAESTRO v3 tree; --name keeps the recordings whose name contains PART. Measures the fundamental of keys 36 to
89, of notes of at least 90 ms, while no other key that shares this band sounds: medians 0.1 and 0.2 s after the end.
Where a pedal that the labels lack holds the strings, the level does not fall.
"""

import argparse
from pathlib import Path

import mido
import numpy as np
import soundfile as sf
from midi_tools import sounding_notes
from tree import read_rows

PEDAL_DOWN = 64
LEAST_SECS = 0.09
BEFORE, AFTER = 0.12, 0.45  # s around the end: where no other key may share the band
WINDOW = 1024  # samples: the level's Hann window
LATER_SECS = (0.1, 0.2)


def frequency(midi: np.ndarray) -> np.ndarray:
    return 440 * 2 ** ((midi - 69) / 12)


def shares_band(hz: float, others_hz: np.ndarray) -> np.ndarray:
    """Which of the keys have one of their first six partials within a semitone of ``hz``."""
    partials = others_hz[:, None] * np.arange(1, 7)
    return (np.abs(12 * np.log2(partials / hz)) < 1).any(axis=1)


def falls(wave: np.ndarray, rate: int, notes: np.ndarray) -> np.ndarray:
    """Fall in level after the ends of notes (n, 4) that can be measured: dB, (m, len(LATER_SECS))."""
    onsets, ends, keys, _ = notes.T
    window, found = np.hanning(WINDOW), []
    for index in np.flatnonzero((ends - onsets >= LEAST_SECS) & (keys >= 36) & (keys < 90)):
        end, hz = ends[index], frequency(keys[index])
        near = (onsets < end + AFTER) & (ends > end - BEFORE)
        near[index] = False
        begin, stop = int((end - BEFORE) * rate), int((end + AFTER) * rate)
        if begin < 0 or stop > len(wave) or shares_band(hz, frequency(keys[near])).any():
            continue
        rotation = np.exp(-2j * np.pi * hz * np.arange(stop - begin) / rate)
        level = 20 * np.log10(np.abs(np.convolve(wave[begin:stop] * rotation, window, "same")) + 1e-6)
        at = [round((BEFORE + secs) * rate) for secs in (-0.04, *LATER_SECS)]
        found.append(level[at[0]] - level[at[1:]])
    return np.array(found).reshape(-1, len(LATER_SECS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--name", default="")
    args = parser.parse_args()
    rows = [row for row in read_rows(args.tree) if args.name in row["midi_filename"]]
    if not rows:
        parser.error(f"{args.tree}: no recording's name contains {args.name!r}")
    for row in rows:
        wave, rate = sf.read(args.tree / row["audio_filename"], always_2d=True)
        notes, _ = sounding_notes(mido.MidiFile(args.tree / row["midi_filename"]), PEDAL_DOWN)
        found = falls(wave.mean(axis=1), rate, np.array(notes).reshape(-1, 4))
        medians = "".join(f", {fall:.1f} dB" for fall in np.median(found, axis=0)) if len(found) else ""
        print(f"{Path(row['midi_filename']).stem}: {len(found)} ends{medians}", flush=True)


if __name__ == "__main__":
    main()
