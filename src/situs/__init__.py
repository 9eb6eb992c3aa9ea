"""situs: pretrain encoders on unlabelled 3D medical scans by teaching them where things are."""

from __future__ import annotations

__version__ = "0.1.0"
