"""Small tensors on a device without waiting for it.

``torch.tensor(values, device=gpu)`` copies from memory that the driver may not read by itself, so
the host waits until everything before it is done: a step with a dozen of them never runs ahead
of its GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def constant(values: Sequence[float], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """``values`` on the device of ``like``; copied there once a process. Not to be written to.

    Args:
        values: Numbers.
        like: Gives device, and dtype where none is given.
        dtype: Of the result.
    """
    return _constant(tuple(values), dtype or like.dtype, like.device)


def placed(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``, copied without waiting; meant for a few numbers drawn on the host.

    What is copied must stay as it is until the device has caught up.
    """
    return tensor.to(device, non_blocking=True)


def to_numpy(tensor: Tensor) -> npt.NDArray[np.float64]:
    """Values without gradient, on the CPU and in double precision."""
    return tensor.detach().cpu().double().numpy()


@torch.no_grad()
def copy_all(targets: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Each of ``values`` into its target, in as few launches as there are kinds of tensors."""
    if targets:
        torch._foreach_copy_(list(targets), list(values))


@lru_cache(maxsize=512)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # An inference tensor that is kept could never take part in a gradient.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
