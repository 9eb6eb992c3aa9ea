"""The teacher: an exponential moving average of the student.

The average is the mean teacher's (Tarvainen and Valpola, arXiv 1703.01780), the rise of its
momentum by a cosine is BYOL's (arXiv 2006.07733). The quick start of :func:`momentum_at` is
neither's: it is that of TensorFlow's moving averages.
"""

from __future__ import annotations

import copy
import math
from typing import Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from situs.config import Config
from situs.tensors import copy_all

M = TypeVar("M", bound=nn.Module)


class TeacherConfig(Config):
    """The moving average of the network; ramps up from a quick start.

    The momentum at step t is min(momentum, (1 + t) / (10 + t)); with ``"cosine"`` it also rises
    from ``momentum`` to 1 over the run.

    Attributes:
        momentum: Share of the teacher that is kept at each step, at most.
        schedule: ``"constant"``, or ``"cosine"`` to end as an average of ever more steps.
    """

    momentum: float = Field(0.99, ge=0, lt=1)
    schedule: Literal["constant", "cosine"] = "constant"


def make_teacher(student: M) -> M:
    """A copy of the student that receives no gradient."""
    return copy.deepcopy(student).requires_grad_(False).eval()


def momentum_at(config: TeacherConfig, step: int, steps: int) -> float:
    """Momentum of the average after ``step`` of ``steps`` optimiser steps."""
    momentum = config.momentum
    if config.schedule == "cosine":
        momentum = 1 - (1 - momentum) * (math.cos(math.pi * min(1.0, step / steps)) + 1) / 2
    return min(momentum, (1 + step) / (10 + step))


@torch.no_grad()
def update_teacher(
    teacher: nn.Module, student: nn.Module, momentum: float, still: Tensor | None = None
) -> None:
    """Parameters: θ_t ← m θ_t + (1 − m) θ_s. Buffers (running statistics) are copied.

    Args:
        teacher: Changed in place.
        student: Averaged.
        momentum: m.
        still: A number on the device; 1 leaves the parameters as they are, 0 does not.
    """
    parameters: list[Tensor] = list(teacher.parameters())
    values: list[Tensor] = list(student.parameters())
    if still is None:
        get_ema_multi_avg_fn(momentum)(parameters, values, None)
    else:
        difference = torch._foreach_sub(values, parameters)
        torch._foreach_mul_(difference, (1 - momentum) * (1 - still))
        torch._foreach_add_(parameters, difference)
    copy_all(list(teacher.buffers()), list(student.buffers()))
