"""The numbered scripts as users run them, and as modules."""

import contextlib
import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ov_piano.cli import run

ROOT = Path(__file__).parent.parent
MEL_NAME = "MAESTROv3_logmel_sr=16000_stft=2048w384h_mel=250(50-8000).h5"
ROLL_NAME = "MAESTROv3_roll_quant=0.024_midivals=128_extendsus=True.h5"
MAPS_MEL_NAME = MEL_NAME.replace("MAESTROv3", "MAPS")
MAPS_ROLL_NAME = ROLL_NAME.replace("MAESTROv3", "MAPS")


def run_script(name: str, *args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run ``python NAME ARGS...`` and capture the output."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / name), *args]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def succeed(name: str, *args: str) -> str:
    """The script's standard output; it must exit with status 0."""
    done = run_script(name, *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fail(name: str, *args: str) -> str:
    """The script's one-line error; it must exit with status 2."""
    done = run_script(name, *args)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def refused(name: str, *args: str) -> str:
    """Like `fail`, but in this process, which avoids importing torch again."""
    script = load_script(name)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as printed,
        pytest.raises(SystemExit) as stop,
    ):
        run(script.main, script.ConfDef, args)
    assert stop.value.code == 2
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, printed.getvalue()
    assert "Traceback" not in printed.getvalue()
    return lines[0]


def accepted(name: str, *args: str) -> str:
    """Like `succeed`, but in this process."""
    script = load_script(name)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        run(script.main, script.ConfDef, args)
    return printed.getvalue()


def load_script(name: str) -> ModuleType:
    """Import the script as a module; this has no side effects."""
    spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), ROOT / name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
