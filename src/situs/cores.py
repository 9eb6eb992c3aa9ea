"""How many cores there are for this process: what it may use, and what others leave of it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

_LOOK_S = 0.2  # long enough for twenty ticks of the system's clock
_LEAST_THREADS = 2  # even beside others: they wait asleep, and the system shares out the cores
_MOST_THREADS = 16  # beyond, small networks gain nothing

# Threads that have nothing to do sleep. By default they spin, which on a core that others want,
# too, keeps the very thread from running that they wait for. Read when torch and numpy are loaded.
_ASLEEP = {
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
    "KMP_BLOCKTIME": "0",
    "OPENBLAS_THREAD_TIMEOUT": "4",  # the least: 2 to the power of 4 turns
}
_ASKED = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Cores:
    """Cores of this machine, as far as they concern this process.

    Attributes:
        allowed: What affinity and the control group's quota let it use.
        free: Of these, what other processes leave at the moment.
    """

    allowed: float
    free: float

    def threads(self, processes: int = 1) -> int:
        """For each of so many processes that compute at once."""
        if asked := _asked():
            return asked
        wanted = max(min(_LEAST_THREADS, self.allowed), self.free) / processes
        return max(1, min(_MOST_THREADS, math.floor(wanted + 0.5)))

    def why(self) -> str:
        """What the number of threads follows."""
        return f"as {_ASKED} says" if _asked() else "chosen by what is free"

    def said(self) -> str:
        """In words, for logs and ``situs doctor``."""
        return f"{self.free:.1f} of {self.allowed:g} cores free"


def _asked() -> int:
    """Threads that the user's environment asks for; 0 where it does not."""
    asked = os.environ.get(_ASKED, "")
    return int(asked) if asked.isdecimal() else 0


def sleep_when_idle(environment: MutableMapping[str, str] | None = None) -> None:
    """Let the threads of OpenMP and OpenBLAS sleep while they wait; what the user set stays.

    Must come before torch and numpy are imported, in this process or the one whose environment
    it is.
    """
    environment = os.environ if environment is None else environment
    for name, value in _ASLEEP.items():
        environment.setdefault(name, value)


def look() -> Cores:
    """Measure; takes a fifth of a second."""
    allowed = allowed_cores()
    before = _times()
    if before is None:
        return Cores(allowed, allowed)
    time.sleep(_LOOK_S)
    after = _times()
    if after is None or after[1] <= before[1]:
        return Cores(allowed, allowed)
    idle, total = after[0] - before[0], after[1] - before[1]
    return Cores(allowed, min(allowed, len(_affinity()) * idle / total))


def allowed_cores() -> float:
    """Cores of the affinity mask, or fewer where a control group has a quota."""
    return min([float(len(_affinity())), *_quotas()])


def _affinity() -> set[int]:
    ask = getattr(os, "sched_getaffinity", None)
    return set(ask(0)) if ask else set(range(os.cpu_count() or 1))


def _quotas(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[float]:
    """Cores by each quota that holds for this process, of its group and those around it."""
    found = []
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
            continue
        base = root / controllers if controllers else root
        group = base / name.lstrip("/")
        for folder in [group, *group.parents]:
            found += _quota(folder)
            if folder == base:
                break
    return found


def _quota(folder: Path) -> list[float]:
    """Of one group, in the files of the second or the first version of control groups."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        return [int(quota) / int(period)] if quota != "max" and int(quota) > 0 else []
    except (OSError, ValueError):
        return []


def _times(file: Path = Path("/proc/stat")) -> tuple[int, int] | None:
    """Ticks in which the cores of this process were idle, and all; None where nobody counts."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    mine = {f"cpu{number}" for number in _affinity()}
    rows = [[int(n) for n in line.split()[1:9]] for line in lines if line.split()[0] in mine]
    if not rows:
        return None
    return sum(row[3] + row[4] for row in rows), sum(map(sum, rows))  # idle and waiting for disks
