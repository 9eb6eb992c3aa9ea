"""The page: one file, no network, hostile text as text, honest words, within its budget."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report_samples as samples

from situs.errors import RunError
from situs.observation import Score
from situs.report import summary
from situs.report.folder import read_run
from situs.report.report import BUDGET, write_report
from situs.report.report_data import data_section
from situs.report.sections import Detail
from situs.scans.aliases import alias


class Page(HTMLParser):
    """Every start tag with its attributes, every address, and the text outside scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in {"script", "style"}:
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += data


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report)


def test_the_page_needs_nothing_outside_itself(page: Page, report: Path) -> None:
    assert report == report.parents[1] / "report" / "index.html"
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "poster", "xlink:href"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith(("#", "data:")), f"<{tag} {name}={value[:60]}>"
    assert "@import" not in report.read_text(encoding="utf-8")[:60_000]
    assert report.stat().st_size < BUDGET


def test_formulas_come_from_the_run_without_loading_a_network(page: Page) -> None:
    assert "Gaps, chunks and vectors · arXiv 2509.05967" in page.text
    assert "MSE(ĝ, g)" in page.text
    code = "import sys, situs.report.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_hostile_strings_are_text(page: Page) -> None:
    assert "<script>window.hostile=1</script>" in page.text
    assert not [a for _, a in page.tags if any(k.startswith("on") for k in a)]
    assert not [a for t, a in page.tags if t == "img" and a.get("src") == "x"]
    scripts = [a for t, a in page.tags if t == "script"]
    assert all(a.get("type") in {None, "application/json", "text/plain"} for a in scripts)
    assert len([a for a in scripts if a.get("type") is None]) == 1
    assert "\x1b" not in page.text
    assert f"data: {alias('store')}" in page.text
    assert "Smith" not in page.text


def test_every_figure_has_words_and_every_control_a_name(page: Page) -> None:
    images = [a for t, a in page.tags if t == "svg" and a.get("role") == "img"]
    assert len(images) > 40
    assert all(len(a.get("aria-label") or "") > 8 for a in images)
    labelled = {a.get("for") for t, a in page.tags if t == "label"}
    sliders = [a for t, a in page.tags if t == "input"]
    assert len(sliders) == 3
    assert all(a.get("id") in labelled for a in sliders)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    anchors = {(a.get("href") or "")[1:] for t, a in page.tags if t == "a"}
    assert anchors <= set(ids)


def test_the_first_screen_says_what_was_learned_and_whether_it_helped(page: Page) -> None:
    words = re.sub(r"\s+", " ", page.text)
    assert "where a constant answer gives 31.2 mm" in words
    assert "on 20 MR and CT scans (8 held out), 200 steps in 5 min 22 s on 2 CPU cores." in words
    assert "better than guessing and a constant answer in 2 of 2 sub-tasks" in words
    assert "Segmentation with 2 labelled cases: Dice" in words
    # Better in Dice and worse at the surface is no help that a green box may tell of.
    assert (
        "With this one draw of labelled cases pretraining helped in Dice and did harm in HD95."
        in words
    )
    boxes = {a.get("class") for t, a in page.tags if t == "p" and "transfer" in str(a.get("class"))}
    assert boxes == {"lead transfer mixed"}
    assert "empty-file" in words
    assert "situs pretrain --config config.yaml" in words


@pytest.mark.parametrize(
    ("shuffled", "said"),
    [
        (None, "in 2 of 2 sub-tasks."),
        (30.0, "in 2 of 2 sub-tasks, in 1 of them better than without anatomy."),
        (0.1, "in 2 of 2 sub-tasks, in none of them better than without anatomy."),
    ],
)
def test_sub_tasks_are_counted_with_what_is_reached_without_anatomy(
    shuffled: float | None, said: str, tmp_path: Path
) -> None:
    run = read_run(samples.write_run(tmp_path / "run"))
    (seen,) = run.latest
    gaps, *others = seen.sections
    first, *more = gaps.scores
    sections = (replace(gaps, scores=(replace(first, shuffled=shuffled), *more)), *others)
    run.__dict__["latest"] = (replace(seen, sections=sections),)
    assert any(line.endswith(said) for line in summary.sentences(run))


