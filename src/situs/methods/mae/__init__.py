"""Masked autoencoding: hide blocks of a sub-volume and rebuild them."""

from situs.methods.mae.config import MaeConfig
from situs.methods.mae.losses import reconstruction
from situs.methods.mae.method import Mae
from situs.methods.mae.sparse import sparse_encoding

__all__ = ["Mae", "MaeConfig", "reconstruction", "sparse_encoding"]
