"""The verbs: what they print, as a table and as JSON, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from situs.cli import app
from situs.errors import RunError


def test_observe_writes_the_report_and_prints_the_scores_as_json(
    run_folder: Path, tmp_path: Path
) -> None:
    # A run without observations is drawn at once; its page and scores are what counts here.
    (tmp_path / "run").mkdir()
    for name in ("run.json", "config.yaml", "metrics.csv"):
        (tmp_path / "run" / name).write_bytes((run_folder / name).read_bytes())
    result = CliRunner().invoke(app, ["observe", str(tmp_path / "run"), "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert Path(answer["report"]).is_file()
    assert answer["scores"] == []
    told = CliRunner().invoke(app, ["observe", str(tmp_path / "run")]).stdout
    assert "nothing was observed" in told
    assert "sub-task" not in told  # no empty table


def test_observe_refuses_what_is_no_run(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["observe", str(tmp_path)])
    assert isinstance(result.exception, RunError)
    assert "not a run folder" in str(result.exception)


def test_every_verb_has_an_example() -> None:
    for verb in ("observe", "compare", "serve"):
        shown = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "120"})
        assert shown.exit_code == 0
        assert f"situs {verb} runs" in shown.output
