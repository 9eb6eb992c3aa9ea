"""Runs side by side: which is best, what differs, and that it is one page in the same dress."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import report_samples as samples
import yaml

from situs.errors import RunError
from situs.observation import verdicts
from situs.report.compare import differing_settings, score_table, write_comparison
from situs.report.folder import read_run
from situs.scans.aliases import Names, alias


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and the same one with another seed that ended early."""
    root = tmp_path_factory.mktemp("pair")
    first = samples.write_run(root / "first", hostile="<script>x()</script>", sections=1)
    second = root / "second"
    shutil.copytree(first, second)
    (second / "observations" / "0000200-spatial.obs").unlink()
    config = yaml.safe_load((second / "config.yaml").read_text()) | {"seed": 1}
    (second / "config.yaml").write_text(yaml.safe_dump(config))
    return first, second


def test_the_best_value_is_marked_in_the_score_s_own_direction(
    pair: tuple[Path, Path],
) -> None:
    rows = score_table({"a": read_run(pair[0]), "b": read_run(pair[1])})
    marked = {row["direction"]: [cell["best"] for cell in row["cells"]] for row in rows}
    assert marked == {"lower is better": [True, False], "higher is better": [True, False]}


def test_only_settings_that_differ_are_listed() -> None:
    configs = {
        "a": {"out": "x", "seed": 0, "backbone": {"name": "cnn", "depth": 3}},
        "b": {"out": "y", "seed": 0, "backbone": {"name": "cnn", "depth": 4, "extra": True}},
    }
    assert differing_settings(configs, Names()) == [
        ("backbone.depth", ["3", "4"]),
        ("backbone.extra", ["–", "yes"]),
    ]


def test_folders_of_data_are_ids_others_their_last_part() -> None:
    configs = {
        "a": {"data": "/archive/Smith^Anna/1961/store", "options": {"planes": {"rules": "heart"}}},
        "b": {
            "data": ["in/Jones/store", r"C:\\Jones\\b"],
            "options": {"planes": {"rules": "~/J/r"}},
        },
    }
    assert differing_settings(configs, Names()) == [
        ("data", [alias("store"), f"{alias('store')}, {alias('b')}"]),
        ("options.planes.rules", ["heart", "r"]),
    ]


def test_the_page_holds_both(pair: tuple[Path, Path], tmp_path: Path) -> None:
    page = write_comparison(pair, tmp_path / "c.html")
    text = page.read_text(encoding="utf-8")
    assert "first against second" in text
    assert "<code>seed</code>" in text
    assert "<script>x()" not in text
    assert "&lt;script&gt;x()" in text
    # The verdict of every score in the words that a run's own page has for it.
    for run in map(read_run, pair):
        scores = [s for o in run.latest for s in o.scores.values()]
        assert all(f">{verdicts.judged(s)}</small>" in text for s in scores)
    # Their segmentations stand beside each other too.
    assert text.count("true labels filled and predicted labels outlined") == 2 * 3


def test_one_run_is_no_comparison(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="two runs"):
        write_comparison(pair[:1], tmp_path)
