from __future__ import annotations

import csv
import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own examples call it so
import torch
from collections_made import write_collection
from torch import Tensor, nn
from typer.testing import CliRunner

import situs
from situs.backbones import BackboneConfig, build
from situs.cli import app
from situs.datasets.dataset import DatasetError
from situs.errors import ConfigError, RunError, ScanRefused, TransferError
from situs.transfer import Cohort, FinetuneConfig, Model, Result, Task, finetune
from situs.transfer.predict import predict
from situs.weights import Card, load_encoder, save_weights

SMALL = {"name": "cnn", "options": {"channels": [4, 8]}}
QUICK: dict[str, Any] = {
    "backbone": SMALL,
    "train": 2,
    "test": 2,
    "steps": 3,
    "patch_size": [16, 16, 8],
    "threads": 1,
}


@pytest.fixture(scope="module")
def cohort(collection: Path) -> Cohort:
    return Cohort.open(collection)


@pytest.fixture
def run(tmp_path: Path, cohort: Cohort) -> Path:
    """What a pretraining leaves behind."""
    torch.manual_seed(1)
    config = BackboneConfig.model_validate(SMALL)
    card = Card(
        backbone=config,
        method="spatial",
        preprocessing=cohort.preprocessing.model_dump(mode="json"),
        decoder_trained=True,
    )
    save_weights(tmp_path / "run" / "checkpoints" / "best", build(config), card)
    return tmp_path / "run"


def go(collection: Path, out: Path, cohort: Cohort | None = None, **changes: Any) -> Result:
    values = {**QUICK, "data": collection, "out": out, **changes}
    if values.get("init", "none") != "none":
        values["backbone"] = None
    return finetune(values, cohort=cohort, quiet=True)


def test_same_seed_same_numbers(collection: Path, cohort: Cohort, tmp_path: Path) -> None:
    first = go(collection, tmp_path / "a", cohort)
    torch.rand(3)  # whatever else draws must not matter
    again = go(collection, tmp_path / "b", cohort, workers=2)  # nor may who draws
    other = go(collection, tmp_path / "c", cohort, seed=1, train=first.split["train"])
    assert first.scores == again.scores
    weights = [load_encoder(r.folder).state_dict() for r in (first, again, other)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not all(torch.equal(weights[0][k], weights[2][k]) for k in weights[0])


def test_result_folder(collection: Path, cohort: Cohort, tmp_path: Path) -> None:
    result = go(collection, tmp_path / "out", cohort, validation=1, validate_every=2)
    assert sorted(str(p.relative_to(result.folder)) for p in result.folder.rglob("*.*")) == [
        "cases.csv",
        "config.yaml",
        "metrics.csv",
        "model/card.json",
        "model/decoder.safetensors",
        "model/encoder.safetensors",
        "model/head.safetensors",
        "model/task.json",
        "observation.obs",
        *sorted(f"predictions/{name}.nii.gz" for name in result.split["test"]),
        "result.json",
    ]
    assert Result.open(result.folder) == result
    assert result.best_step in (2, 3)
    rows = result.cases()
    assert [r["case"] for r in rows] == [c for c in result.split["test"] for _ in range(2)]
    mean = np.nanmean([[float(r["dice"]) for r in rows if r["label"] == k] for k in "12"])
    assert result.scores["dice"] == pytest.approx(mean)
    metrics = (result.folder / "metrics.csv").read_text().splitlines()
    assert metrics[0] == "step,loss/dice,loss/ce,loss/total,lr,seconds,score/validation"
    with pytest.raises(RunError, match="is not empty"):
        go(collection, tmp_path / "out", cohort)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear to me")
    with pytest.raises(RunError, match="no result of situs"):
        go(collection, tmp_path / "mine", cohort, overwrite=True)
    for needed in ({"init": str(tmp_path / "out" / "model")}, {"data": tmp_path / "out"}):
        with pytest.raises(RunError, match=r"overwriting .* would delete"):
            go(collection, tmp_path / "out", cohort, overwrite=True, **needed)
    assert Result.open(result.folder) == result


def test_pretrained_parts_arrive_and_frozen_ones_stay(
    collection: Path, cohort: Cohort, tmp_path: Path, run: Path
) -> None:
    before = load_encoder(run)
    frozen = go(collection, tmp_path / "a", cohort, init=str(run), freeze_encoder=True)
    after = load_encoder(frozen.folder)
    for name, tensor in before.encoder_state().items():
        assert torch.equal(tensor, after.encoder_state()[name]), name
    moved = [
        not torch.equal(t, after.decoder_state()[k]) for k, t in before.decoder_state().items()
    ]
    assert any(moved)
    assert frozen.ledger is not None
    assert (frozen.ledger.encoder_share, frozen.ledger.share("decoder")) == (1, 1)
    assert frozen.method == "spatial"
    assert frozen.parameters["trained"] < frozen.parameters["total"]

    # While the head warms up nothing that was pretrained moves, then everything does.
    warm = {"init": str(run), "head_warmup_steps": 3}
    resting = load_encoder(go(collection, tmp_path / "b", cohort, **warm).folder)
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, resting.state_dict()[name]), name
    awake = load_encoder(go(collection, tmp_path / "c", cohort, **warm, steps=6).folder)
    assert not torch.equal(next(before.encoder.parameters()), next(awake.encoder.parameters()))


