from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from situs.cli import app
from situs.transfer import Model, Result, finetune


def write_table(folder: Path, multi_label: bool, cases: int = 16) -> Path:
    """Scans of noise; a bright bar on the left, a chequered block on the right, both or none."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(cases):
        bar, block = bool(i & 1), bool(i & 2) and multi_label
        image = rng.normal(0, 0.3, (16, 16, 12))
        if bar:
            image[2:5] += 4
        if block:
            image[10:14, 4:12] += 4 * (-1.0) ** np.arange(4)[:, None, None]
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), folder / f"s{i:02d}.nii.gz")
        label = {"bar": int(bar), "block": int(block)}
        rows.append({"image": f"s{i:02d}.nii.gz", **label})
        if not multi_label:
            rows[-1] = {"image": f"s{i:02d}.nii.gz", "target": "bar" if bar else "none"}
    with (folder / "labels.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "labels.csv"


@pytest.mark.parametrize(("dims", "multi_label"), [(3, False), (2, True)])
def test_scans_are_classified(tmp_path: Path, dims: int, multi_label: bool) -> None:
    table = write_table(tmp_path, multi_label)
    settings = {
        "data": table,
        "out": tmp_path / "out",
        "task": "classification",
        "backbone": {"name": "cnn", "spatial_dims": dims, "options": {"channels": [4, 8]}},
        "train": 8,
        "test": 8,
        "steps": 40,
        "batch_size": 4,
        "lr": 1e-2,
        "threads": 1,
        "test_flips": True,
    }
    result = finetune(settings, quiet=True)
    assert Result.open(result.folder) == result
    assert result.scores["auc"] > 0.9
    assert result.scores["balanced_accuracy"] > 0.7
    assert result.scores["chance"] == 0.5
    assert 0 <= result.scores["calibration_error"] <= 1
    names = ["bar", "block"] if multi_label else ["bar", "none"]
    assert list(result.classes) == names
    rows = result.cases()
    assert list(rows[0]) == ["case", "true", "predicted", *(f"p({n})" for n in names)]
    if not multi_label:
        assert all(float(r["p(bar)"]) + float(r["p(none)"]) == pytest.approx(1) for r in rows)
        trained = [int(name[1:]) % 2 for name in result.split["train"]]
        assert sum(trained) == 4, "classes take turns"

    assert Model.load(result.folder).task.multi_label == multi_label
    out = tmp_path / "predicted"
    call = [
        "predict",
        str(result.folder),
        str(tmp_path / "s00.nii.gz"),
        "--out",
        str(out),
        "--json",
    ]
    done = CliRunner().invoke(app, call, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["scans"]
    if "s00" in result.split["test"]:
        (tested,) = [r for r in rows if r["case"] == "s00"]
        assert row["p(bar)"] == pytest.approx(float(tested["p(bar)"]), abs=1e-5)
    assert 0 <= row["p(bar)"] < 0.5, "there is no bar in the first scan"
    if dims == 3 and not multi_label:
        call[2] = str(tmp_path / "s01.nii.gz")
        assert CliRunner().invoke(app, call).exit_code == 0
        lines = (out / "predictions.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in lines] == ["scan", "s00", "s01"]
        repeated = CliRunner().invoke(app, call)
        assert "has predictions of 1 of these scans (s01)" in str(repeated.exception)
        resumed = json.loads(CliRunner().invoke(app, [*call, "--resume"]).stdout)
        assert (resumed["scans"], resumed["skipped"]) == ([], ["s01"])
