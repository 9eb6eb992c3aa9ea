"""``situs predict``: ensembles, settings, probabilities, shards, and DICOM-SEG."""

from __future__ import annotations

import csv
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from collections_made import write_collection
from dicom_files import noise, write_series
from scipy.spatial import cKDTree
from typer.testing import CliRunner

from situs.backbones import BackboneConfig
from situs.cli import app
from situs.errors import ConfigError, RunError, TransferError
from situs.scans.read import read_scan
from situs.store import preprocess, restore
from situs.transfer.model import Model, Task, assemble
from situs.transfer.predict import predict
from situs.weights import Card

BACKBONE = BackboneConfig(name="cnn", options={"channels": [4, 8]})


def saved(folder: Path, seed: int, **task: Any) -> Path:
    """A result folder's model with random weights, whose classes each win somewhere."""
    torch.manual_seed(seed)
    names = task.pop("classes", {0: "background", 1: "ball", 5: "hole"})
    told = {
        "kind": "segmentation",
        "classes": names,
        "patch_size": (16, 16, 8),
        "preprocessing": {"spacing": "native"},
        "overlap": 0.25,
        **task,
    }
    network = assemble(BACKBONE, told["kind"], len(names))
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter.mul_(20)
    (folder / "model").mkdir(parents=True)
    Model(network, Task(**told), Card(backbone=BACKBONE)).save(folder / "model")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    coarse = {"spacing": (2.0, 2.0, 2.0)}
    made = [saved(folder / f"fold{seed}", seed) for seed in (0, 1)]
    return [*made, saved(folder / "fold2", 2, preprocessing=coarse)]


