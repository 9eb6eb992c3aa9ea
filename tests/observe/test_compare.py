"""Runs side by side: which is best, what differs, and that it is one page in the same dress."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from situs.errors import RunError
from situs.observe.compare import differing_settings, score_table, write_comparison
from situs.observe.folder import read_run


@pytest.fixture(scope="module")
def other(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, stopped early, with another seed."""
    copy = tmp_path_factory.mktemp("other") / "second"
    shutil.copytree(run_folder, copy, ignore=shutil.ignore_patterns("report"))
    (copy / "observations" / "0000200-spatial.obs").unlink()
    config = yaml.safe_load((copy / "config.yaml").read_text()) | {"seed": 1}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    return copy


def test_the_best_value_is_marked_in_the_score_s_own_direction(
    run_folder: Path, other: Path
) -> None:
    rows = score_table({"a": read_run(run_folder), "b": read_run(other)})
    marked = {row["direction"]: [cell["best"] for cell in row["cells"]] for row in rows}
    assert marked == {"lower is better": [True, False], "higher is better": [True, False]}


def test_only_settings_that_differ_are_listed() -> None:
    configs = {
        "a": {"out": "x", "seed": 0, "backbone": {"name": "cnn", "depth": 3}},
        "b": {"out": "y", "seed": 0, "backbone": {"name": "cnn", "depth": 4, "extra": True}},
    }
    assert differing_settings(configs) == [
        ("backbone.depth", ["3", "4"]),
        ("backbone.extra", ["–", "True"]),
    ]


def test_the_page_holds_both(run_folder: Path, other: Path, tmp_path: Path) -> None:
    page = write_comparison([run_folder, other], tmp_path / "c.html")
    text = page.read_text(encoding="utf-8")
    assert "first against second" in text
    assert "<code>seed</code>" in text
    assert text.count("window.hostile=1") == text.count("&lt;script&gt;window.hostile=1")


def test_one_run_is_no_comparison(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="two runs"):
        write_comparison([run_folder], tmp_path)
