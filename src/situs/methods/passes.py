"""Forward passes over many images without gradient, a few images at a time.

On a CPU the maps of a few images fit into memory that the process has already; those of a hundred
are asked of the system anew at every layer, which then takes two fifths of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

Out = TypeVar("Out")

_AT_ONCE = {"cpu": 2**17}  # pixels of images: with 16 channels 8 MiB a map
_AT_ONCE_ELSEWHERE = 2**25  # on a GPU few large passes are faster; this many need some GiB


def few_at_a_time(
    forward: Callable[..., Out], backbone: nn.Module, images: Tensor, *beside: Tensor
) -> Out:
    """``forward(images, …)``, in parts where no gradient is wanted and none is trained.

    Observations and teachers look so; what they see is the same up to rounding.

    Args:
        forward: Looks at each image alone; gives a tensor whose first axis counts them, or lists
            and named tuples of such; None may stand in place of any.
        backbone: What it looks with. In training mode its norms may see the whole batch.
        images: ``(N, C, *spatial)``.
        beside: What else it looks at, N of each.
    """
    most = max(1, _AT_ONCE.get(images.device.type, _AT_ONCE_ELSEWHERE) // images.shape[2:].numel())
    if torch.is_grad_enabled() or backbone.training or len(images) <= most:
        return forward(images, *beside)
    parts = zip(*(each.split(most) for each in (images, *beside)), strict=True)
    return cast(Out, _joined([forward(*part) for part in parts]))


def _joined(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    joined = [_joined(each) for each in zip(*parts, strict=True)]
    return joined if isinstance(first, list) else type(first)(*joined)
