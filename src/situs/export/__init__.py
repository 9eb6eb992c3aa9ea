"""Hand an encoder on: to MONAI, nnU-Net, ONNX, a Hub layout, or as plain safetensors."""

from __future__ import annotations

from situs.export.export import Exported, available, export

__all__ = ["Exported", "available", "export"]
