"""MAPS -> two HDF5 files: log-mel spectrograms, and piano rolls from the MIDI.

1. List the recordings of MAPS_INPATH: instruments, categories, repeated pieces as wished.
2. For each, in parallel: audio -> log-mel; MIDI -> notes -> piano roll of the same length.
3. Join them in OUTPUT_DIR, by instrument, category and name, and print a summary.

A run that was stopped continues when the same command is given again.
"""

import logging
from dataclasses import dataclass

from ov_piano.cli import run
from ov_piano.config import NOT_EMPTY, one_of, option
from ov_piano.data.maps import CATEGORIES, INSTRUMENTS, REPEATED_PIECES, load_recordings
from ov_piano.preprocessing.conf import PreprocessConf
from ov_piano.preprocessing.preprocess import preprocess


@dataclass
class Source:
    """Where MAPS is."""

    MAPS_INPATH: str = option("datasets/MAPS", "folder with a folder for each instrument")


@dataclass
class Selection:
    """What of MAPS is wanted."""

    MAPS_INSTRUMENTS: list[str] = option(list(INSTRUMENTS), "instruments to take", NOT_EMPTY)
    MAPS_CATEGORIES: list[str] = option(list(CATEGORIES), "categories to take", NOT_EMPTY)
    MAPS_REPEATED_PIECES: str = option(
        "keep", "pieces played by several instruments: keep all, keep one, or drop", one_of(*REPEATED_PIECES)
    )
    RANDOM_SEED: int = option(0, "chooses the one of MAPS_REPEATED_PIECES=one")


@dataclass
class ConfDef(Selection, PreprocessConf, Source):
    """`Source`, then what all preprocessing shares (`PreprocessConf`), then `Selection`."""


def main(conf: ConfDef) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recordings = load_recordings(
        conf.MAPS_INPATH,
        conf.MAPS_INSTRUMENTS,
        conf.MAPS_CATEGORIES,
        conf.MAPS_REPEATED_PIECES,
        conf.RANDOM_SEED,
        need_audio=not conf.IGNORE_MEL,
    )
    preprocess(recordings, conf.part_settings("MAPS"), conf.OUTPUT_DIR, conf.WORKERS)


if __name__ == "__main__":
    run(main, ConfDef)
