"""MAPS: a tree of triples wave, MIDI, text (Emiya, Badeau, David, 2010) -> recordings."""

import logging
import math
import random
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import parse

from ov_piano.data.recording import Recording, require_subset
from ov_piano.errors import InputError

DISKLAVIERS = ("ENSTDkAm", "ENSTDkCl")  # one real piano, recorded at a distance ("ambient") and close
SYNTHESISED = ("StbgTGd2", "AkPnBsdf", "AkPnBcht", "AkPnCGdD", "AkPnStgb", "SptkBGAm", "SptkBGCl")
INSTRUMENTS = (*SYNTHESISED, *DISKLAVIERS)
CATEGORIES = ("ISOL", "MUS", "RAND", "UCHO")  # isolated notes, music, random and usual chords
REPEATED_PIECES = ("keep", "one", "drop")
VALIDATION_PART = 0.1  # of the training pieces


@parse.with_pattern("|".join(INSTRUMENTS))
def _instrument(text: str) -> str:
    return text


@parse.with_pattern("NO|ST|RE|TR1|TR2")
def _playing(text: str) -> str:
    return text


@parse.with_pattern(r"\d+(?:-\d+)*")
def _chord(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("-")))


_FIELDS = {"instrument": _instrument, "playing": _playing, "chord": _chord}
_PATTERNS = [
    (category, parse.compile(pattern, _FIELDS, case_sensitive=True))
    for category, pattern in (
        ("MUS", "MAPS_MUS-{piece}_{instrument:instrument}"),
        ("ISOL", "MAPS_ISOL_{playing:playing}_{loudness:w}_S{sustain:d}_M{note:d}_{instrument:instrument}"),
        ("ISOL", "MAPS_ISOL_CH{secs:g}_{loudness:w}_{instrument:instrument}"),
        (
            "RAND",
            "MAPS_RAND_P{polyphony:d}_M{lowest:d}-{highest:d}_I{softest:d}-{loudest:d}_S{sustain:d}_n{index:d}"
            "_{instrument:instrument}",
        ),
        (
            "UCHO",
            "MAPS_UCHO_C{chord:chord}_I{softest:d}-{loudest:d}_S{sustain:d}_n{index:d}_{instrument:instrument}",
        ),
    )
]

log = logging.getLogger(__name__)


class MapsMetadata(NamedTuple):
    """One recording as the HDF5 files describe it; ``basename`` has no folder and no suffix."""

    basename: str
    instrument: str
    category: str  # one of CATEGORIES


def parse_basename(basename: str) -> dict[str, Any]:
    """Fields of a file name: ``category``, ``instrument`` and, by category, ``piece``, ``note``, ``chord`` and so on.

    :raises InputError: not a MAPS file name.
    """
    for category, pattern in _PATTERNS:
        found = pattern.parse(basename)
        if found:
            return {"category": category, **found.named}
    raise InputError(f"{basename}: not a MAPS file name (such as MAPS_MUS-chpn_op27_2_AkPnBcht)")


def piece_of(basename: str) -> str | None:
    """The piece, None for chords and notes. Ignores the suffix "-format0", which marks a MIDI format."""
    name = parse_basename(basename)
    return name["piece"].removesuffix("-format0") if name["category"] == "MUS" else None


