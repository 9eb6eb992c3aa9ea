"""The method ``s2dc``: semantic discrepancy and consistency between a region and its moved copy."""

from situs.methods.s2dc.losses import consistency, discrepancy, info_nce, sharpness
from situs.methods.s2dc.method import S2dc
from situs.methods.s2dc.sinkhorn import log_sinkhorn

__all__ = ["S2dc", "consistency", "discrepancy", "info_nce", "log_sinkhorn", "sharpness"]
