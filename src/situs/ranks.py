"""Which process of a training this is, asked before anything heavy is imported."""

from __future__ import annotations

import os

RANK = "SITUS_RANK"  # set where the processes of a training meet


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return next((os.environ[name] for name in (RANK, "RANK") if name in os.environ), "0") == "0"
