"""Compile the C++ sources on first use with the machine's own compiler."""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from torch import Tensor

from ov_piano.machine.atomic import atomic_write, remove_partials

log = logging.getLogger(__name__)
FLAGS = ["-O3", "-march=native", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno"]
FLAGS += ["-std=c++17", "-fopenmp", "-fPIC", "-shared"]


@cache
def library(source: Path) -> ctypes.CDLL | None:
    """Compile ``source`` into the user's cache folder and load it; None if that is impossible.

    OV_PIANO_NATIVE=0 in the environment disables it.
    """
    if os.environ.get("OV_PIANO_NATIVE", "1") == "0" or (compiler := _compiler()) is None:
        return None
    headers = (header.read_text() for header in sorted(source.parent.glob("*.h")))
    key = "\n".join([source.read_text(), *headers, compiler, *FLAGS, _processor()])
    try:
        path = _cache_folder() / f"{source.stem}_{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
        if not path.exists():
            _compile(compiler, source, path)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: no home folder
        log.warning("%s: compilation failed (%s); using plain PyTorch instead", source.name, _reason(error))
        return None


@cache
def _compiler() -> str | None:
    """Path of the machine's C++ compiler."""
    if sys.platform == "win32":
        return None
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
    if compiler is None:
        log.warning("no C++ compiler found (g++ or CXX): on the CPU the network takes about four times as long")
    return compiler


def _compile(compiler: str, source: Path, path: Path) -> None:
    remove_partials(path.parent)
    with atomic_write(path) as partial:
        command = [compiler, *FLAGS, str(source), "-o", str(partial)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def _reason(error: Exception) -> str:
    """Why there is no library: the compiler's first error if the compiler failed."""
    if not isinstance(error, subprocess.CalledProcessError):
        return str(error)
    lines = error.stderr.decode(errors="replace").splitlines()
    return next((line for line in lines if "error" in line), f"{error.cmd[0]}: exit status {error.returncode}")


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ov_piano"


def _processor() -> str:
    """The processor model and features, which ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(line for line in lines[:30] if line.startswith(("model name", "flags", "Features")))
    except OSError:
        return platform.processor()


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    """Address of the first value of a contiguous tensor."""
    return ctypes.c_void_p(tensor.data_ptr())
