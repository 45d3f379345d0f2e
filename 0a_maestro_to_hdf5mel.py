"""MAESTRO -> two HDF5 files: log-mel spectrograms, and piano rolls from the MIDI.

1. List the recordings of MAESTRO_INPATH by its CSV.
2. For each, in parallel: audio -> log-mel; MIDI -> notes -> piano roll of the same length.
3. Join them in OUTPUT_DIR, in the order of the CSV, and print a summary.

A run that was stopped continues when the same command is given again.
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
    """Where MAESTRO is."""

    MAESTRO_INPATH: str = option("datasets/maestro/maestro-v3.0.0", "folder with maestro-vX.0.0.csv and year folders")
    MAESTRO_VERSION: int = option(3, "version of MAESTRO", one_of(*PUBLISHED_ROWS))


@dataclass
class ConfDef(PreprocessConf, Source):
    """`Source`, then what all preprocessing shares (`PreprocessConf`)."""


def main(conf: ConfDef) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recordings = load_recordings(conf.MAESTRO_INPATH, conf.MAESTRO_VERSION, need_audio=not conf.IGNORE_MEL)
    settings = conf.part_settings(dataset_name(conf.MAESTRO_VERSION))
    preprocess(recordings, settings, conf.OUTPUT_DIR, conf.WORKERS)


if __name__ == "__main__":
    run(main, ConfDef)
