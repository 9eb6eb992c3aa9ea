"""How fast is learned at which step: the same for pretraining and fine-tuning."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

_LOG = logging.getLogger(__name__)


def warmup_cosine(warmup_steps: int, steps: int, final: float = 0.0) -> Callable[[int], float]:
    """Factor of the learning rate at a step: linear warm-up, then half a cosine.

    A warm-up of more than half the run is shortened to that half, and a line of the log says so: a
    training shorter than its warm-up would otherwise never reach its rate.

    Args:
        warmup_steps: Step ``n`` of them has the factor ``(n + 1) / (warmup_steps + 1)``; the
            first step after them is the first with factor 1.
        steps: Of the whole training.
        final: Factor at the end.
    """
    warmup = min(warmup_steps, steps // 2)
    if warmup < warmup_steps:
        _LOG.warning(
            "a warm-up of %d steps is shortened to %d: the training has %d",
            warmup_steps,
            warmup,
            steps,
        )

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1, steps - warmup)
        return final + (1 - final) * (1 + math.cos(math.pi * min(1.0, done))) / 2

    return factor
