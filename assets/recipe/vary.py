"""Make varied copies of recordings: in other rooms, through other microphones, transposed and detuned.

    python vary.py TREE OUT [--copies 3] [--without NAME] [--seed 11] [--jobs 2]

TREE is in MAESTRO v3's layout with 16 kHz mono audio; its train split is used. Pitch is shifted by resampling, so the
tempo changes with it, in the audio and in the MIDI. --without omits recordings whose name contains NAME.
"""

import argparse
import zlib
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import mido
import numpy as np
import soundfile as sf
import soxr
from acoustics import recorded
from instruments import SR
from midi_tools import stretch
from tree import read_rows, write_rows


def vary(job: tuple[dict, int], tree: Path, out: Path, seed: int) -> dict:
    """Write one copy of one recording; returns its row of the CSV."""
    row, copy = job
    rng = np.random.default_rng([seed, copy, zlib.crc32(row["midi_filename"].encode())])
    wave, rate = sf.read(tree / row["audio_filename"], dtype="float32")
    if rate != SR:
        raise SystemExit(f"{row['audio_filename']}: expected {SR} Hz, found {rate} Hz")
    semitones = int(rng.integers(-2, 3))
    factor = 2 ** ((semitones + rng.uniform(-0.25, 0.25)) / 12)
    wave = soxr.resample(wave, SR * factor, SR, quality="HQ")
    mid = stretch(mido.MidiFile(tree / row["midi_filename"]), 1 / factor)
    for track in mid.tracks:
        for msg in track:
            if msg.type in ("note_on", "note_off"):
                msg.note = int(np.clip(msg.note + semitones, 21, 108))
    name = f"{row['year']}/copy{copy}_{Path(row['midi_filename']).stem}"
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    sf.write(out / f"{name}.wav", recorded(wave, rng, compression=False), SR)
    mid.save(out / f"{name}.midi")
    files = {"midi_filename": f"{name}.midi", "audio_filename": f"{name}.wav"}
    return {**row, **files, "duration": f"{len(wave) / SR:.6f}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--copies", type=int, default=3)
    parser.add_argument("--without", default="\0")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    rows = [r for r in read_rows(args.tree) if r["split"] == "train" and args.without not in r["midi_filename"]]
    with ProcessPoolExecutor(args.jobs) as pool:
        jobs = [(row, copy) for row in rows for copy in range(args.copies)]
        done = list(pool.map(partial(vary, tree=args.tree, out=args.out, seed=args.seed), jobs, chunksize=4))
    write_rows(args.out, done)


if __name__ == "__main__":
    main()
