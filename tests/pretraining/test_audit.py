"""A method of another package, from the command line to its audited report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tiny import smooth_sources
from typer.testing import CliRunner

from situs.cli import app
from situs.report.folder import read_run
from situs.training.run import Run

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "rotation"
POINTS = "[situs.methods]\nrotation = situs_rotation:Rotation\n"


def test_a_method_of_another_package_is_trained_audited_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What `pip install examples/rotation` leaves, without asking an index for a build tool.
    site, scans, run = tmp_path / "site", tmp_path / "scans", tmp_path / "run"
    (site / "situs_rotation-0.1.dist-info").mkdir(parents=True)
    scans.mkdir()
    assert POINTS.split("\n")[1].split(" = ")[1] in (EXAMPLE / "pyproject.toml").read_text()
    info = site / "situs_rotation-0.1.dist-info"
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: situs-rotation\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(POINTS)
    for i, source in enumerate(smooth_sources(6, (20, 20, 20))):
        image = nib.Nifti1Image(source.array[0], np.diag([1.0, 1.0, 1.0, 1.0]))
        nib.save(image, scans / f"p{i}.nii.gz")
    for folder in (site, EXAMPLE):
        monkeypatch.syspath_prepend(folder)

    settings = (
        "options.size=16", "batch_size=2", "held_out=0.34", "observe_samples=4", "workers=0",
        "threads=1", "backbone.options={channels: [4, 8]}",
    )  # fmt: skip
    learnt = (
        "pretrain", "--method", "rotation", "--data", str(scans), "--out", str(run),
        "--steps", "4", "-q", "--no-report", *(part for s in settings for part in ("--set", s)),
    )  # fmt: skip
    audit = ("audit", str(run), "--steps-share", "0.5", "--json")
    said = []
    for words in (learnt, audit, ("observe", str(run), "--json")):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (words, done.output, done.exception)
        said.append(done.stdout)
    _, audited, observed = said
    score = Run.open(run).observations()[0].scores["turn_accuracy"]
    assert None not in (score.emptied, score.shuffled, score.untrained, score.constant)
    assert score.groups == (0, 1, 0, 1)
    reach = {r.term: r.encoder for r in Run.open(run).observations()[0].reach}
    assert reach == {"rotation": 100.0, "total": 100.0}

    found = json.loads(audited)
    assert set(found) == {"turn_accuracy"}
    levels = ("trained", "emptied", "shuffled", "untrained", "constant", "chance")
    assert all(0 <= found["turn_accuracy"][level] <= 100 for level in levels)
    assert found["turn_accuracy"]["unit"] == "%"
    kept = json.loads((run / "audit.json").read_text())
    assert kept["scores"] == found
    assert kept["steps"] == 2
    held = read_run(run).latest[0].scores["turn_accuracy"]
    assert held.emptied == max(score.emptied, found["turn_accuracy"]["emptied"])
    shown = json.loads(observed)
    assert shown["scores"][0]["emptied"] == held.emptied
    page = (run / "report" / "index.html").read_text()
    assert re.search(r"<code>rotation</code></th><td>100 %", page)
    assert "Audited: the same configuration was trained for 2 steps" in page
