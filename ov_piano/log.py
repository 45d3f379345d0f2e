"""Logging: coloured on the terminal, plain in a text file, and as JSON lines for programs."""

import json
import logging
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import coloredlogs

from ov_piano.machine.atomic import name_os_errors

FORMAT = "%(asctime)s %(levelname)s %(message)s"


def timestamp() -> str:
    """The current time for file names: ``YYYY_MM_DD_HH_MM_SS.mmm``."""
    return datetime.now().strftime("%Y_%m_%d_%H_%M_%S.%f")[:-3]


class _TextFile(logging.FileHandler):
    """Raises an error if the log file cannot be written; by default, logging prints a traceback and continues."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        with name_os_errors(self.baseFilename):
            raise sys.exc_info()[1]


class RunLog:
    """Logs a run's messages to the terminal and to ``OUTPUT_DIR/txt_logs/NAME.log``.

    ``record(**values)`` appends one JSON object per line to ``NAME.jsonl`` beside it. With
    ``writer=False`` (all ranks but the first) nothing is written.
    """

    def __init__(self, output_dir: str | Path, name: str, writer: bool = True):
        self.writer = writer
        self.logger = logging.getLogger("ov_piano")
        self.logger.setLevel(logging.INFO)
        self._jsonl = self._text = None
        if not writer:
            self.logger.setLevel(logging.ERROR)
            return
        folder = Path(output_dir) / "txt_logs"
        folder.mkdir(parents=True, exist_ok=True)
        self._text = _TextFile(folder / f"{name}.log", encoding="utf-8")
        self._text.setFormatter(logging.Formatter(FORMAT))
        self._jsonl = (folder / f"{name}.jsonl").open("a", encoding="utf-8")
        coloredlogs.install(level="INFO", logger=self.logger, fmt=FORMAT)
        self.logger.addHandler(self._text)

    def info(self, message: str, *args: Any) -> None:
        """Log ``message`` with ``%``-style ``args``."""
        self.logger.info(message, *args)

    def note(self, text: str) -> None:
        """Write ``text`` to the text file only."""
        if self._text:
            with name_os_errors(self._text.baseFilename):
                self._text.stream.write(text + "\n")
                self._text.flush()

    def record(self, **values: Any) -> None:
        """Append the time and ``values`` as a JSON line."""
        if self._jsonl:
            with name_os_errors(self._jsonl.name):
                self._jsonl.write(json.dumps({"time": round(time.time(), 3), **values}) + "\n")
                self._jsonl.flush()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            with suppress(OSError):  # a full disk, which may be ``error`` itself
                self.note(f"stopped: {error}")
        if self.writer:
            for handler in list(self.logger.handlers):
                self.logger.removeHandler(handler)
            for file in (self._text, self._jsonl):
                with suppress(OSError):
                    file.close()
