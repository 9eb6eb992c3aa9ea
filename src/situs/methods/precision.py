"""Losses that compare directions keep at least single precision, whatever autocast says."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_single(tensor: Tensor) -> Tensor:
    """``tensor`` in float32 if it is of lower precision, else as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
