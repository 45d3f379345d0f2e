"""MIDI file to piano roll on 20 performances, MAESTRO's if available, against mido and a simple state machine."""

import tempfile
from pathlib import Path

import mido
import numpy as np

from ov_piano.data.midi import read_notes
from ov_piano.data.pianoroll import piano_roll
from tests.benchmarks.paired import paired, seconds
from tests.conftest import random_notes, write_midi
from tests.plain_pipeline import plain_roll

MAESTRO = Path("datasets/maestro/maestro-v3.0.0")
FILES, MINUTES = 20, 10


def benchmarks() -> dict[str, dict]:
    """All entries of this file."""
    with tempfile.TemporaryDirectory() as folder:
        paths = performances(Path(folder))
        for path in paths:
            assert np.array_equal(piano_roll(read_notes(path))[0], plain_roll(path)), path
        entry = paired(
            lambda: [piano_roll(read_notes(path)) for path in paths], lambda: [plain_roll(path) for path in paths]
        )
        entry["files"] = "MAESTRO's" if MAESTRO.exists() else "random"
        entry["notes"] = sum(len(read_notes(path).notes) for path in paths)
        entry["mido_parsing_alone"] = seconds(lambda: [mido.MidiFile(path) for path in paths])
    return {"midi_to_roll": entry}


def performances(folder: Path) -> list[Path]:
    """Some of MAESTRO's MIDI files, or random ones written to ``folder`` if there are none."""
    if paths := sorted(MAESTRO.glob("*/*.mid*"))[:FILES]:
        return paths
    rng, seconds = np.random.default_rng(0), 60 * MINUTES
    for index in range(FILES):
        pedal = [(secs, 64, int(rng.integers(0, 128))) for secs in np.arange(0.1, seconds, 0.1)]
        write_midi(folder / f"{index}.mid", random_notes(rng, seconds), controls=pedal)
    return sorted(folder.glob("*.mid"))


if __name__ == "__main__":
    print(benchmarks())
