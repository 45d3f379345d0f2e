"""The README matches the code."""

import os
import re
import shutil
import subprocess
import sys

from tests.configuration_page import PAGE, page
from tests.scripts import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_configuration_page_lists_the_settings_as_they_are():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.configuration_page"


def test_the_python_examples_run(tmp_path):
    first, second = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    shutil.copy(ROOT / "assets/sample/2008/bach_invention_bwv772.wav", tmp_path / "song.wav")
    blocks = "import soundfile\nmicrophone = soundfile.blocks('song.wav', 24_000, frames=5 * 16_000)\n"
    second = blocks + second.replace("sample_rate=48000", "sample_rate=16000")
    command = [sys.executable, "-c", f"{first}\nprint('streaming')\n{second}\nprint(len(rest))"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table, streamed = done.stdout.split("streaming\n")
    assert "onset_secs" in table
    assert (tmp_path / "song.mid").stat().st_size > 500
    assert len(streamed.splitlines()) > 20


def test_the_files_it_names_exist():
    named = re.findall(r"\]\(([\w./]+)\)|`((?:assets|datasets|tests|ov_piano)/[\w./]*)`", README)
    paths = [first or second for first, second in named]
    assert len(paths) > 5
    assert [path for path in paths if "maestro" not in path and "MAPS" not in path and not (ROOT / path).exists()] == []
