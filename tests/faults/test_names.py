"""Whatever a hospital's folders, files and headers say, nothing of it leaves the machine."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml
from marked import Markers, found_in, write_labelled, write_scans
from small_runs import forked_workers
from typer.testing import CliRunner

from situs.cli import app
from situs.scans.aliases import MAPPING, Names, alias

pytestmark = pytest.mark.slow

NETWORK = "backbone={name: cnn, options: {channels: [4, 8, 8]}}"
# What docs/reliability.md says stays on the machine; all else may be passed on.
LOCAL = {MAPPING, "config.yaml", "data.json", "cases.csv", "result.json", "observation.obs"}
LOCAL_FOLDERS = {"catalog", "store", "predictions", "jobs", "unpacked"}
STUDY_LOCAL = {"cases.json", "cases-unlabelled.json", "unlabelled.json", "study.yaml"}


def is_local(file: Path) -> bool:
    """Whether a file, relative to the working folder, is one that is not passed on."""
    if LOCAL_FOLDERS & set(file.parts[:-1]) or file.suffix == ".parquet":
        return True
    if file.parts[0] == "study":
        return file.name in STUDY_LOCAL | {MAPPING}
    return file.name in LOCAL


class Journey:
    """A stranger's way through every verb that writes something, on marked data."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, Markers()
        self.said: dict[str, str] = {}
        self.scans = write_scans(folder / "raw" / self.mark.name(), self.mark)
        self.labelled = write_labelled(folder / "raw" / self.mark.name() / "x", self.mark)

    def __call__(self, *words: object, code: int = 0) -> str:
        told = CliRunner().invoke(app, [str(word) for word in words])
        assert told.exit_code == code, (words, told.output, told.exception)
        self.said[f"{len(self.said)} {words[0]}"] = told.output
        return told.output

    def go(self) -> None:
        small = ("--set", NETWORK, "--set", "threads=1")
        tuned = ("--labels", 2, "--test", 3, "--set", "steps=2", "--set", "patch_size=[12,12,12]")
        self("scan", self.scans, "--out", "catalog", "--workers", 0, code=1)
        self("prepare", "catalog", "--out", "store", "--workers", 0, code=1)
        options = "options={view_size: [12, 12, 12], chunk_size: [4, 4, 4], width: 8}"
        learnt = [*small, "--set", "batch_size=2", "--set", "workers=0", "--set", options]
        learnt += ["--set", "steps=2", "--set", "observe_samples=2"]
        learnt += ["--set", "observe_controls=never"]
        self("pretrain", "--data", "store", "--method", "spatial", "--out", "runs/a", *learnt)
        learnt += ["--data", self.scans, "--no-report"]  # that is drawn in full below
        self("pretrain", "--method", "spatial", "--out", "runs/b", *learnt)
        self("finetune", "--data", self.labelled, "--init", "runs/a", "--out", "few", *tuned)
        self("finetune", "--data", self.labelled, "--init", "none", "--out", "none", *tuned, *small)
        self("predict", "few", self.scans, "--out", "predictions", code=1)
        self("embed", "runs/a", self.scans, "--out", "features.parquet")
        both = ("--transfer", "few", "--transfer", "none")
        self("observe", "runs/a", *both, "--out", "page.html")
        self("observe", "runs/b", "--full", "--out", "full")
        self("compare", "runs/a", "runs/b", "--out", "compare.html")
        for kind, what in (("safetensors", "few"), ("monai", "few"), ("onnx", "few")):
            self("export", what, "--to", kind, "--out", f"exports/{kind}")
        self("export", "runs/b", "--to", "hub", "--out", "exports/hub")
        self("probe", "runs/a", "--data", self.labelled, "--labels", 2, "--test", 2, "--json")

    def study(self) -> None:
        mae = {"method": "mae", "options": {"view_size": [8, 8, 8], "block_size": [4, 4, 4]}}
        config = {
            "data": str(self.labelled),
            "out": "study",
            "unlabelled": [str(self.scans)],
            "arms": ["none", mae],
            "labels": [2],
            "seeds": [0],
            "test": 3,
            "validation": 0,
            "backbone": {"name": "cnn", "options": {"channels": [4, 8]}},
            "pretrain": {"steps": 2, "batch_size": 2, "observe_samples": 2, "workers": 0},
            "finetune": {"steps": 2, "patch_size": [8, 8, 8]},
            "preprocessing": {"spacing": [2, 2, 2]},
            "processes": 1,
            "bootstrap": 50,
            "near_duplicates": "group",
        }
        (self.folder / "raw" / "study.yaml").write_text(yaml.safe_dump(config))
        with forked_workers():
            self("study", "raw/study.yaml")

    def files(self) -> list[Path]:
        """All that was written, relative to the folder."""
        found = (f.relative_to(self.folder) for f in self.folder.rglob("*") if f.is_file())
        return sorted(f for f in found if f.parts[0] != "raw")


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Journey:
    made = Journey(tmp_path_factory.mktemp("hospital"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.folder)
        made.go()
        made.study()
    return made


def test_nothing_that_may_be_passed_on_holds_a_name_or_a_header_s_text(journey: Journey) -> None:
    assert len(journey.mark.in_headers) > 1500
    assert len(journey.mark.in_names) > 30
    found = {}
    for file in journey.files():
        content = str(file).encode() + (journey.folder / file).read_bytes()
        if not is_local(file):
            found[str(file)] = found_in(content)
        assert not found_in(content) & journey.mark.in_headers, file
    assert len(found) > 60
    assert {name: markers for name, markers in found.items() if markers} == {}


def test_no_header_s_text_is_said_in_the_terminal(journey: Journey) -> None:
    for verb, words in journey.said.items():
        assert not found_in(words.encode()) & journey.mark.in_headers, verb


def test_the_mapping_tells_every_id_of_a_page(journey: Journey) -> None:
    page = (journey.folder / "page.html").read_text(encoding="utf-8")
    rows = list(csv.DictReader((journey.folder / "runs" / "a" / MAPPING).open(newline="")))
    shown = [row["name"] for row in rows if row["id"] in page]
    assert len(shown) > 10
    assert {name for row in rows for name in found_in(row["name"].encode())} <= (
        journey.mark.in_names
    )
    tested = csv.DictReader((journey.folder / "study" / "cases.csv").open(newline=""))
    known = csv.DictReader((journey.folder / "study" / MAPPING).open(newline=""))
    assert {row["case"] for row in tested} <= {row["id"] for row in known}


def test_names_are_shown_where_that_is_asked_for(
    journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(journey.folder)
    words = ("observe", "runs/a", "--transfer", "few", "--names", "--out", "raw/named.html")
    assert CliRunner().invoke(app, list(words)).exit_code == 0
    named = found_in((journey.folder / "raw" / "named.html").read_bytes())
    assert len(named & journey.mark.in_names) > 10


def test_names_give_way_where_they_stand_as_names_and_nowhere_else() -> None:
    names = Names()
    names.add("Smith_Anna/scan.nii.gz", key="0123456789abcdef")
    names.add("12")
    names.add("Smith, Anna (2)")
    assert names.of("0123456789abcdef") == names.of("Smith_Anna/scan.nii.gz") == "01234567"
    said = names.within(
        "Worst case 12: Dice 0.12, 12 voxels; case Smith, Anna (2): 0123456789abcdef"
    )
    assert said == (
        f"Worst case {alias('12')}: Dice 0.12, 12 voxels; case {alias('Smith, Anna (2)')}: 01234567"
    )
