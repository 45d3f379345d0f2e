"""MAPS -> two HDF5 files: log-mel spectrograms and piano rolls.

1. List the recordings in MAPS_INPATH; settings select instruments, categories and repeated pieces.
2. For each recording, in parallel: audio -> log-mel; MIDI -> notes -> piano roll of the same length.
3. Join the results in OUTPUT_DIR, sorted by instrument, category and name, and print a summary.

To resume an interrupted run, repeat the command.
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
    """Location of MAPS."""

    MAPS_INPATH: str = option("datasets/MAPS", "folder that contains one folder per instrument")


@dataclass
class Selection:
    """Which recordings of MAPS to use."""

    MAPS_INSTRUMENTS: list[str] = option(list(INSTRUMENTS), "instruments to include", NOT_EMPTY)
    MAPS_CATEGORIES: list[str] = option(list(CATEGORIES), "categories to include", NOT_EMPTY)
    MAPS_REPEATED_PIECES: str = option(
        "keep", "pieces recorded on several instruments: keep (all), one (at random) or drop", one_of(*REPEATED_PIECES)
    )
    RANDOM_SEED: int = option(0, "random seed for MAPS_REPEATED_PIECES=one")


@dataclass
class ConfDef(Selection, PreprocessConf, Source):
    """`Source`, then the settings shared by 0a and 0b (`PreprocessConf`), then `Selection`."""


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