def test_a_fine_tuning_shows_truth_and_prediction(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    section = text[text.index('<section id="transfer"') : text.index('<section id="curves"')]
    assert section.count('class="viewer"') == 1
    assert section.count("true labels filled and predicted labels outlined") == 3
    assert f"Median case {alias('case-3')}&lt;script&gt;" in section
    assert "case-3" not in section


def test_a_run_that_just_began_or_broke_still_gives_a_page(tmp_path: Path) -> None:
    run = tmp_path / "bare"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"status": "running", "method": "unheard-of"}))
    text = Page(write_report(run, out=tmp_path / "bare.html")).text
    assert "Nothing was observed yet" in text
    assert "had not ended" in text
    (run / "run.json").write_text(
        json.dumps({"status": "stopped", "stopped_by": "NonFiniteLoss: gap_axis"})
    )
    assert "stopped early: gap_axis" in Page(write_report(run)).text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        write_report(tmp_path)


def test_warnings_say_when_scores_are_optimistic_or_training_starved(run_folder: Path) -> None:
    run = read_run(run_folder)
    assert "of them only for the observations" in data_section(run)["sentence"]
    told = run.record.model_copy(update={"held_out_is_training": True, "data_wait_share": 0.6})
    run = replace(run, record=told)
    found = " ".join(summary.warnings(run))
    assert "optimistic" in found
    assert "60 % of the training time" in found
    assert "only for the observations" not in data_section(run)["sentence"]


def test_a_sub_task_counts_as_solved_by_its_first_score_not_by_monitors_of_collapse() -> None:
    def score(name: str, value: float, samples: tuple[float, ...] = ()) -> Score:
        return Score(name, value, "mm", "lower", chance=10.0, samples=samples)

    missed, rank = score("miss", 10.0, (9.0, 11.0, 10.0)), score("rank", 1.0)
    assert summary._section_verdict((missed, rank, rank)) == "guessing"
    assert summary._section_verdict((rank,)) == "better"
    assert summary._section_verdict((replace(missed, chance=None), rank)) == "unknown"


def test_detail_keeps_the_first_and_the_last_step() -> None:
    steps = list(range(0, 1100, 100))
    assert Detail(4, 64).pick(steps) == [0, 300, 700, 1000]
    assert Detail(1, 64).pick(steps) == [1000]
    assert Detail(20, 64).pick(steps) == steps


def test_a_full_report_is_a_folder_with_its_files_beside(light_run: Path, tmp_path: Path) -> None:
    page = write_report(light_run, out=tmp_path / "full", full=True)
    names = {f.stem for f in (tmp_path / "full" / "assets").glob("*.js")}
    scenes = json.loads(
        re.search(r'id="situs-scenes">(.*?)</script>', page.read_text()).group(1)  # type: ignore[union-attr]
    )
    used = {
        layer["asset"]
        for panels in scenes["sections"].values()
        for panel in panels
        for scene in panel["steps"].values()
        for layer in scene["layers"]
    }
    assert used | {"niivue"} == names
    assert page.stat().st_size < 3_000_000


def test_the_samples_reach_every_part(run_folder: Path) -> None:
    run = read_run(run_folder)
    assert run.steps == [0, 200]
    assert [t.result.scratch for t in run.transfers] == [False, True]
    assert samples.observation().scores.keys() == run.latest[0].scores.keys()


def test_a_page_may_run_its_own_scripts_and_load_nothing(page: Page, report: Path) -> None:
    policies = [a["content"] for tag, a in page.tags if a.get("http-equiv")]
    (policy,) = policies
    assert policy is not None
    assert "default-src 'none'" in policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert "unsafe" not in rules["script-src"]
    assert "http" not in policy
    ours = re.findall(r"<script>(.*?)</script>", report.read_text(encoding="utf-8"), re.DOTALL)
    for script in ours:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules["script-src"]
    assert len(ours) == 1
