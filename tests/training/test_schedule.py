"""The learning rate over a training, beside torch's own schedulers."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, SequentialLR

from situs.training.schedule import warmup_cosine


def rates(make: object, steps: int) -> list[float]:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    schedule = make(optimiser)  # type: ignore[operator]
    found = []
    for _ in range(steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return found


def test_it_is_torchs_warm_up_and_cosine() -> None:
    warmup, steps, final = 10, 110, 0.01
    ours = rates(lambda o: LambdaLR(o, warmup_cosine(warmup, steps, final)), steps)
    theirs = rates(
        lambda o: SequentialLR(
            o,
            [
                LinearLR(o, start_factor=1 / (warmup + 1), total_iters=warmup),
                CosineAnnealingLR(o, steps - warmup, eta_min=final),
            ],
            [warmup],
        ),
        steps,
    )
    assert ours == pytest.approx(theirs)


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_a_short_training_reaches_its_rate_and_says_that_its_warm_up_is_shortened(
    steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    factor = warmup_cosine(50, steps)
    assert max(factor(step) for step in range(steps)) == 1
    assert f"shortened to {steps // 2}" in caplog.text
    assert caplog.records[0].name.startswith("situs.")


def test_a_usual_warm_up_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        factor = warmup_cosine(50, 100, final=0.1)
    assert not caplog.records
    assert factor(100) == factor(1000) == pytest.approx(0.1)
