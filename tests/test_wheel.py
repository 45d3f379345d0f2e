"""The installed package works outside a checkout and contains its weights."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from ov_piano.data.midi import read_notes
from ov_piano.resources import DEFAULT_SNAPSHOT
from tests.scripts import ROOT

BUILD = "from setuptools import build_meta; import sys; print(build_meta.build_{}(sys.argv[1]))"
SAMPLE = ROOT / "assets" / "sample" / "2008" / "bach_invention_bwv772.wav"
SAMPLE_NOTES = 140  # as detected


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """The command's output; it must succeed."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"} | env
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a source distribution of the checkout, without the network."""
    work = tmp_path_factory.mktemp("wheel")
    checkout = work / "checkout"
    skipped = shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "build", "dist", "datasets", "out", "golden", "fuzz"
    )
    shutil.copytree(ROOT, checkout, ignore=skipped)
    sdist = run(sys.executable, "-c", BUILD.format("sdist"), work, cwd=checkout).splitlines()[-1]
    shutil.unpack_archive(work / sdist, work / "unpacked", filter="data")
    (source,) = (work / "unpacked").iterdir()
    built = run(sys.executable, "-c", BUILD.format("wheel"), work, cwd=source).splitlines()[-1]
    return work / built


def test_the_wheel_holds_what_the_package_reads_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"ov_piano", wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    assert {f"ov_piano/assets/{DEFAULT_SNAPSHOT}", "ov_piano/model/kernels/winograd.cpp"} <= set(names)
    files = [path for path in (ROOT / "ov_piano").rglob("*") if path.is_file() and path.suffix not in (".pyc", ".md")]
    assert {path.relative_to(ROOT).as_posix() for path in files} <= set(names)
    samples = {path.name for path in (ROOT / "assets" / "live").iterdir()}
    assert {f"ov_piano/assets/live/{name}" for name in samples} <= set(names)
    suffixes = {Path(name).suffix for name in names if name.startswith("ov_piano/assets/")}
    assert suffixes <= {".torch", ".yaml", ".ogg"}
    assert sum(name.endswith(".torch") for name in names) == 2  # the network and its note ends


def test_an_installed_wheel_transcribes_with_the_weights_inside(wheel, tmp_path):
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    scripts, python = (venv / "Scripts", "python.exe") if os.name == "nt" else (venv / "bin", "python")
    pip = (sys.executable, "-m", "pip", "--python", scripts / python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    site = Path(
        run(scripts / python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    )
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # PyTorch and the rest, without a download
    shutil.copy(SAMPLE, tmp_path / "song.wav")

    assert "transcribe" in run(scripts / "ov-piano", cwd=tmp_path)
    printed = run(scripts / "ov-piano", "transcribe", "song.wav", "OUT=notes", cwd=tmp_path)
    assert f"{DEFAULT_SNAPSHOT}: threshold" in printed
    assert re.search(rf"song\.wav -> .*song\.mid \(.*, {SAMPLE_NOTES} notes\)", printed)
    assert len(read_notes(tmp_path / "notes" / "song.mid").notes) == SAMPLE_NOTES
    script = "from ov_piano import resources, provenance; print(resources.ASSETS, provenance.git_commit())"
    printed = run(scripts / python, "-c", script, cwd=ROOT / "tests")
    assert printed.split() == [str(site / "ov_piano" / "assets"), "unknown"]
