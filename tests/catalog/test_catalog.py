"""The catalog over good, bad and hostile files, and its two file formats."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from crashing import minus_one, minus_two, slow_square, square
from dicom_files import SAGITTAL, common, edit, noise, write_enhanced, write_series
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from typer.testing import CliRunner

from situs.catalog.catalog import Catalog, build_catalog
from situs.catalog.near_duplicates import pairs_alike, thumbnail
from situs.cli import app
from situs.errors import SitusError
from situs.scans.names import escaped, unescaped
from situs.scans.parallel import default_workers, isolated_map
from situs.scans.refusals import REASONS
from situs.store import prepare

runner = CliRunner()


def save(path: Path, seed: int = 0, shape: tuple[int, ...] = (12, 11, 10)) -> np.ndarray:
    array = np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, 2, 3, 1])), path)
    return array


def catalog_of(*paths: Path, **options) -> Catalog:
    return build_catalog(paths, workers=0, **options)


def by_path(catalog: Catalog) -> dict[str, object]:
    return {entry.path: entry for entry in catalog.entries}


@pytest.mark.slow
def test_a_process_that_dies_costs_only_its_item() -> None:
    items = range(1, 16)
    results = dict(isolated_map(square, items, crashed=minus_one, workers=2, chunk=4))
    assert results == {n: -1 if n % 7 == 0 else n * n for n in items}


@pytest.mark.slow
def test_a_process_for_each_core_computes_with_one_thread() -> None:
    """Threads of OpenBLAS in two processes on two cores spun for longer than the scans took."""
    script = (
        "from crashing import minus_one, threads_of_blas as threads\n"
        "from situs.scans.parallel import isolated_map\n"
        "print(threads(0), *isolated_map(threads, [0], crashed=minus_one, workers=1))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    environment |= {"OPENBLAS_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.check_output([sys.executable, "-c", script], text=True, env=environment)
    assert said.strip() == f"{min(2, default_workers())} (0, 1)"


@pytest.mark.slow
def test_an_item_that_hangs_costs_only_itself() -> None:
    # What processes are forked from imports first, which on a busy machine takes longer.
    assert dict(isolated_map(square, [1], crashed=minus_one, workers=1)) == {1: 1}
    items = list(range(1, 16))
    results = dict(
        isolated_map(
            slow_square,
            items,
            crashed=minus_one,
            timed_out=minus_two,
            limit_s=3.0,
            workers=2,
            chunk=4,
        )
    )
    expected = {i: -2 if i % 7 == 0 else -1 if i % 5 == 0 else i * i for i in items}
    assert results == expected


@pytest.mark.slow
def test_a_script_without_a_main_guard_runs_once(tmp_path: Path) -> None:
    for seed in range(3):
        save(tmp_path / "data" / f"{seed}.nii", seed)
    script = tmp_path / "script.py"
    script.write_text(
        "from situs.catalog.catalog import build_catalog\n"
        f"catalog = build_catalog({str(tmp_path / 'data')!r}, workers=1)\n"
        "print('accepted', len(catalog.accepted))\n"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("accepted 3\n", "")


def test_entries_say_what_the_files_hold(tmp_path: Path) -> None:
    array = save(tmp_path / "a" / "sub-1_T1w.nii.gz")
    write_series(tmp_path / "b", noise((8, 9, 10)), SeriesDescription="SAG T2 FS")
    catalog = build_catalog(tmp_path, workers=2)
    nifti, dicom = catalog.entries
    assert (nifti.path, nifti.shape, nifti.spacing) == (
        "a/sub-1_T1w.nii.gz",
        (12, 11, 10),
        (1.0, 2.0, 3.0),
    )
    assert (nifti.orientation, nifti.description, nifti.modality) == ("LAS", "t1", "unknown")
    assert nifti.intensity_min == array.min()
    assert nifti.intensity_p99 == pytest.approx(np.percentile(array, 99))
    assert (dicom.path, dicom.modality, dicom.description) == ("b", "MR", "t2 sag")
    np.testing.assert_array_equal(catalog.read(dicom).array[0], noise((8, 9, 10)))
    np.testing.assert_array_equal(catalog.read(nifti).array[0], array)
    assert catalog.read(nifti).provenance.series == nifti.series
    assert not catalog.refused


def test_every_bad_file_is_refused_by_name_and_the_rest_goes_on(tmp_path: Path) -> None:
    array = save(tmp_path / "good.nii.gz")
    (tmp_path / "empty.nii.gz").touch()
    (tmp_path / "half.nii.gz").write_bytes((tmp_path / "good.nii.gz").read_bytes()[:4000])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "link.nii").symlink_to(tmp_path / "nowhere.nii")
    nib.save(nib.Nifti1Image(array * np.nan, np.eye(4)), tmp_path / "nan.nii")
    nib.save(nib.Nifti1Image(array * 0, np.eye(4)), tmp_path / "flat.nii")
    nib.save(nib.Nifti1Image(array[:, :, :1], np.eye(4)), tmp_path / "thin.nii")
    write_series(tmp_path / "gap", noise((8, 7, 6)))[2].unlink()
    broken = write_series(tmp_path / "broken", noise((8, 7, 6)))[-1]
    broken.write_bytes(broken.read_bytes()[:200])
    catalog = catalog_of(tmp_path)
    assert {e.path: e.reason for e in catalog.refused} == {
        "empty.nii.gz": "empty-file",
        "half.nii.gz": "truncated-file",
        "notes.txt": "not-an-image",
        "picture.png": "not-an-image",
        "link.nii": "missing-file",
        "nan.nii": "non-finite",
        "flat.nii": "constant-image",
        "thin.nii": "one-voxel-thick",
        "gap": "missing-slice",
        f"broken/{broken.name}": "truncated-file",
    }
    assert {e.reason for e in catalog.refused} <= REASONS.keys()
    assert [e.path for e in catalog.accepted] == ["broken", "good.nii.gz"]
    # A stack beside a damaged file may have lost its last slice, and says so.
    assert "may be incomplete" in " ".join(by_path(catalog)["broken"].notes)


def test_companions_of_images_are_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz")
    for name in ("a.json", "a.bval", "README.md", ".DS_Store", "dataset.json", "LICENSE"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "stray.json").write_text("{}")
    report = common(1, 1, "1.2.840.10008.5.1.4.1.1.88.11")
    del report.Rows
    report.Modality = "SR"
    report.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    catalog = catalog_of(tmp_path)
    assert catalog.ignored == 7
    assert [e.path for e in catalog.refused] == ["stray.json"]
    # A file that is named on purpose is never passed over.
    named = catalog_of(tmp_path / "README.md", tmp_path / "a.nii.gz")
    assert [e.path for e in named.refused] == ["README.md"]


def test_series_are_grouped_wherever_their_files_lie(tmp_path: Path) -> None:
    one, two = noise((8, 7, 6), 1), noise((8, 7, 5), 2)
    study = {"StudyInstanceUID": "1.2", "FrameOfReferenceUID": "1.3"}
    write_series(tmp_path / "x", one, names=[f"one{k}" for k in range(6)], **study)
    write_series(tmp_path / "x", two, names=[f"two{k}" for k in range(5)], **study)
    three = write_series(tmp_path / "x" / "deep", noise((8, 7, 4), 3), FrameOfReferenceUID="1.4")
    (tmp_path / "y").mkdir()
    three[0].rename(tmp_path / "y" / "first")
    write_enhanced(tmp_path / "z" / "all.dcm", noise((8, 7, 6), 4))
    catalog = catalog_of(tmp_path)
    found = sorted((e.path, len(e.files), e.shape) for e in catalog.accepted)
    assert found == [
        (".", 4, (8, 7, 4)),
        ("x", 5, (8, 7, 5)),
        ("x", 6, (8, 7, 6)),
        ("z", 0, (8, 7, 6)),
    ]
    read = {
        catalog.read(e).array.shape[-1]: catalog.read(e).array[0] for e in catalog.accepted[1:3]
    }
    np.testing.assert_array_equal(read[6], one)
    np.testing.assert_array_equal(read[5], two)
    assert [len(s) for s in catalog.studies().values()].count(2) == 1
    assert len({e.key for e in catalog.entries}) == 4


def test_series_without_identifiers_are_told_apart_by_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for file in write_series(tmp_path / name, noise((8, 7, 6), ord(name))):
            edit(file, SeriesInstanceUID=None, PatientID="", FrameOfReferenceUID=None)
    catalog = catalog_of(tmp_path)
    assert [e.path for e in catalog.accepted] == ["a", "b"]
    assert [(e.study, e.patient) for e in catalog.accepted] == [("", "")] * 2
    np.testing.assert_array_equal(catalog.read(catalog.accepted[1]).array[0], noise((8, 7, 6), 98))


def test_duplicates_and_near_duplicates(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    smooth = nib.Nifti1Image(np.cumsum(rng.normal(size=(20, 18, 16)), 0), np.diag([2.0, 2, 2, 1]))
    nib.save(smooth, tmp_path / "a.nii.gz")
    shutil.copy(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    array = smooth.get_fdata()
    turned = smooth.as_reoriented(nib.orientations.axcodes2ornt(("P", "S", "L")))
    rescaled = np.round(turned.get_fdata() * 50 + 3000).astype(np.int16)
    nib.save(nib.Nifti1Image(rescaled, turned.affine), tmp_path / "c.nii")
    other = np.cumsum(rng.normal(size=(20, 18, 16)), 0)
    nib.save(nib.Nifti1Image(other, smooth.affine), tmp_path / "d.nii")
    sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.float32).T), str(tmp_path / "e.mha"))
    catalog = catalog_of(tmp_path)
    entries = by_path(catalog)
    first = entries["a.nii.gz"].key
    assert entries["b.nii.gz"].duplicate_of == first
    assert entries["c.nii"].near_duplicate_of == first
    # The same values under another affine are the same scan with a header that was lost.
    assert entries["e.mha"].duplicate_of == first
    assert not entries["d.nii"].near_duplicate_of
    assert [e.path for e in catalog.unique] == ["a.nii.gz", "c.nii", "d.nii"]


def test_copies_with_other_voxels_are_found_but_not_within_a_patient(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scan = ndimage.gaussian_filter(rng.normal(size=(30, 28, 6)), (3, 3, 0)).astype(np.float32)
    fine = ndimage.zoom(scan, (1.25, 1.25, 1), order=1) + rng.normal(0, 0.005, (38, 35, 6))
    noisy = scan + rng.normal(0, scan.std() / 20, scan.shape)
    for name, array in (("sub-1_a", scan), ("sub-1_b", noisy), ("sub-2_a", fine.astype("f4"))):
        nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 8, 1])), tmp_path / f"{name}.nii.gz")
    entries = by_path(catalog_of(tmp_path))
    first = entries["sub-1_a.nii.gz"]
    assert first.patient == entries["sub-1_b.nii.gz"].patient
    assert not entries["sub-1_b.nii.gz"].near_duplicate_of
    assert entries["sub-2_a.nii.gz"].near_duplicate_of == first.key


def test_a_thumbnail_holds_ranks_of_which_equal_values_share_the_mean() -> None:
    scan = np.random.default_rng(0).integers(0, 40, (16, 16, 16))
    wanted = stats.rankdata(scan.ravel()) / scan.size
    assert np.array_equal(thumbnail(scan[None], np.eye(4)), wanted.astype(np.float16))


def test_what_looks_alike_over_several_steps_is_marked_with_the_earliest(tmp_path: Path) -> None:
    """b is like a and c like b, but c not like a; d like none of them."""
    rng = np.random.default_rng(0)
    a, other, d = ndimage.gaussian_filter(rng.normal(size=(3, 24, 24, 24)), (0, 2, 2, 2)) * 100
    chain = {"a": a, "b": a + 0.17 * other, "c": a + 0.34 * other, "d": d}
    pictures = {k: thumbnail(v[None], np.eye(4)) for k, v in chain.items()}
    assert [p[:2] for p in pairs_alike(list(pictures.values()))] == [(0, 1), (1, 2)]
    for name, array in chain.items():
        nib.save(nib.Nifti1Image(array.astype(np.float32), np.eye(4)), tmp_path / f"{name}.nii")
    entries = by_path(catalog_of(tmp_path))
    first = entries["a.nii"].key
    assert [entries[f"{n}.nii"].near_duplicate_of for n in "abcd"] == ["", first, first, ""]


@pytest.mark.parametrize("background", [0, 1, 16, 255])
def test_flat_areas_do_not_make_a_scan_a_label_map(tmp_path: Path, background: int) -> None:
    """Background at any value, and what is saturated, as skull stripping and windows leave it."""
    rng = np.random.default_rng(0)
    scan = np.full((40, 40, 40), background, np.uint8)
    scan[8:32, 8:32, 8:32] = rng.integers(80, 160, (24, 24, 24))
    scan[8:16, 8:16, 8:16] = 254
    nib.save(nib.Nifti1Image(scan, np.eye(4)), tmp_path / "scan.nii.gz")
    labels = np.full((40, 40, 40), background, np.uint8)
    for number, k in enumerate(range(8, 32, 4)):
        labels[8:32, 8:32, k : k + 4] = 20 + number
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "labels.nii.gz")
    nib.save(nib.Nifti1Image(labels // 20, np.eye(4)), tmp_path / "mask.nii.gz")
    reasons = {e.path: e.reason for e in build_catalog(tmp_path, workers=0).entries}
    assert reasons == {"scan.nii.gz": "", "labels.nii.gz": "label-map", "mask.nii.gz": "label-map"}


def test_label_maps_are_left_out(tmp_path: Path) -> None:
    save(tmp_path / "image.nii.gz")
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[4:12, 4:12, 4:12], labels[12:16, 4:12, 4:12] = 1, 2
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "label.nii.gz")
    few = np.random.default_rng(0).integers(0, 9, (20, 20, 20)).astype(np.uint8)
    nib.save(nib.Nifti1Image(few, np.eye(4)), tmp_path / "noisy.nii.gz")
    catalog = catalog_of(tmp_path)
    assert [(e.path, e.reason) for e in catalog.refused] == [("label.nii.gz", "label-map")]


def test_volumes_of_a_time_series(tmp_path: Path) -> None:
    save(tmp_path / "bold.nii.gz", shape=(9, 10, 11, 3))
    assert catalog_of(tmp_path).refused[0].reason == "four-dimensional"
    (first,) = catalog_of(tmp_path, volumes="first").accepted
    each = catalog_of(tmp_path, volumes="each")
    assert first.volume == 0
    assert [e.volume for e in each.accepted] == [0, 1, 2]
    assert first.content == each.accepted[0].content
    array = nib.load(tmp_path / "bold.nii.gz").get_fdata()
    np.testing.assert_allclose(each.read(each.accepted[2]).array[0], array[..., 2])


def test_planes_are_accepted_when_asked_for(tmp_path: Path) -> None:
    write_series(tmp_path / "2ch", noise((8, 7, 1)), SeriesDescription="CINE 2CH")
    write_series(
        tmp_path / "loc", noise((8, 7, 1), 1), directions=SAGITTAL, SeriesDescription="LVOT"
    )
    assert not catalog_of(tmp_path).accepted
    catalog = catalog_of(tmp_path, planes=True)
    assert [e.description for e in catalog.accepted] == ["cine 2ch", "3ch"]
    assert catalog.read(catalog.accepted[0]).shape == (8, 7, 1)


@pytest.mark.parametrize("name", ["folder", "one.parquet", "one.json"])
def test_saved_catalogs_come_back_equal(tmp_path: Path, name: str) -> None:
    save(tmp_path / "data" / "a.nii.gz")
    (tmp_path / "data" / "b.txt").write_text("x")
    write_series(tmp_path / "data" / "c", noise((8, 7, 6)))
    catalog = catalog_of(tmp_path / "data")
    catalog.save(tmp_path / "out" / name)
    loaded = Catalog.load(tmp_path / "out" / name)
    assert loaded == catalog
    (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(SitusError, match="no longer at"):
        loaded.read(loaded.accepted[0])
    moved = Catalog.load(tmp_path / "out" / name, root=tmp_path / "moved")
    assert moved.read(moved.accepted[0]).shape == (12, 11, 10)
    for file in (tmp_path / "out").rglob("*.*"):
        if file.suffix in (".parquet", ".json"):
            assert str(tmp_path).encode() not in file.read_bytes()
    if name == "folder":
        frame = pd.read_parquet(tmp_path / "out" / name / "catalog.parquet")
        assert list(frame.columns) == list(catalog.table().columns)
        assert frame["reason"].tolist() == ["", "not-an-image", ""]


@given(st.text(st.sampled_from("\\u00e9dc/a\udce9\ud800\x1bé")))
@settings(deadline=None, max_examples=200)
def test_spelt_out_names_are_safe_and_come_back(name: str) -> None:
    text = escaped(name)
    assert unescaped(text) == name
    assert text.isprintable()
    text.encode()
    assert escaped("Müller ✓.nii.gz") == "Müller ✓.nii.gz"


def test_names_that_are_not_utf8_are_used_and_refused_as_others(tmp_path: Path) -> None:
    data = tmp_path / "data"
    array = save(data / "a.nii.gz")
    write_series(data / "b", noise((8, 7, 6)))
    write_series(data / "several", noise((8, 7, 7)))
    sitk.WriteImage(sitk.GetImageFromArray(array), data / "c.nrrd")
    (data / "d.nii").write_bytes(b"x")
    try:
        for name in ("a.nii.gz", "b", "c.nrrd", "d.nii"):
            (data / name).rename(data / os.fsdecode(b"M\xfcller " + name.encode()))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    for file in list((data / "several").iterdir()):
        file.rename(data / os.fsdecode(b"M\xfcller b") / os.fsdecode(b"\xe9" + file.name.encode()))

    run = runner.invoke(app, ["scan", str(data), "--workers", "0", "--out", str(tmp_path / "out")])
    assert run.exit_code == 1, run.output
    catalog = Catalog.load(tmp_path / "out")
    assert catalog == Catalog.load(tmp_path / "out" / "catalog.json")
    odd = "M\\udcfcller "
    assert [e.path for e in catalog.accepted] == [odd + "a.nii.gz", odd + "b", odd + "b"]
    assert {e.path: e.reason for e in catalog.refused} == {
        odd + "c.nrrd": "unreadable-file",
        odd + "d.nii": "truncated-file",
    }
    np.testing.assert_array_equal(catalog.read(catalog.accepted[0]).array[0], array)
    assert sorted(catalog.read(e).shape for e in catalog.accepted[1:]) == [(8, 7, 6), (8, 7, 7)]
    made = prepare(tmp_path / "out", tmp_path / "store", workers=0)
    assert [r["source"] for r in made.records] == [e.path for e in catalog.accepted]


def test_what_is_no_catalog_is_named(tmp_path: Path) -> None:
    with pytest.raises(SitusError, match="no catalog at"):
        Catalog.load(tmp_path / "absent")
    (tmp_path / "a.json").write_text('{"entries": [{"key": 1}]}')
    with pytest.raises(SitusError, match="is no catalog"):
        Catalog.load(tmp_path / "a.json")
    with pytest.raises(SitusError, match="does not lie below"):
        build_catalog(tmp_path, root=tmp_path / "elsewhere")


def test_real_data(shared_data: Path) -> None:
    catalog = catalog_of(shared_data / "dicom", shared_data / "nifti")
    assert [len(s) for s in catalog.studies().values()] == [5]
    assert len(catalog.accepted) == 7
    assert not catalog.refused
    assert {e.path for e in catalog.accepted} >= {
        "nifti/CT_AVM.nii.gz",
        "dicom/study-003/11_HCropVolume",
    }


class TestCommand:
    """``situs scan``."""

    def scan(self, *arguments: object) -> tuple[int, str]:
        result = runner.invoke(app, ["scan", *map(str, arguments), "--workers", "0"])
        return result.exit_code, result.output

    def test_exit_codes(self, tmp_path: Path) -> None:
        save(tmp_path / "a.nii.gz")
        code, text = self.scan(tmp_path, "--out", tmp_path / "catalog")
        assert code == 0
        assert "12×11×10" in text
        # The catalog inside the scanned folder is not taken for a bad scan the next time.
        assert self.scan(tmp_path, "--out", tmp_path / "catalog")[0] == 0
        (tmp_path / "[b].txt").write_text("x")
        code, text = self.scan(tmp_path, "--out", tmp_path / "catalog")
        assert code == 1
        assert "[b].txt" in text
        assert "not-an-image" in text
        assert self.scan(tmp_path / "[b].txt")[0] == 2

    def test_json_is_one_document(self, tmp_path: Path) -> None:
        save(tmp_path / "a.nii.gz")
        (tmp_path / "b.txt").write_text("x")
        code, text = self.scan(tmp_path, "--json")
        document = json.loads(text)
        assert code == 1
        assert document["accepted"] == document["refused"] == 1
        assert document["entries"][0]["shape"] == [12, 11, 10]

    def test_prepare_makes_a_store_of_a_catalog(self, tmp_path: Path) -> None:
        for seed in range(2):
            save(tmp_path / "data" / f"{seed}.nii.gz", seed)
        self.scan(tmp_path / "data", "--out", tmp_path / "catalog")
        prepare = ["prepare", str(tmp_path / "catalog"), "--out", str(tmp_path / "store")]
        prepare += ["--spacing", "1,2,2", "--workers", "0"]
        result = runner.invoke(app, prepare)
        assert result.exit_code == 0, result.output
        assert "2 scans in" in result.output
        document = json.loads(runner.invoke(app, [*prepare, "--json"]).output)
        assert (document["scans"], document["rules"]["spacing"]) == (2, [1.0, 2.0, 2.0])
        # Settings that differ are not silently taken for the same store.
        assert isinstance(
            runner.invoke(app, [*prepare, "--set", "crop=false"]).exception, SitusError
        )


TELLING = {
    "PatientName": "Kowalska^Wanda",
    "PatientID": "PESEL80010112345",
    "PatientBirthDate": "19800101",
    "StudyDate": "20240229",
    "AccessionNumber": "ACC99887766",
    "InstitutionName": "Hospital Sankt Veit",
    "ReferringPhysicianName": "Doktor^Zufall",
    "StudyDescription": "FU nach OP Glioblastom",
    "SeriesDescription": "T1 post Kowalska [blink]x[/blink]",
    "ProtocolName": "Hirn Zufall",
    "PatientComments": "lives in Lodz",
    "StudyInstanceUID": "1.2.826.777.1",
    "SeriesInstanceUID": "1.2.826.777.2",
    "FrameOfReferenceUID": "1.2.826.777.3",
}


def test_identifiers_appear_nowhere(tmp_path: Path, caplog, recwarn) -> None:
    good = write_series(tmp_path / "data" / "good", noise((8, 7, 6)), **TELLING)
    bad = write_series(tmp_path / "data" / "bad", noise((8, 7, 6), 1), **TELLING)
    for file in bad:
        edit(file, SeriesInstanceUID="1.2.826.777.4", ImageOrientationPatient=[1, 0, 0, 1, 0, 0])
    # A value that pydicom would warn about, quoting it.
    raw = good[0].read_bytes().replace(b"1.2.826.777.3", b"1.2.826.777.\xff")
    (tmp_path / "data" / "odd").mkdir()
    (tmp_path / "data" / "odd" / "odd.dcm").write_bytes(raw)
    recwarn.clear()
    saved = tmp_path / "catalog"
    result = runner.invoke(
        app, ["scan", str(tmp_path / "data"), "--out", str(saved), "--workers", "0"]
    )
    assert result.exit_code == 1
    catalog = Catalog.load(saved)
    (accepted,) = catalog.accepted
    scan = catalog.read(accepted)
    assert accepted.description == "t1 post"
    texts = [result.output, repr(catalog), repr(scan), repr(scan.provenance), caplog.text]
    texts += [str(e.detail) for e in catalog.refused] + [str(w.message) for w in recwarn]
    texts += [f.read_text(errors="replace") for f in saved.iterdir()]
    assert pydicom.dcmread(good[1]).PatientID == TELLING["PatientID"]
    for word in _telling_words():
        for text in texts:
            assert word.lower() not in text.lower()


def _telling_words() -> list[str]:
    words = [word for value in TELLING.values() for word in value.replace("^", " ").split()]
    return [w for w in words if len(w) > 3 and w.lower() not in ("post",)]


def test_text_burnt_into_pixels_is_told_and_can_be_refused(tmp_path: Path) -> None:
    """One slice that says so is enough; a scan that does not say so is as before."""
    for name, flagged in (("plain", None), ("flagged", 3)):
        files = write_series(tmp_path / "dicom" / name, noise((9, 8, 6), seed=len(name)))
        for number, file in enumerate(files):
            edit(file, BurnedInAnnotation="YES" if number == flagged else "NO")
    asked = ["scan", str(tmp_path / "dicom"), "--workers", "0"]
    told = runner.invoke(app, [*asked, "--out", str(tmp_path / "catalog")])
    assert told.exit_code == 0, told.output
    assert "text is burnt into the pixels of 1 scan, " in told.stderr
    assert "flagged" in told.stderr
    assert "plain" not in told.stderr
    for suffix in ("json", "parquet"):
        loaded = Catalog.load(tmp_path / "catalog" / f"catalog.{suffix}")
        assert {e.path.rpartition("/")[2]: e.burned_in for e in loaded.accepted} == {
            "flagged": True,
            "plain": False,
        }
    kept = runner.invoke(app, [*asked, "--burned-in", "refuse", "--json"])
    assert kept.exit_code == 1
    found = json.loads(kept.stdout)
    assert [(e["path"], e["reason"]) for e in found["entries"] if e["reason"]] == [
        ("flagged", "burned-in")
    ]
    bad = runner.invoke(app, [*asked, "--burned-in", "mask"])
    assert "must be accept or refuse, got 'mask'" in bad.stderr
    making = ["prepare", str(tmp_path / "catalog"), "--out", str(tmp_path / "store")]
    ready = runner.invoke(app, [*making, "--workers", "0"])
    assert ready.exit_code == 0, ready.output
    assert "text is burnt into the pixels of 1 scan, " in " ".join(ready.stderr.split())
