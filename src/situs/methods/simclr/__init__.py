"""Contrast of augmented views (SimCLR) in three dimensions."""

from situs.methods.simclr.config import SimClrConfig
from situs.methods.simclr.losses import nt_xent
from situs.methods.simclr.method import SimClr

__all__ = ["SimClr", "SimClrConfig", "nt_xent"]
