"""CPU cores: how many this process may use, and how its threads share them with other processes."""

import os
from pathlib import Path

SPINS = 10_000  # iterations a waiting thread spins before it sleeps: less than 1 ms; libgomp's default: 300,000


def available_cores(cgroups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Number of cores this process may use: its CPU affinity, limited by the cgroup quotas (rounded up)."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([bound, *(max(1, -int(-quota // 1)) for quota in _quotas(cgroups, membership))])


def _quotas(cgroups: Path, membership: Path) -> list[float]:
    """CPU quotas, in cores, of this process's cgroups (v1 and v2) and their parents."""
    quotas = []
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return []
    for _, controllers, path in lines:
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            quotas += _quota(folder)
    return quotas


def _quota(folder: Path) -> list[float]:
    """The CPU quota of one cgroup in cores (quota over period), or an empty list."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return [float(quota) / float(period)] if float(quota) > 0 else []
    except (OSError, ValueError):  # ValueError: "max"
        return []


def configure_openmp() -> None:
    """Make OpenMP threads sleep soon and start at most one per available core, unless the user has set otherwise.

    OpenMP reads the environment when torch is imported. Waiting threads spin, since waking up takes longer; if other
    processes need the cores, spinning makes everything up to three times slower. See ``make bench``, "sharing".
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
    if "OMP_NUM_THREADS" not in os.environ and (cores := available_cores()) < (os.cpu_count() or 1):
        os.environ["OMP_NUM_THREADS"] = str(cores)
