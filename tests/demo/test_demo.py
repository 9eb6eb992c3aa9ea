from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from small_runs import failing_after

from situs.catalog.studies import by_role, load_rules
from situs.cli.tables import demonstrated
from situs.demo import demo
from situs.store import Store

pytest.importorskip("nilearn", reason="the demo cohort needs the extra 'demo'")


@pytest.mark.slow
def test_the_demo_of_planes_goes_from_dicom_studies_to_planned_planes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few steps only: whether anything was learned is not at stake here."""
    monkeypatch.setattr(demo, "FINETUNE_2D", {**demo.FINETUNE_2D, "steps": 1})

    def run() -> demo.DemoResult:
        return demo.run_demo(tmp_path, method="planes", subjects=7, steps=2, quiet=True)

    with pytest.raises(MemoryError), failing_after(0):  # which leaves a run without a state
        run()
    result = run()

    studies = Store.open(tmp_path / "store").studies()
    assert len(studies) == 5  # two subjects are kept for the test
    assert all(len(by_role(study, load_rules("heart"))) == 4 for study in studies)
    options = result.run.config["options"]["planes"]
    assert (options["studies"], options["rules"]) == ("series", "heart")

    planes = json.loads((result.run.path / "planes.json").read_text())
    assert [p["role"] for p in planes] == ["sax", "2ch", "3ch", "4ch"]  # one study is held out
    assert [row.role for row in result.planes] == ["sax", "2ch", "3ch", "4ch", "all"]
    assert result.report.is_file()
    console = Console(width=100, record=True, quiet=True)
    console.print(demonstrated(result))
    assert set(result.seconds) >= {"pretrain", "plan", "finetune scratch", "report"}
    assert 0 <= result.results["scratch"].scores["dice"] <= 1
    assert json.dumps(result.as_dict(), default=str)