def call(*arguments: str | Path, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done


def alone(model: Path, file: Path, **task: Any) -> np.ndarray:
    """Class probabilities of one model on the scan's own grid, without what `predict` does."""
    loaded = Model.load(model)
    loaded.task = loaded.task.model_copy(update=task)
    prepared = preprocess(read_scan(file), loaded.task.preprocessing)
    return restore(loaded.probabilities(prepared), prepared)


def test_folds_are_averaged_on_the_scans_own_grid(
    models: list[Path], collection: Path, tmp_path: Path
) -> None:
    file = collection / "images" / "case-0.nii.gz"
    others = [f"--ensemble={model}" for model in models[1:]]
    out = tmp_path / "out"
    call("predict", models[0], file, *others, "--probabilities", "--set", "overlap=0.5",
         "--set", "flip_axes=[1]", "--out", out)  # fmt: skip
    changed = {"overlap": 0.5, "flip_axes": (1,)}
    expected = np.mean([alone(model, file, **changed) for model in models], axis=0)
    image = nib.load(out / "probabilities" / "case-0.nii.gz")
    found = np.moveaxis(image.get_fdata(), -1, 0)
    inside = expected.sum(0) > 0.999  # of all models: what one cut off as air is background
    assert inside.mean() > 0.5
    np.testing.assert_allclose(found[:, inside], expected[:, inside], atol=1e-5)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(image.affine, nib.load(file).affine, atol=1e-4)
    labels = nib.load(out / "case-0.nii.gz").get_fdata()
    assert np.array_equal(labels, np.array([0, 1, 5])[found.argmax(0)])
    assert len(np.unique(labels)) > 1
    record = json.loads((out / "predict.json").read_text())
    assert [name.split()[0] for name in record["models"]] == ["fold0", "fold1", "fold2"]
    assert record["settings"] == {"overlap": 0.5, "flip_axes": [1], "patch_size": None}


def test_models_and_settings_that_do_not_fit(
    models: list[Path], collection: Path, tmp_path: Path
) -> None:
    file, out = collection / "images" / "case-0.nii.gz", tmp_path / "out"
    other = saved(tmp_path / "other", 3, classes={0: "background", 1: "kidney_left"})
    with pytest.raises(TransferError, match="they differ in classes"):
        predict([models[0], other], [file], out)
    with pytest.raises(ConfigError, match="class 'kidney_left' has a side"):
        predict(other, [file], out, settings={"flip_axes": (0,)})
    with pytest.raises(ConfigError, match="next usable size is"):
        predict(models[0], [file], out, settings={"patch_size": (15, 16, 16)})
    with pytest.raises(ConfigError, match="did you mean 'overlap'"):
        predict(models[0], [file], out, settings={"overlaps": 0.5})
    for wrong in ((0, 2), (3, 2)):
        with pytest.raises(ConfigError, match="from 1/N to N/N"):
            predict(models[0], [file], out, shard=wrong)
    assert "--shard must be K/N" in str(call(
        "predict", models[0], file, "--out", out, "--shard", "two", code=1).exception)  # fmt: skip
    kind = saved(tmp_path / "kind", 4, kind="classification")
    with pytest.raises(ConfigError, match=r"predictions\.csv holds the probabilities"):
        predict(kind, [file], out, probabilities=True)
    assert not out.exists()

    predict(models[0], [file], out)
    second = collection / "images" / "case-1.nii.gz"
    with pytest.raises(RunError, match="made with other settings; choose another folder"):
        predict(models[0], [second], out, settings={"overlap": 0.5})
    with pytest.raises(RunError, match="made with other models"):
        predict(models[1], [file, second], out, resume=True)
    predict(models[1], [file], out, overwrite=True)  # nothing of the other is left


def test_what_was_to_be_replaced_is_none_of_the_new_models(
    models: list[Path], collection: Path, tmp_path: Path
) -> None:
    """A call with ``overwrite`` that is stopped names one with ``resume`` as the one to go on."""
    file, out = collection / "images" / "case-0.nii.gz", tmp_path / "out"
    predict(models[0], [file], out)
    other = nib.load(out / "case-0.nii.gz").get_fdata()

    def stopped(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(models[1], [file], out, overwrite=True, progress=stopped)
    with pytest.raises(RunError, match="has predictions of 1 of these scans"):
        predict(models[1], [file], out)
    again = predict(models[1], [file], out, resume=True)
    assert ([row["scan"] for row in again.rows], again.skipped) == (["case-0"], [])
    assert not np.array_equal(nib.load(out / "case-0.nii.gz").get_fdata(), other)


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as stream:
        return {row["scan"]: row for row in csv.DictReader(stream)}


def test_shards_resume_and_come_together(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = write_collection(tmp_path / "data", cases=5) / "images"
    (scans / "empty.nii.gz").write_bytes(b"")
    whole, out = tmp_path / "whole", tmp_path / "out"
    call("predict", models[0], scans, "--out", whole, code=1)
    for shard in ("3/3", "1/3"):
        code = int(shard == "3/3")  # the sixth is no scan
        call("predict", models[0], scans, "--out", out, "--shard", shard, "--resume", code=code)
    assert set(rows(out)) == {"case-0", "case-2", "case-3", "empty"}

    write = import_module("situs.transfer.predict").write_labels

    def killed(path: Path, *rest: Any) -> None:
        write(path, *rest)
        if path.name == "case-4.nii.gz":
            raise KeyboardInterrupt

    monkeypatch.setattr("situs.transfer.predict.write_labels", killed)
    with pytest.raises(KeyboardInterrupt):
        predict(models[0], [scans], out, shard=(2, 3), resume=True)
    monkeypatch.undo()
    last = predict(models[0], [scans], out, shard=(2, 3), resume=True)
    assert (last.skipped, [row["scan"] for row in last.rows]) == (["case-1"], ["case-4"])
    assert rows(out) == rows(whole)
    assert predict(models[0], [scans], out, resume=True).rows == []
    for case in range(5):
        name = f"case-{case}.nii.gz"
        assert np.array_equal(nib.load(out / name).get_fdata(), nib.load(whole / name).get_fdata())


@pytest.mark.parametrize("step", [2.5, -2.5], ids=["along", "against"])
def test_dicom_seg_lies_where_the_labels_lie(
    step: float, models: list[Path], collection: Path, tmp_path: Path
) -> None:
    pytest.importorskip("highdicom", reason="needs the extra 'dicom'")
    voxels = noise((18, 14, 9))
    tilted = ((0.0, 0.98228725, -0.18738131), (-1.0, 0.0, 0.0))
    write_series(tmp_path / "scans" / "study", voxels, directions=tilted, step=step)
    shared = collection / "images" / "case-0.nii.gz"
    out = tmp_path / "out"
    done = call("predict", models[0], tmp_path / "scans", shared, "--dicom-seg", "--out", out,
                "--json", code=1)  # fmt: skip
    (refused,) = json.loads(done.stdout)["refused"]
    assert (refused["scan"], refused["reason"]) == ("case-0.nii.gz", "not-dicom")
    (row,) = [r for r in rows(out).values() if r["status"] == "predicted"]
    image = nib.load(out / row["file"])
    labels = np.asarray(image.dataobj)
    (file,) = (out / "dicom-seg").iterdir()
    assert file.name.removesuffix(".dcm") == row["file"].removesuffix(".nii.gz")
    seg = pydicom.dcmread(file)
    source = pydicom.dcmread(next((tmp_path / "scans" / "study").iterdir()))
    assert (seg.Modality, seg.PatientID) == ("SEG", "test-1")
    assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
    named = {s.SegmentNumber: s.SegmentLabel for s in seg.SegmentSequence}
    assert named == {1: "ball", 2: "hole"}
    found = points(seg)
    for number, value in ((1, 1), (2, 5)):
        index = np.argwhere(labels == value)
        assert len(index) > 20
        expected = nib.affines.apply_affine(image.affine, index)
        assert len(found[number]) == len(expected)
        distance, _ = cKDTree(expected).query(found[number])
        assert distance.max() < 1e-3
    again = tmp_path / "again"
    call("predict", models[0], tmp_path / "scans", "--dicom-seg", "--out", again)
    (same,) = (again / "dicom-seg").iterdir()
    assert pydicom.dcmread(same).SOPInstanceUID == seg.SOPInstanceUID


def points(seg: pydicom.Dataset) -> dict[int, np.ndarray]:
    """Segment → places of its pixels in RAS mm, from each frame's own header."""
    pixels = np.atleast_3d(seg.pixel_array)
    pixels = pixels.reshape(seg.NumberOfFrames, seg.Rows, seg.Columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    row, column = np.reshape(
        shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)
    ).astype(float)
    between = np.asarray(shared.PixelMeasuresSequence[0].PixelSpacing, dtype=float)
    found: dict[int, list[np.ndarray]] = {}
    for frame, group in zip(pixels, seg.PerFrameFunctionalGroupsSequence, strict=True):
        origin = np.asarray(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        r, c = np.nonzero(frame)
        lps = origin + r[:, None] * between[0] * column + c[:, None] * between[1] * row
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found.setdefault(number, []).append(lps * [-1, -1, 1])
    return {number: np.concatenate(parts) for number, parts in found.items()}


def test_label_maps_are_predicted_and_told(
    models: list[Path], collection: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predict(models[0], [collection / "images" / "case-0.nii.gz"], tmp_path / "scans")
    assert not caplog.messages
    made = predict(models[0], [collection / "labels"], tmp_path / "labels")
    count = len(list((collection / "labels").iterdir()))
    assert (len(made.rows), made.refused) == (count, [])
    first, last = caplog.messages
    assert first.startswith("case-0 has few values in large patches, as a label map has")
    assert last.startswith(f"{count} scans look like label maps: case-0, case-1")
