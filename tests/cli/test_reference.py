"""What the command line says about itself, and how soon."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from collections_made import write_collection
from scores_made import score
from typer.main import get_command
from typer.testing import CliRunner

from situs import Viewsd, backbones, views_dataset
from situs.backbones import BackboneConfig
from situs.backbones.presets import PRESETS
from situs.catalog.catalog import build_catalog
from situs.cli import PANELS, app
from situs.config import validate
from situs.datasets.dataset import open_dataset
from situs.errors import ScanRefused
from situs.methods import available, method_class
from situs.methods.composition import compose
from situs.observation import Observation, Section
from situs.observation.panels import ImagesPanel, Volume
from situs.pretraining.config import PretrainConfig
from situs.settings import described
from situs.studies.jobs import Job, JobFolders
from situs.text import quantity
from situs.training.record import RunRecord
from situs.training.run import Run
from situs.transfer.predict import Predictions
from situs.views.source import ArraySource

HEAVY = {"torch", "numpy", "pandas", "pydantic", "yaml", "monai", "matplotlib", "nibabel"}


def test_help_lists_the_verbs_in_the_order_of_the_work() -> None:
    verbs = get_command(app).commands  # type: ignore[attr-defined]
    ordered = [verb for panel in PANELS.values() for verb in panel if verb in verbs]
    assert set(ordered) == set(verbs), "every verb has its panel"
    shown = CliRunner().invoke(app, ["--help"]).output
    places = [shown.index(f"│ {verb} ") for verb in ordered]
    assert places == sorted(places)
    assert all(f"─ {panel} ─" in shown for panel in PANELS)


def test_help_and_completion_import_nothing_heavy() -> None:
    code = "import sys, situs.cli; print([m for m in sys.argv[1].split(',') if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code, ",".join(HEAVY)], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
    words = {"_SITUS_COMPLETE": "complete_bash", "COMP_WORDS": "situs pre", "COMP_CWORD": "1"}
    completed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv[0] = 'situs'; from situs.cli import main; main()",
        ],
        env={**os.environ, **words},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.stdout.split() == ["prepare", "pretrain", "predict"]


@pytest.mark.parametrize("method", [*available(), "spatial+mae"])
def test_the_settings_of_a_method_are_all_there_explained_and_usable(method: str) -> None:
    result = CliRunner().invoke(app, ["config", method])
    assert result.exit_code == 0, result.output
    values = yaml.safe_load(result.stdout)
    assert list(values) == list(PretrainConfig.model_fields)
    assert values["data"] is values["out"] is None, "these two are to be filled in"
    config = validate(PretrainConfig, {**values, "data": "store", "out": "run"})
    compose(config.method, config.options, config.weights, config.uncertainty)
    assert config == PretrainConfig(
        method=method, data=Path("store"), out=Path("run"), options=values["options"]
    )
    for name in method.split("+"):
        options = method_class(name).Config
        missing = set(options.model_fields) - set(described(options)) - {"weights"}
        assert not missing, f"settings of {name} that nothing explains"


def test_methods_and_backbones_are_listed_and_explained() -> None:
    rows = json.loads(CliRunner().invoke(app, ["methods", "--json"]).stdout)
    assert [row["name"] for row in rows] == available()
    assert all(row["title"] and "arXiv" in row["paper"] for row in rows)
    rows = json.loads(CliRunner().invoke(app, ["backbones", "--json"]).stdout)
    explained = {row["name"] for row in rows if len(row["what"]) > 20}
    assert {*backbones.available(), *PRESETS} == explained


@pytest.mark.parametrize("name", PRESETS)
def test_sizes_that_have_a_name_are_networks(name: str) -> None:
    config = BackboneConfig(name=name)
    assert config.name in backbones.available()
    assert BackboneConfig(**config.model_dump()) == config
    shallow = {"depth": 1} if "depth" in config.options else {}
    network = backbones.build(BackboneConfig(name=name, options=shallow))
    assert network.channels[-1] >= 320


def test_a_run_says_what_it_is(tmp_path: Path) -> None:
    assert repr(Run(tmp_path)) == f"Run('{tmp_path}', not there yet)"
    (tmp_path / "run.json").write_text('{"method": "spatial", "status": "finished"}')
    assert repr(Run(tmp_path)) == f"Run('{tmp_path}', spatial, finished)"


@pytest.mark.parametrize("method", available())
def test_settings_are_told_in_words_of_yaml(method: str) -> None:
    """Who copies ``None`` out of a comment has set a text of four letters."""
    told = CliRunner().invoke(app, ["config", method]).stdout
    assert "null" in told
    assert not re.search(r"\b(None|True|False)\b|:\w+:`", told)


def test_results_are_one_line_that_says_how_much_there_is(tmp_path: Path) -> None:
    nib.save(
        nib.Nifti1Image(np.random.default_rng(0).normal(size=(24, 24, 24)), np.eye(4)),
        tmp_path / "a.nii",
    )
    (tmp_path / "b.nii").write_bytes(b"none")
    catalog = build_catalog([tmp_path], workers=0)
    assert repr(catalog) == "Catalog(1 accepted, 1 refused)"
    refused = [ScanRefused("empty-file", "b.nii", "empty")]
    assert repr(Predictions([{"scan": "a"}], refused)) == "Predictions(1 predicted, 1 refused)"
    assert "2 done before" in repr(Predictions(skipped=["a", "b"]))
    job = Job("pretrain", "pretrain spatial", {}, {})
    assert repr(job) == f"Job('pretrain spatial', pretrain, {job.key})"
    (tmp_path / "study").mkdir()
    shown = repr(JobFolders(tmp_path / "study"))
    assert shown == f"JobFolders('{tmp_path / 'study'}', 0 folders)"
    record = RunRecord(method="mae", status="stopped", step=20)
    assert repr(record) == "RunRecord(mae, stopped, step 20)"
    seen = Observation("mae", 20, (Section("Voxels", "", (score(), score())),))
    assert repr(seen) == "Observation(mae, step 20, scores: gap_mae)"


def test_what_holds_arrays_and_files_shows_none_of_them(tmp_path: Path) -> None:
    """In a session the last value is shown: a line of words, without numbers by the thousand."""
    data = write_collection(tmp_path / "data", cases=2)
    scan = build_catalog([data / "images"], workers=0).accepted[0]
    assert repr(scan).startswith("Entry('case-0.nii.gz', 26×22×14 voxels, 1×1.2×2 mm, ")
    dataset = open_dataset(data)
    assert repr(dataset) == f"Dataset('{data}', 2 cases, segmentation of background, 1, 2)"
    array = np.zeros((30, 40, 50))
    figure = ImagesPanel(title="Both", volumes=(Volume(array, np.eye(4), "left"),), names=("a",))
    one = score()
    assert repr(figure) == "ImagesPanel('Both')"
    assert repr(figure.volumes[0]) == "Volume('left', 30×40×50)"
    assert repr(one).startswith(f"Score(gap_mae {quantity(one.value, one.unit)}, chance ")
    assert (
        repr(Section("Voxels", "", (one,), (figure,))) == f"Section('Voxels', [{one}], 1 panel(s))"
    )
    sources = [ArraySource(np.random.default_rng(0).normal(size=(1, 24, 24, 24)), np.eye(4))]
    views = views_dataset("mae", sources, options={"view_size": [8, 8, 8]}, samples=3)
    assert repr(views) == "ViewsDataset(mae, 3 samples)"
    assert repr(Viewsd("image", views.composition)) == "Viewsd('image', mae)"