def test_weights_that_do_not_fit_cost_no_earlier_result(
    collection: Path, cohort: Cohort, tmp_path: Path, run: Path
) -> None:
    result = go(collection, tmp_path / "out", cohort)
    card = json.loads((run / "checkpoints" / "best" / "card.json").read_text())
    card["backbone"]["options"] = {"channels": [6, 10]}
    (run / "checkpoints" / "best" / "card.json").write_text(json.dumps(card))
    with pytest.raises(TransferError, match="none of the weights fit"):
        go(collection, tmp_path / "out", cohort, init=str(run), overwrite=True)
    assert Result.open(result.folder) == result


def test_what_fails_after_training_costs_no_training(
    tmp_path: Path, cohort: Cohort, collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_collection(tmp_path / "data", cases=3)
    parts = {"train": ["case-0"], "validation": ["case-1"], "test": ["case-2"]}
    for bad in ("case-1", "case-2"):
        file = data / "labels" / f"{bad}.nii.gz"
        whole = file.read_bytes()
        label = nib.load(file)
        nib.save(nib.Nifti1Image(np.asarray(label.dataobj)[:-1], label.affine), file)
        with pytest.raises(ScanRefused, match=rf"{bad}\.nii\.gz: .*shape"):
            go(data, tmp_path / "refused", Cohort.open(data), **parts)
        assert not (tmp_path / "refused").exists(), "refused before anything was trained"
        file.write_bytes(whole)

    def fails(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(import_module("situs.transfer.finetune"), "evaluate", fails)
    with pytest.raises(MemoryError):
        go(collection, tmp_path / "out", cohort)
    assert Model.load(tmp_path / "out").task.patch_size == (16, 16, 8)


def test_predicting_reads_values_as_training_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Soft tissue without air: only the data set says that these are Hounsfield units.
    data = write_collection(tmp_path / "data", cases=3)
    names = [f"case-{n}" for n in range(3)]
    for name in names:
        scan = nib.load(data / "images" / f"{name}.nii.gz")
        ct = np.clip((np.asarray(scan.dataobj) - 500) / 2, -140, 250)
        for channel in range(2):
            file = data / "imagesTr" / f"{name}_{channel:04d}.nii.gz"
            file.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(ct, scan.affine), file)
    (data / "labels").rename(data / "labelsTr")
    description = {"channel_names": {"0": "CT", "1": "PET"}}
    description["labels"] = {"background": 0, "ball": 1, "hole": 2}
    (data / "dataset.json").write_text(json.dumps(description))
    result = go(data, tmp_path / "out", train=2, test=1)
    model = Model.load(result.folder)
    assert model.task.modalities == ("CT", "PT")
    assert model.task.intensity == ("hounsfield", "relative")
    seen = []
    prepare = import_module("situs.transfer.ensemble").preprocess

    def watched(*args: Any, **settings: Any) -> Any:
        seen.append(prepare(*args, **settings))
        return seen[-1]

    monkeypatch.setattr("situs.transfer.ensemble.preprocess", watched)
    predict(model, [data / "imagesTr"], tmp_path / "predicted")
    assert [prepared.intensity for prepared in seen] == [("hounsfield", "relative")] * 3
    assert abs(seen[0].array[0]).max() <= 0.25
    (tested,) = result.split["test"]
    written = [
        f / f"{tested}.nii.gz" for f in (result.folder / "predictions", tmp_path / "predicted")
    ]
    before, after = (nib.load(file).get_fdata() for file in written)
    assert np.array_equal(before, after)


def test_early_stopping_keeps_the_best_weights(
    collection: Path, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.7, 0.6, 0.6, 0.9])
    seen: list[Tensor] = []

    def score(model: Model, cases: object) -> float:
        seen.append(model.network.head.weight.detach().clone())
        return next(scores)

    monkeypatch.setattr(import_module("situs.transfer.finetune"), "validation_score", score)
    changes = {"steps": 50, "validation": 1, "validate_every": 2, "patience": 2}
    result = go(collection, tmp_path / "out", cohort, **changes)
    assert (result.best_step, result.validation_score, len(seen)) == (4, 0.7, 4)
    assert torch.equal(Model.load(result.folder).network.head.weight, seen[1])


