"""Which process of a training this is, asked before anything heavy is imported."""

from __future__ import annotations

import os

RANK = "SITUS_RANK"  # set for processes that situs starts, and where those of a training meet
_NAMES = (RANK, "RANK", "SLURM_PROCID")


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return next((os.environ[name] for name in _NAMES if name in os.environ), "0") == "0"
