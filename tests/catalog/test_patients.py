"""Scans of one patient are known by their paths where headers do not tell."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from situs.catalog.catalog import Catalog, build_catalog
from situs.catalog.patients import one_patient_warning, patient_in
from situs.cli import app
from situs.scans.privacy import digest_patient
from situs.splits.groups import scan_groups
from situs.store import prepare


def save(
    path: Path, seed: int, spacing: float = 1.0, shape: tuple[int, ...] = (10, 11, 12)
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.diag([spacing, 1, 1, 1])), path)


@pytest.mark.parametrize(
    ("path", "subject"),
    [
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01"),
        ("derivatives/x/sub-01/anat/sub-01_desc-y_T2w.nii", "sub-01"),
        ("sub-study/sub-7.nrrd", "sub-7"),
        ("a/sub-7/T1.nii.gz", "sub-7"),
        ("sub-7", "sub-7"),
        ("knee-sub-study/p1.nii.gz", ""),
        ("a/notsub-1_T1w.nii", ""),
        (".", ""),
    ],
)
def test_bids_subjects(path: str, subject: str) -> None:
    assert patient_in(path) == digest_patient(subject)


def test_what_belongs_to_a_patient_is_not_parted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for subject in ("01", "02"):
        for suffix in ("T1w", "T2w"):
            name = f"sub-{subject}_{suffix}.nii.gz"
            save(data / f"sub-{subject}" / "anat" / name, int(subject) * 2 + (suffix == "T1w"))
    for number in range(4):
        save(data / "imagesTr" / f"liver_{number // 2}_000{number % 2}.nii.gz", 10 + number)
    for number in range(11):  # a cohort in one space, and one as it was recorded
        save(data / "cohort" / f"scan_{number:04d}.nii.gz", 20 + number)
    for number in range(3):
        save(data / "native" / f"case_{number:04d}.nii.gz", 40 + number, spacing=1 + 0.1 * number)
    save(data / "four.nii.gz", 50, shape=(10, 11, 12, 3))

    catalog = build_catalog(data, workers=0, volumes="each")
    text = catalog.table().drop(columns="path").to_json()
    assert not any(told in text for told in ("sub-", "liver", "scan_"))
    store = prepare(catalog, tmp_path / "store", workers=0)
    sources = {record["key"]: record["source"] for record in store.records}
    members = defaultdict(list)
    for key, group in scan_groups(store.records).items():
        members[group].append(sources[key])
    together = sorted(sorted(set(m)) for m in members.values() if len(m) > 1)
    assert together == [
        ["four.nii.gz"],
        *([f"imagesTr/liver_{c}_000{i}.nii.gz" for i in (0, 1)] for c in (0, 1)),
        *([f"sub-{s}/anat/sub-{s}_{x}.nii.gz" for x in ("T1w", "T2w")] for s in ("01", "02")),
    ]
    assert len(members) == 5 + 11 + 3


def test_one_identifier_for_all_studies_is_warned_of() -> None:
    told = one_patient_warning([("p", f"study{n % 5}") for n in range(10)])
    assert "5 studies carry one patient identifier" in told
    assert not one_patient_warning([("p", f"study{n % 3}") for n in range(9)])
    assert not one_patient_warning([(f"p{n % 2}", f"study{n}") for n in range(9)])
    assert not one_patient_warning([("", f"study{n}") for n in range(9)])


def test_a_pattern_tells_whose_scans_with_other_names_are(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "catalog.json"
    for seed, name in enumerate(("patient001_ED", "patient001_ES", "patient002_ED", "other")):
        save(data / f"{name}.nii.gz", seed)

    def scanned(pattern: str, *more: str) -> Result:
        return CliRunner().invoke(
            app, ["scan", str(data), "--patient", pattern, "--workers=0", *more]
        )

    told = scanned(r"(patient\d+)_", "--out", str(out))
    assert told.exit_code == 0, told.output
    assert "--patient matches 3 of 4 scans" in told.output
    assert ", patients 3, " in told.output, "one is of nobody known, and so of its own"
    patients = {e.path.split(".")[0]: e.patient for e in Catalog.load(out).accepted}
    first, second = (digest_patient(f"patient00{n}") for n in (1, 2))
    assert patients == {
        "patient001_ED": first,
        "patient001_ES": first,
        "patient002_ED": second,
        "other": "",
    }
    store = prepare(Catalog.load(out), tmp_path / "store", workers=0)
    assert len(set(scan_groups(store.records).values())) == 3
    for pattern, why in (("(", "no regular expression"), ("subject", "matches none of 4 paths")):
        assert why in str(scanned(pattern).exception)