def load_recordings(
    root: str | Path,
    instruments: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    repeated_pieces: str = "keep",
    seed: int = 0,
    *,
    need_audio: bool = True,
) -> list[Recording]:
    """The recordings under ``root``, sorted by instrument, category and name; None selects all.

    ``repeated_pieces``: keep all recordings of a piece, one chosen at random, or none ("drop").

    :raises InputError: unknown filter, not a MAPS file name, wave or MIDI file without counterpart, no recordings.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder: expected MAPS (a folder for each instrument)")
    instruments = require_subset("instrument", instruments, INSTRUMENTS)
    categories = require_subset("category", categories, CATEGORIES)
    require_subset("choice of repeated pieces", [repeated_pieces], REPEATED_PIECES)
    recordings = [
        recording
        for instrument in instruments
        for category in categories
        for recording in _list_folder(root / instrument / category, instrument, category, need_audio)
    ]
    recordings = _thin_out(recordings, repeated_pieces, seed)
    if not recordings:
        raise InputError(
            f"{root}: no recording left, expected folders INSTRUMENT/CATEGORY of the instruments "
            f"{', '.join(instruments)} and the categories {', '.join(categories)}"
        )
    absent = [instrument for instrument in instruments if not (root / instrument).is_dir()]
    absent += [f"*/{name}" for name in categories if not any((root / i / name).is_dir() for i in instruments)]
    if absent:
        log.warning("%s: no folder %s: skipping their recordings", root, ", ".join(absent))
    return recordings


def _list_folder(folder: Path, instrument: str, category: str, need_audio: bool) -> list[Recording]:
    """All recordings below ``folder``, which may not exist; suffixes may be in capitals."""
    paths = [path for path in folder.rglob("*") if not path.name.startswith(".")]
    files = {path.with_suffix(path.suffix.lower()): path for path in paths if path.suffix.lower() in (".wav", ".mid")}
    recordings = []
    for stem in sorted({path.with_suffix("") for path in files}):
        name = parse_basename(stem.name)
        if (name["instrument"], name["category"]) != (instrument, category):
            raise InputError(f"{stem}: expected a recording of {instrument}, {category} in this folder")
        audio, midi = stem.parent / f"{stem.name}.wav", stem.parent / f"{stem.name}.mid"
        for path, needed in ((midi, True), (audio, need_audio)):
            if needed and path not in files:
                raise InputError(f"{path}: no such file, although its counterpart exists")
        metadata = MapsMetadata(stem.name, instrument, category)
        recordings.append(Recording(stem.name, files.get(audio, audio), files[midi], metadata))
    return recordings


def _thin_out(recordings: list[Recording], repeated_pieces: str, seed: int) -> list[Recording]:
    """Apply ``repeated_pieces``; isolated notes and chords are kept."""
    if repeated_pieces == "keep":
        return recordings
    pieces = [piece_of(recording.name) for recording in recordings]
    counts, chooser = Counter(pieces), random.Random(seed)
    if repeated_pieces == "drop":
        return [rec for rec, piece in zip(recordings, pieces, strict=True) if piece is None or counts[piece] == 1]
    turn = {piece: chooser.randrange(counts[piece]) for piece in sorted(counts.keys() - {None})}
    kept, seen = [], Counter()
    for recording, piece in zip(recordings, pieces, strict=True):
        if piece is None or seen[piece] == turn[piece]:
            kept.append(recording)
        seen[piece] += 1
    return kept


def standard_split(metadata: Sequence[tuple], seed: int = 0) -> list[str]:
    """'train', 'validation', 'test' or 'unused' for each entry (basename, instrument, category).

    The standard split of MAPS ("configuration 2" of Sigtia et al., 2016, in the stricter form of
    Hawthorne et al., 2018): test on the music of the two Disklaviers, train on the synthesised
    pianos without the test pieces. About a tenth of the remaining pieces, chosen by ``seed``, is
    for validation. All recordings of a piece are in the same split; notes and chords are unused.
    """
    pieces = [piece_of(basename) for basename, _, _ in metadata]
    on_disklavier = [instrument in DISKLAVIERS for _, instrument, _ in metadata]
    tested = {piece for piece, test in zip(pieces, on_disklavier, strict=True) if test}
    to_learn = {piece for piece in pieces if piece is not None and piece not in tested}
    # Sorted by hash, not shuffled: adding or removing recordings barely changes the split of the others.
    ordered = sorted(to_learn, key=lambda piece: (zlib.crc32(f"{seed}:{piece}".encode()), piece))
    validation = set(ordered[: math.ceil(VALIDATION_PART * len(ordered))]) if len(ordered) > 1 else set()
    splits = []
    for piece, test in zip(pieces, on_disklavier, strict=True):
        if piece is None:
            splits.append("unused")
        elif test:
            splits.append("test")
        elif piece in tested:
            splits.append("unused")
        else:
            splits.append("validation" if piece in validation else "train")
    return splits
