"""Killed at random moments, every stage goes on to what an uninterrupted one writes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from small_runs import finished, forked

SCRIPT = Path(__file__).parents[1] / "support" / "kills.py"
# `make faults` kills a hundred times, in all stages: each method's pretraining, the test of a
# fine-tuning, predict; a study begins a process a job, each of which imports.
MANY = int(os.environ.get("SITUS_FAULTS", "1"))
ALL = pytest.param(
    [], 10 * MANY, marks=pytest.mark.skipif(MANY == 1, reason="an hour: see `make faults`")
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stages", "wanted"),
    [(["prepare", "spatial", "finetune"], 3), ALL],
)
def test_killed_at_random_moments_everything_goes_on_to_the_same_numbers(
    stages: list[str], wanted: int
) -> None:
    said, _ = finished(forked(SCRIPT, wanted, 0, 7200, *stages), 0, timeout=9000)
    kills = re.search(r"(\d+) kills in all", said)
    assert kills is not None
    assert int(kills[1]) >= wanted
