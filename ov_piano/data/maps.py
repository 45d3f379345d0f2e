"""MAPS: a tree of triples wave, MIDI, text (Emiya, Badeau, David, 2010) -> recordings."""

from typing import NamedTuple


class MapsMetadata(NamedTuple):
    """One recording as the HDF5 files describe it; ``basename`` has no folder and no suffix."""

    basename: str
    instrument: str
    category: str  # "MUS", "RAND", "UCHO", or "ISOL/NO" and so on
