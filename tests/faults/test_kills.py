"""Killed at random moments, every stage goes on to what an uninterrupted one writes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
    arguments = [str(SCRIPT), str(wanted), "0", "7200", *stages]
    done = subprocess.run([sys.executable, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    kills = re.search(r"(\d+) kills in all", done.stdout)
    assert kills is not None
    assert int(kills[1]) >= wanted
