"""Predictions say whose they are, however often and in whatever order scans are given."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_finetune import threshold_model

from situs.errors import RunError
from situs.scans.discovery import Candidate
from situs.transfer.attribution import named_inputs
from situs.transfer.predict import predict


def patient(path: Path, level: float, slices: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(int(level))
    array = rng.normal(0, 5, (24, 22, slices))
    array[5:15, 5:15, 3:9] += level
    nib.save(nib.Nifti1Image(array.astype(np.float32), np.diag([-1.0, 1, 1.5, 1])), path)
    return path


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        return {row["source"]: row for row in csv.DictReader(stream)}


def depth(out: Path, row: dict[str, str]) -> int:
    return int(nib.load(out / row["file"]).shape[2])


def test_same_names_in_other_folders(tmp_path: Path) -> None:
    """A patient that is added later, and comes first in order, is neither skipped nor mixed up."""
    model, scans, out = threshold_model(), tmp_path / "scans", tmp_path / "out"
    patient(scans / "patient_B" / "ct.nii.gz", 400, 20)
    predict(model, [scans], out)
    first = table(out)["patient_B/ct.nii.gz"]
    patient(scans / "patient_A" / "ct.nii.gz", 300, 16)
    (scans / "broken.nii.gz").write_bytes(b"\x1f\x8bnothing")
    result = predict(model, [scans], out, resume=True)
    assert result.skipped == ["patient_B/ct"]
    rows = table(out)
    assert rows["patient_B/ct.nii.gz"] == first
    assert {s: r["status"] for s, r in rows.items()} == {
        "patient_B/ct.nii.gz": "predicted",
        "patient_A/ct.nii.gz": "predicted",
        "broken.nii.gz": "truncated-file",
    }
    assert depth(out, rows["patient_A/ct.nii.gz"]) == 16
    assert depth(out, rows["patient_B/ct.nii.gz"]) == 20
    # What was refused is tried again, and what was predicted is not, though given otherwise.
    patient(scans / "broken.nii.gz", 500, 12)
    again = predict(model, [scans], out, resume=True)
    assert [row["source"] for row in again.rows] == ["broken.nii.gz"]
    assert predict(model, [scans / "patient_A"], out, resume=True).rows == []


def test_another_scan_under_a_known_name_keeps_both(tmp_path: Path) -> None:
    model, out = threshold_model(), tmp_path / "out"
    a = patient(tmp_path / "A" / "ct.nii.gz", 300, 16)
    b = patient(tmp_path / "B" / "ct.nii.gz", 400, 20)
    predict(model, [a], out)
    with pytest.raises(RunError, match=r"has predictions of 1 of these scans \(ct\)"):
        predict(model, [b], out)
    (row,) = predict(model, [b], out, resume=True).rows
    assert row["scan"] != "ct"
    assert nib.load(out / str(row["file"])).shape[2] == 20
    assert nib.load(out / "ct.nii.gz").shape[2] == 16
    assert len(predict(model, [a], out, resume=True).skipped) == 1
    assert len(predict(model, [b], out, resume=True).skipped) == 1
    both = predict(model, [tmp_path / "A", tmp_path / "B"], out, resume=True)
    assert (both.rows, len(both.skipped)) == ([], 2)


def test_tables_of_earlier_versions_go_on(tmp_path: Path) -> None:
    model, out = threshold_model(), tmp_path / "out"
    scans = [patient(tmp_path / "in" / f"p{n}.nii.gz", 300 + n, 16) for n in range(2)]
    predict(model, scans[:1], out)
    with (out / "predictions.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    kept = {k: v for k, v in row.items() if k not in ("source", "series", "status", "content")}
    (out / "predictions.csv").write_text(",".join(kept) + "\n" + ",".join(kept.values()) + "\n")
    result = predict(model, scans, out, resume=True)
    assert (result.skipped, [r["scan"] for r in result.rows]) == (["p0"], ["p1"])
    assert set(table(out)) == {"", "p1.nii.gz"}


folders = st.sampled_from(["", "a/", "b/", "a/b/", "a_b/"])
files = st.sampled_from(["ct.nii.gz", "ct.mha", "b_ct.nii", "ct-2.nii"])
paths = st.sets(st.tuples(folders, files).map("".join), min_size=1)


@settings(max_examples=60, deadline=None)
@given(paths, st.randoms(use_true_random=False))
def test_names_do_not_depend_on_what_else_is_there(found, random) -> None:
    """But for files that only their suffix tells apart, of which the later is marked."""
    root = Path("nowhere")
    named = {i.source: i.name for i in named_inputs([[Candidate(p)] for p in sorted(found)], root)}
    assert len(set(named.values())) == len(found)
    some = sorted(random.sample(sorted(found), random.randint(1, len(found))))
    alone = {i.source: i.name for i in named_inputs([[Candidate(p)] for p in some], root)}
    for source, name in alone.items():
        twins = [p for p in found if p != source and p.split(".")[0] == source.split(".")[0]]
        assert name == named[source] or twins


def test_copies_are_two_scans(tmp_path: Path) -> None:
    model, scans, out = threshold_model(), tmp_path / "scans", tmp_path / "out"
    one = patient(scans / "a" / "ct.nii.gz", 300, 16)
    (scans / "b").mkdir()
    shutil.copy(one, scans / "b" / "ct.nii.gz")
    assert len(predict(model, [scans], out).rows) == 2
    assert len(predict(model, [scans], out, resume=True).skipped) == 2
