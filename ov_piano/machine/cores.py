"""The processor's cores: how many this process may use, and how its threads share them with other programs."""

import os
from pathlib import Path

SPINS = 10_000  # how often a waiting thread looks before it sleeps: less than a millisecond; libgomp's default: 300,000


def available_cores(cgroups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Cores that this process may use: those it is bound to, at most its containers' quotas (rounded up)."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([bound, *(max(1, -int(-quota // 1)) for quota in _quotas(cgroups, membership))])


def _quotas(cgroups: Path, membership: Path) -> list[float]:
    """Cores granted by this process's control groups (versions 1 and 2) and all those above them."""
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
    """The quota of one control group, if it has one: microseconds of processor time over microseconds."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return [float(quota) / float(period)] if float(quota) > 0 else []
    except (OSError, ValueError):  # ValueError: "max"
        return []


def configure_openmp() -> None:
    """Let OpenMP's threads sleep soon, and start no more of them than there are cores; the user's settings win.

    OpenMP reads the environment when torch is imported. Threads that wait for work spin first, since waking takes
    longer; where another program needs the core, that costs up to three times the time. See ``make bench``, "sharing".
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
    if "OMP_NUM_THREADS" not in os.environ and (cores := available_cores()) < (os.cpu_count() or 1):
        os.environ["OMP_NUM_THREADS"] = str(cores)
