"""What a caller may choose when a scan is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from situs.scans.quality import MAX_BYTES
from situs.scans.refusals import refuse


@dataclass(frozen=True)
class ReadOptions:
    """See :func:`situs.scans.read.read_scan` for the meaning of each."""

    volume: int | Literal["all"] | None = None
    series: str | None = None
    planes: bool = False
    max_bytes: int = MAX_BYTES


def chosen_volumes(
    count: int, volume: int | Literal["all"] | None, path: Path, told_by: str = ""
) -> list[int]:
    """Which of ``count`` volumes to read.

    Args:
        count: Volumes that there are.
        volume: What the caller chose.
        path: For the error.
        told_by: What tells the volumes apart, where it is known.

    Raises:
        ScanRefused: ``four-dimensional`` where nobody chose, ``no-such-volume``.
    """
    if volume == "all" or count == 1:
        if volume not in ("all", None, 0):
            raise refuse("no-such-volume", path, f"volume {volume} of 1 was asked for")
        return list(range(count))
    if volume is None:
        apart = f", told apart by {told_by}" if told_by else ""
        detail = f"holds {count} volumes{apart}; choose one of them (0 … {count - 1}), or all"
        raise refuse("four-dimensional", path, detail)
    if not 0 <= volume < count:
        raise refuse("no-such-volume", path, f"volume {volume} of {count} was asked for")
    return [volume]
