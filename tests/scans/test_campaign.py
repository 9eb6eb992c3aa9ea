"""A part of the campaign of damaged files; the whole is ``make campaign``."""

from __future__ import annotations

from pathlib import Path

import pytest
from campaign import MAKERS, run


@pytest.mark.slow
def test_damaged_files_are_read_rightly_or_refused(tmp_path: Path) -> None:
    """Only what an independent reader confirms, or a refusal with a code that stays."""
    outcomes = run(240, tmp_path, workers=2)
    assert set(outcomes) == set(MAKERS)
    for kind, counts in outcomes.items():
        assert counts.total() == 40
        assert not [said for said in counts if said.startswith("WRONG")], (kind, counts)
        # Neither everything passes nor everything is refused.
        assert 4 < counts["read"] < 40
