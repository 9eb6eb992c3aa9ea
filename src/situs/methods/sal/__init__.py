"""Local alignment and global position of slices (arXiv 2406.15699)."""

from situs.methods.sal.config import SalConfig
from situs.methods.sal.losses import local_alignment, position_contrast, position_regression, spread
from situs.methods.sal.method import Sal

__all__ = [
    "Sal",
    "SalConfig",
    "local_alignment",
    "position_contrast",
    "position_regression",
    "spread",
]
