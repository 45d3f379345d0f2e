"""MAESTRO -> two HDF5 files: log-mel spectrograms and piano rolls.

1. Read the list of recordings from the CSV file in MAESTRO_INPATH.
2. For each recording, in parallel: audio -> log-mel; MIDI -> notes -> piano roll of the same length.
3. Join the results in OUTPUT_DIR, in CSV order, and print a summary.

To resume an interrupted run, repeat the command.
"""

import logging
from dataclasses import dataclass

from ov_piano.cli import run
from ov_piano.config import one_of, option
from ov_piano.data.maestro import PUBLISHED_ROWS, dataset_name, load_recordings
from ov_piano.preprocessing.conf import PreprocessConf
from ov_piano.preprocessing.preprocess import preprocess


@dataclass
class Source:
    """Location of MAESTRO."""

    MAESTRO_INPATH: str = option("datasets/maestro/maestro-v3.0.0", "folder with maestro-vX.0.0.csv and year folders")
    MAESTRO_VERSION: int = option(3, "MAESTRO version: 1, 2 or 3", one_of(*PUBLISHED_ROWS))


@dataclass
class ConfDef(PreprocessConf, Source):
    """`Source`, then the settings shared by 0a and 0b (`PreprocessConf`)."""


def main(conf: ConfDef) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recordings = load_recordings(conf.MAESTRO_INPATH, conf.MAESTRO_VERSION, need_audio=not conf.IGNORE_MEL)
    settings = conf.part_settings(dataset_name(conf.MAESTRO_VERSION))
    preprocess(recordings, settings, conf.OUTPUT_DIR, conf.WORKERS)


if __name__ == "__main__":
    run(main, ConfDef)
