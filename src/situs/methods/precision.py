"""Losses that compare directions keep at least single precision, whatever autocast says.

Autocast narrows matrix products to bf16 even where their operands are float32, so widening the
operands alone does not help: a cosine of 0.9992 becomes 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_single(tensor: Tensor) -> Tensor:
    """``tensor`` in float32 if it is of lower precision, else as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product in the operands' own precision, inside autocast too."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every pair of rows, ``(…, N, D)`` and ``(…, M, D)`` → ``(…, N, M)``."""
    first, second = (F.normalize(at_least_single(x), dim=-1) for x in (a, b))
    return product(first, second.mT)
