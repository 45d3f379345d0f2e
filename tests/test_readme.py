"""The README matches the code."""

import os
import re
import subprocess
import sys

from tests.configuration_page import PAGE, page
from tests.scripts import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_configuration_page_lists_the_settings_as_they_are():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.configuration_page"


def test_the_python_example_runs(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "out").mkdir()
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", example]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "onset_secs" in done.stdout
    assert (tmp_path / "out" / "invention.mid").stat().st_size > 500


def test_the_files_it_names_exist():
    named = re.findall(r"\]\(([\w./]+)\)|`((?:assets|datasets|tests|ov_piano)/[\w./]*)`", README)
    paths = [first or second for first, second in named]
    assert len(paths) > 5
    assert [path for path in paths if "maestro" not in path and "MAPS" not in path and not (ROOT / path).exists()] == []
