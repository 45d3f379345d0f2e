"""What a dataset supplies and the preprocessing consumes."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Recording:
    """One performance: a wave file, its MIDI, and the tuple that describes it in the HDF5 files."""

    name: str  # unique within the dataset; names the recording in messages and files
    audio_path: Path
    midi_path: Path
    metadata: tuple
