"""Exit status and output of commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
COMMAND = """
from dataclasses import dataclass
from ov_piano.cli import run
from ov_piano.config import option

@dataclass
class ConfDef:
    COUNT: int = option(3, "lines to print")
    VERBOSE: bool = option(False, "print the configuration")

def main(conf):
    for line in range(conf.COUNT):
        print("line", line, flush=True)

run(main, ConfDef)
"""


def started(*args: str, stdout: int = subprocess.PIPE) -> subprocess.Popen:
    """Start a small command in its own process."""
    command = [sys.executable, "-c", COMMAND, *args]
    return subprocess.Popen(command, env=ENV, stdout=stdout, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("args", [("--help",), ("COUNT=5",)])
def test_output_into_a_closed_pipe_ends_without_a_traceback(args):
    reading, writing = os.pipe()
    os.close(reading)  # as head does once it has its lines
    process = started(*args, stdout=writing)
    os.close(writing)
    _, stderr = process.communicate(timeout=60)
    assert stderr == ""
    assert process.returncode == 141


def test_the_configuration_is_printed_if_verbose():
    quiet, _ = started("COUNT=1").communicate(timeout=60)
    assert quiet == "line 0\n"
    verbose, _ = started("COUNT=1", "VERBOSE=true").communicate(timeout=60)
    assert verbose == "COUNT: 1\nVERBOSE: true\nline 0\n"
