"""The method ``s2dc``: semantic discrepancy and consistency between a region and its moved copy."""

from situs.methods.s2dc.losses import consistency, discrepancy, info_nce, sharpness
from situs.methods.s2dc.sinkhorn import log_sinkhorn

__all__ = ["consistency", "discrepancy", "info_nce", "log_sinkhorn", "sharpness"]
