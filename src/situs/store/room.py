"""The folder for what is fetched of stores that lie elsewhere, and the bound on what it takes."""

from __future__ import annotations

import heapq
import os
from contextlib import suppress
from pathlib import Path

from situs.errors import SitusError
from situs.store.paths import sums_file

ORIGIN = "origin.json"
"""In the folder of a copy: where it came from."""

_DEFAULT_GB = 50.0
_STEP = 1 / 64  # of the bound, between two looks at what the cache takes
_KEPT = 0.8  # of the bound, after room was made


def cache_root() -> Path:
    """The folder for what is fetched: ``SITUS_CACHE``, or ``~/.cache/situs``."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    place = Path(os.environ.get("SITUS_CACHE") or Path(home) / "situs").expanduser()
    return Path(os.path.abspath(place))


def cache_bytes() -> int:
    """Most bytes that voxels may take there: ``SITUS_CACHE_GB``, 50 by default.

    Raises:
        SitusError: If that is no positive number.
    """
    said = os.environ.get("SITUS_CACHE_GB") or str(_DEFAULT_GB)
    try:
        limit = int(float(said) * 1e9)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise SitusError(f"SITUS_CACHE_GB must be a number of gigabytes above 0, got '{said}'")
    return limit


class Room:
    """Keeps what voxels take in the cache below its bound; the scans used last stay."""

    def __init__(self) -> None:
        self._since: float = float("inf")  # a process looks when it first takes some

    def taken(self, count: int) -> None:
        """This process has taken some bytes."""
        self._since += count
        limit = cache_bytes()
        if self._since > limit * _STEP:
            self._since = 0
            make_room(cache_root(), limit)


def make_room(root: Path, limit: int) -> int:
    """Delete scans that were used least recently where more than ``limit`` bytes are taken.

    Returns:
        Bytes that are taken afterwards.
    """
    taken, found = 0, []
    # Only of copies: a store of the user's own may lie beside them.
    copies = [file.parent for file in root.glob(f"stores/*/{ORIGIN}")]
    for file in (file for copy in copies for file in copy.glob("scans/*/*.b2nd")):
        with suppress(FileNotFoundError):
            stat = file.stat()
            size = stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size
            taken += size
            found.append((stat.st_mtime_ns, size, str(file)))
    if taken <= limit * (1 - _STEP):
        return taken
    heapq.heapify(found)
    while found and taken > limit * _KEPT:
        _, size, name = heapq.heappop(found)
        for file in (Path(name), sums_file(Path(name))):
            with suppress(OSError):  # another process was faster
                file.unlink()
        taken -= size
    return taken


room = Room()
