"""What the README says is so."""

import os
import re
import subprocess
import sys

import pytest

from ov_piano.config import parse_args
from tests.scripts import ROOT, load_script

README = (ROOT / "README.md").read_text(encoding="utf-8")


def readme_listings() -> dict[str, list[str]]:
    """The README's configuration listings: script name -> lines."""
    listings, script = {}, None
    for line in README.splitlines():
        if line.startswith("<!-- configuration of "):
            script = line.removeprefix("<!-- configuration of ").removesuffix(" -->")
            listings[script] = []
        elif script and line.startswith("| `"):
            listings[script].append(line)
        elif script and listings[script]:
            script = None
    return listings


@pytest.mark.parametrize("path", sorted(path.name for path in ROOT.glob("[0-9]*.py")))
def test_the_readme_lists_the_defaults(path):
    conf_class = load_script(path).ConfDef
    fields = conf_class.__dataclass_fields__.values()
    listed = [line.split("|")[1:4] for line in readme_listings()[path]]
    assert [cell[0].strip(" `") for cell in listed] == [field.name for field in fields]
    defaults = [f"{name.strip(' `')}={default.strip(' `')}" for name, default, _ in listed]
    given = [text for text in defaults if "(required)" not in text and not text.startswith("DEVICE=")]
    required = [f"{field.name}=x" for field in fields if field.metadata["required"]]
    assert parse_args(conf_class, [*given, *required]) == parse_args(conf_class, required)
    meanings = [cell[2].strip() for cell in listed]
    assert meanings == [field.metadata["meaning"] for field in fields]


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
