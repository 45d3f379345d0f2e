"""What a run says: coloured on the terminal, plain in a text file, and as JSON lines for programs."""

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
    """The moment as file names hold it: ``YYYY_MM_DD_HH_MM_SS.mmm``."""
    return datetime.now().strftime("%Y_%m_%d_%H_%M_%S.%f")[:-3]


class _TextFile(logging.FileHandler):
    """A text file that cannot be written ends the run, like any other output; by default logging prints a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        with name_os_errors(self.baseFilename):
            raise sys.exc_info()[1]


class RunLog:
    """A run's messages, in colour on the terminal and in ``OUTPUT_DIR/txt_logs/NAME.log``.

    ``record(**values)`` appends one JSON object a line to ``NAME.jsonl`` beside it. In
    processes with ``writer=False`` (all but the first of several) nothing is written.
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
        """Write ``text`` into the text file alone."""
        if self._text:
            with name_os_errors(self._text.baseFilename):
                self._text.stream.write(text + "\n")
                self._text.flush()

    def record(self, **values: Any) -> None:
        """Append ``values`` with the time to the JSON lines."""
        if self._jsonl:
            with name_os_errors(self._jsonl.name):
                self._jsonl.write(json.dumps({"time": round(time.time(), 3), **values}) + "\n")
                self._jsonl.flush()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            with suppress(OSError):  # a full disk, maybe the error itself
                self.note(f"stopped: {error}")
        if self.writer:
            for handler in list(self.logger.handlers):
                self.logger.removeHandler(handler)
            for file in (self._text, self._jsonl):
                with suppress(OSError):
                    file.close()