class Threshold(nn.Module):
    """Bright is 1, dark is 2: a model that is right, so that only geometry can be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(1, keepdim=True)
        return torch.cat([2 * self.unit * torch.ones_like(x), x, -x], 1) * 50


@pytest.mark.parametrize("slice_axis", [None, 1])
@pytest.mark.parametrize("spacing", ["native", (1.5, 1.0, 1.3)])
def test_predictions_lie_where_the_scan_lies(
    collection: Path, tmp_path: Path, spacing: Any, slice_axis: int | None
) -> None:
    task = Task(
        kind="segmentation",
        classes={0: "background", 1: "ball", 5: "hole"},
        patch_size=(16, 16, 16) if slice_axis is None else (16, 16),
        slice_axis=slice_axis,
        preprocessing={"spacing": spacing},
    )
    model = Model(Threshold(), task, Card(backbone=BackboneConfig()))  # type: ignore[arg-type]
    result = predict(model, [collection / "images"], tmp_path)
    assert len(result.rows) == 6
    for file in sorted((collection / "images").iterdir()):
        scan, written = sitk.ReadImage(str(file)), sitk.ReadImage(str(tmp_path / file.name))
        assert written.GetSize() == scan.GetSize()
        for what in ("GetOrigin", "GetSpacing", "GetDirection"):
            np.testing.assert_allclose(getattr(written, what)(), getattr(scan, what)(), atol=1e-3)
        # SimpleITK puts the prediction back onto the input by its header alone.
        back = sitk.Resample(written, scan, sitk.Transform(), sitk.sitkNearestNeighbor)
        truth = sitk.ReadImage(str(collection / "labels" / file.name))
        p, t = (sitk.GetArrayFromImage(image) for image in (back, truth))
        for value, label in ((1, 1), (5, 2)):
            dice = (
                2 * ((p == value) & (t == label)).sum() / ((p == value).sum() + (t == label).sum())
            )
            assert dice > (0.98 if spacing == "native" else 0.9)


def threshold_model(channels: int = 1) -> Model:
    task = Task(
        kind="segmentation",
        classes={0: "background", 1: "ball", 5: "hole"},
        patch_size=(16, 16, 16),
        preprocessing={"spacing": "native"},
    )
    backbone = BackboneConfig(in_channels=channels)
    return Model(Threshold(), task, Card(backbone=backbone))  # type: ignore[arg-type]


def test_channels_in_files_of_their_own(collection: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    files = sorted((collection / "images").iterdir())
    for name, file in zip(
        ("p0_0000", "p0_0001", "p1_0000"), (*files[:1] * 2, files[1]), strict=True
    ):
        (scans / f"{name}.nii.gz").symlink_to(file)
    both = nib.load(files[2])
    doubled = np.stack([both.get_fdata(dtype=np.float32)] * 2, -1)
    nib.save(nib.Nifti1Image(doubled, both.affine), scans / "p2_0000.nii.gz")
    moved = nib.Nifti1Image(both.get_fdata(dtype=np.float32), np.diag([1.0, 1, 1, 1]))
    nib.save(moved, scans / "p3_0001.nii.gz")
    (scans / "p3_0000.nii.gz").symlink_to(files[3])
    result = predict(threshold_model(channels=2), [scans], tmp_path / "out")
    assert [row["scan"] for row in result.rows] == ["p0", "p2_0000"]
    assert [(e.path.name, e.reason) for e in result.refused] == [
        ("p3_0001.nii.gz", "channel-geometry"),
        ("p1_0000.nii.gz", "channel-count"),
    ]
    single = predict(threshold_model(), files[:1], tmp_path / "single")
    assert result.rows[0]["ball (ml)"] == single.rows[0]["ball (ml)"]


@pytest.mark.parametrize("ask", ["folder", "file", "link"])
def test_predictions_never_take_the_place_of_their_scans(
    ask: str, collection: Path, tmp_path: Path
) -> None:
    scans, link = tmp_path / "scans", tmp_path / "link"
    shutil.copytree(collection / "images", scans)
    link.symlink_to(scans)
    before = {file.name: file.read_bytes() for file in scans.iterdir()}
    given = [sorted(scans.iterdir())[0] if ask == "file" else scans]
    with pytest.raises(RunError, match="holds the scans themselves"):
        predict(threshold_model(), given, link if ask == "link" else scans, overwrite=True)
    if ask == "folder":
        (above,) = predict(threshold_model(), [scans], tmp_path, shard=(1, len(before))).rows
        assert (tmp_path / str(above["file"])).is_file()
    assert {file.name: file.read_bytes() for file in scans.iterdir()} == before


def test_predicting_goes_on_where_it_stopped(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = threshold_model(), tmp_path / "out"
    files = sorted((collection / "images").iterdir())[:4]
    predict(model, files[1:2], out)
    before = (out / "case-1.nii.gz").stat().st_mtime_ns
    with pytest.raises(RunError, match=r"predictions of 1 of these scans \(case-1\)"):
        predict(model, files, out)
    assert [p.name for p in out.iterdir() if p.name.startswith("case-")] == ["case-1.nii.gz"]

    write = import_module("situs.transfer.predict").write_labels

    def killed(path: Path, *rest: Any) -> None:
        write(path, *rest)
        if path.name == "case-2.nii.gz":
            raise KeyboardInterrupt

    monkeypatch.setattr("situs.transfer.predict.write_labels", killed)
    with pytest.raises(KeyboardInterrupt):
        predict(model, files, out, resume=True)
    monkeypatch.undo()
    result = predict(model, files, out, resume=True)
    assert result.skipped == ["case-0", "case-1"]
    assert [row["scan"] for row in result.rows] == ["case-2", "case-3"]
    assert (out / "case-1.nii.gz").stat().st_mtime_ns == before
    with (out / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["scan"] for row in rows] == ["case-1", "case-0", "case-2", "case-3"]
    assert all(float(row["ball (ml)"]) > 0 for row in rows)

    again = predict(model, files[:1], out, overwrite=True)
    assert len(again.rows) == 1
    assert len((out / "predictions.csv").read_text().splitlines()) == 5
    renamed = model.task.model_copy(update={"classes": {0: "background", 1: "other"}})
    with pytest.raises(RunError, match="a model with other classes"):
        predict(Model(model.network, renamed, model.card), files[:1], out, overwrite=True)


def test_two_dimensional_backbones(collection: Path, cohort: Cohort, tmp_path: Path) -> None:
    flat = {**SMALL, "spatial_dims": 2}
    result = go(
        collection, tmp_path / "out", cohort, backbone=flat, patch_size=None, steps=40, lr=2e-2
    )
    model = Model.load(result.folder)
    # The thickest slices are 2 mm apart, along the prepared last axis.
    assert model.task.slice_axis == 2
    assert len(model.task.patch_size) == 2
    (name, _) = result.split["test"]
    prediction = nib.load(result.folder / "predictions" / f"{name}.nii.gz")
    scan = nib.load(collection / "images" / f"{name}.nii.gz")
    assert prediction.shape == scan.shape
    np.testing.assert_allclose(prediction.affine, scan.affine, atol=1e-4)
    assert result.scores["dice"] > 0.3, "calling everything one class would give 0.05"


def test_wrong_wishes_are_named(collection: Path, cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'step' \(did you mean 'steps'"):
        go(collection, tmp_path, step=3)
    with pytest.raises(ConfigError, match="would freeze random weights"):
        go(collection, tmp_path, freeze_encoder=True)
    with pytest.raises(ConfigError, match="labels for segmentation, not classification"):
        go(collection, tmp_path / "x", cohort, task="classification")
    with pytest.raises(ConfigError, match="'class_weights' has 2 numbers, the data set 3"):
        go(collection, tmp_path / "x", cohort, class_weights=(1, 2))
    with pytest.raises(ConfigError, match="must have 3 numbers"):
        go(collection, tmp_path / "x", cohort, patch_size=(16, 16))
    with pytest.raises(ConfigError, match="the cohort was prepared with"):
        go(collection, tmp_path / "x", cohort, preprocessing={"spacing": (2, 2, 2)})
    assert not (tmp_path / "x").exists()


def test_the_whole_journey_through_the_command_line(tmp_path: Path, run: Path) -> None:
    data = write_collection(tmp_path / "data", cases=4)
    out = tmp_path / "result"
    call = CliRunner().invoke
    done = call(
        app,
        f"finetune --data {data} --init {run} --out {out} --labels 2 --test 2 --steps 2 "
        "--set patch_size=[16,16,8] --quiet".split(),
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    assert "from spatial weights" in done.output
    assert "a warm-up of 20 steps is shortened to 1" in " ".join(done.stderr.split())
    result = Result.open(out)
    (data / "images" / "broken.nii.gz").write_bytes(b"")
    predicted = tmp_path / "predicted"
    done = call(app, ["predict", str(out), str(data / "images"), "--out", str(predicted), "--json"])
    assert done.exit_code == 1, "one scan was refused"
    report = json.loads(done.stdout)
    assert [(r["scan"], r["reason"]) for r in report["refused"]] == [
        ("broken.nii.gz", "empty-file")
    ]
    assert len(report["scans"]) == 4
    # What was written while testing and what 'predict' writes is the same.
    for name in result.split["test"]:
        tested = nib.load(out / "predictions" / f"{name}.nii.gz")
        again = nib.load(predicted / f"{name}.nii.gz")
        assert np.array_equal(tested.get_fdata(), again.get_fdata())
    with pytest.raises(RunError, match=r"of 4 of these scans.*--resume to keep them"):
        call(app, ["predict", str(out), str(data), "--out", str(predicted)], catch_exceptions=False)
    for verb in ("finetune", "predict"):
        assert "Example" in call(app, [verb, "--help"]).output


def test_many_images_few_labels_and_two_scans_a_patient(tmp_path: Path, run: Path) -> None:
    data = write_collection(tmp_path / "data", cases=7)
    for number in range(6):
        for part in ("images", "labels"):
            old = data / part / f"case-{number}.nii.gz"
            old.rename(old.with_name(f"p{number // 2}_{'ab'[number % 2]}.nii.gz"))
    (data / "labels" / "case-6.nii.gz").unlink()
    for verb in (["finetune", "--out", str(tmp_path / "out")], ["probe", str(run)]):
        call = [*verb, "--data", str(data), "--labels", "2", "--test", "2"]
        if verb[0] == "finetune":
            call += ["--init", "none", "--steps", "1", "--set", "patch_size=[16,16,8]"]
        refused = CliRunner().invoke(app, call)
        assert isinstance(refused.exception, DatasetError)
        assert "set dataset.allow_unlabelled=true" in str(refused.exception)
        call += ["--set", "dataset.allow_unlabelled=true", "--set", "dataset.patient='^(p|case-)'"]
        with pytest.raises(
            ConfigError, match=r"(--labels|'train') asks for 2 cases, but 0 are left"
        ):
            CliRunner().invoke(app, call, catch_exceptions=False)
        call[-1] = r"dataset.patient='^(p\d|case-6)'"
        done = CliRunner().invoke(app, [*call, "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        result = json.loads(done.stdout)
        parts = result["split"] if verb[0] == "finetune" else result["cases"]
        patients = [{name[:2] for name in parts[part]} for part in ("train", "test")]
        assert [len(parts[part]) for part in ("train", "test")] == [2, 2]
        assert [len(p) for p in patients] == [1, 1]
        assert patients[0] != patients[1]


def test_situs_finetune_is_public() -> None:
    assert situs.finetune is finetune
    assert FinetuneConfig(data=Path("d"), out=Path("o"), test=3).init == "none"
