"""Available cores, and OpenMP settings: set before torch is imported, never overriding the user's."""

import os
import subprocess
import sys

import pytest

from ov_piano.machine.cores import SPINS, available_cores, configure_openmp
from tests.scripts import ROOT

AT_IMPORT_OF_TORCH = """
import os, runpy, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "torch":
            sys.exit("at import: " + os.environ.get("GOMP_SPINCOUNT", "unset"))

sys.meta_path.insert(0, Finder())
sys.argv = sys.argv[1:] + ["--help"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    "command",
    [
        "0a_maestro_to_hdf5mel.py",
        "0b_maps_to_hdf5mel.py",
        "1_train_onsets_velocities.py",
        "2_eval_onsets_velocities.py",
        "ov_piano/transcribe.py",
        "ov_piano/score.py",
        "ov_piano/live/__main__.py",
    ],
)
def test_each_command_configures_openmp_before_importing_torch(command):
    env = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", AT_IMPORT_OF_TORCH, command],
        cwd=ROOT,
        env=env | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip() == f"at import: {SPINS}"


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "5"}, {"OMP_NUM_THREADS": "7"}])
def test_user_settings_take_precedence(monkeypatch, own):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ov_piano.machine.cores.available_cores", lambda: 1)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    configure_openmp()
    expected = {"OMP_NUM_THREADS": "1"} | own
    if "OMP_NUM_THREADS" in own:
        expected["GOMP_SPINCOUNT"] = str(SPINS)
    assert {name: os.environ[name] for name in names if name in os.environ} == expected


@pytest.mark.parametrize(
    ("files", "membership", "cores"),
    [
        ({}, "0::/\n", 8),
        ({"cpu.max": "max 100000\n"}, "0::/\n", 8),
        ({"cpu.max": "250000 100000\n"}, "0::/\n", 3),
        ({"cpu.max": "20000 100000\n"}, "0::/\n", 1),
        ({"cpu.max": "400000 100000", "a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, "0::/a/b\n", 2),
        ({"cpu.max": "200000 100000\n"}, "0::/not/seen/here\n", 2),
        (
            {"cpu/job/cpu.cfs_quota_us": "150000", "cpu/job/cpu.cfs_period_us": "50000"},
            "2:memory:/job\n1:cpu:/job\n0::/\n",
            3,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/\n", 8),
    ],
)
def test_quotas_of_control_groups_limit_the_cores(tmp_path, monkeypatch, files, membership, cores):
    for name, contents in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents)
    (tmp_path / "membership").write_text(membership)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert available_cores(tmp_path / "cgroup", tmp_path / "membership") == cores
