"""What a job costs: seconds, memory, and energy where the machine says."""

from __future__ import annotations

import contextlib
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_RAPL = Path("/sys/class/powercap")


@dataclass
class Cost:
    """Measures from its making to :meth:`read`."""

    def __post_init__(self) -> None:
        _reset_peaks()
        self._start = time.perf_counter()
        self._cpu = _cpu_seconds()
        self._energy = package_energy()

    def read(self) -> dict[str, Any]:
        """``seconds``, ``cpu_seconds``, ``peak_memory_mib``, ``gpu_memory_mib``, ``energy_kj``.

        Energy is that of the processor packages, all processes together, and None where the
        machine does not tell; a counter that wrapped around is None as well.
        """
        energy = package_energy()
        spent = None if energy is None or self._energy is None else energy - self._energy
        return {
            "seconds": round(time.perf_counter() - self._start, 2),
            "cpu_seconds": round(_cpu_seconds() - self._cpu, 2),
            "peak_memory_mib": _peak_memory_mib(),
            "gpu_memory_mib": _gpu_memory_mib(),
            "energy_kj": round(spent / 1e9, 3) if spent is not None and spent >= 0 else None,
        }


def package_energy(root: Path = _RAPL) -> float | None:
    """Microjoules that the processor packages have used so far; None where not readable."""
    total, found = 0.0, False
    for counter in sorted(root.glob("intel-rapl:[0-9]*/energy_uj")):
        if counter.parent.name.count(":") != 1:
            continue  # parts of a package, already counted
        try:
            total += float(counter.read_text())
            found = True
        except OSError:
            continue
    return total if found else None


def _cpu_seconds() -> float:
    usages = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usages)


def _peak_memory_mib() -> int:
    """Largest resident memory since the last reset, or of the process where it cannot be reset."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024
    except (OSError, StopIteration):
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _reset_peaks() -> None:
    """One worker does many jobs; without this the largest would count for all after it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _gpu_memory_mib() -> int | None:
    import torch  # noqa: PLC0415

    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated() / 2**20)
