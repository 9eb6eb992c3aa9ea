"""What a job costs: seconds, memory, and energy where the machine says."""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch

from situs.files import remembered, write_json

_RAPL = Path("/sys/class/powercap")
_EVERY_SECONDS = 10.0


class Cost:
    """Measures from its making to :meth:`read`, over all processes that worked at one job.

    While it is entered, what has been spent so far is written down every few seconds, and once
    more at the end, so that a job which failed or was killed and is taken up again tells the cost
    of both legs.

    Args:
        file: Where to write it; None to remember nothing.
        resumed: Whether this process goes on with what earlier ones left.
    """

    def __init__(self, file: Path | None = None, resumed: bool = False) -> None:
        _reset_peaks()
        self._file, self._earlier = file, _Spent()
        if file is not None and resumed and file.is_file():
            self._earlier = _Spent(**remembered(file))
        self._start = time.perf_counter()
        self._cpu = _cpu_seconds()
        self._energy = package_energy()
        self._over = threading.Event()
        self._writer = threading.Thread(target=self._write_regularly, daemon=True)

    def __enter__(self) -> Self:
        """Begin to write down what has been spent."""
        self._writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write it down for the last time, however the job ended: the process has others to do."""
        self._over.set()
        self._writer.join()
        self._write_down()

    def read(self) -> dict[str, Any]:
        """``seconds``, ``cpu_seconds``, ``peak_memory_mib``, ``gpu_memory_mib``, ``energy_kj``.

        Energy is that of the processor packages, all processes together, and None where the
        machine does not tell; a counter that wrapped around is None as well.
        """
        spent = asdict(self._spent())
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in spent.items()}

    def _spent(self) -> _Spent:
        energy, before = package_energy(), self._earlier
        joules = None if energy is None or self._energy is None else energy - self._energy
        known = joules is not None and joules >= 0 and before.energy_kj is not None
        gpu = _gpu_memory_mib()
        return _Spent(
            seconds=before.seconds + time.perf_counter() - self._start,
            cpu_seconds=before.cpu_seconds + _cpu_seconds() - self._cpu,
            peak_memory_mib=max(before.peak_memory_mib, _peak_memory_mib()),
            gpu_memory_mib=None if gpu is None else max(gpu, before.gpu_memory_mib or 0),
            energy_kj=(before.energy_kj or 0.0) + (joules or 0.0) / 1e9 if known else None,
        )

    def _write_regularly(self) -> None:
        while not self._over.wait(_EVERY_SECONDS):
            self._write_down()

    def _write_down(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk must not cost the job
                write_json(self._file, asdict(self._spent()))


@dataclass(frozen=True)
class _Spent:
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_mib: int = 0
    gpu_memory_mib: int | None = None
    energy_kj: float | None = 0.0


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

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _gpu_memory_mib() -> int | None:
    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated() / 2**20)
