from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import monai.networks.nets
import nibabel
import numpy as np
import pytest
import torch
import yaml
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from safetensors.torch import load_file
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from situs import read_scan
from situs.backbones import BackboneConfig, build
from situs.cli import app
from situs.errors import ConfigError, SitusError
from situs.export import available, export
from situs.export.checks import insist_same, probe_image
from situs.export.export import Origin
from situs.export.hub import model_card
from situs.store import Preprocessing, preprocess
from situs.transfer.model import Model, Task
from situs.transfer.networks import Classifier, Segmenter
from situs.weights import Card, load_card, load_encoder, save_weights

NETWORKS: dict[str, dict[str, Any]] = {
    "cnn": {"options": {"channels": [4, 8, 8, 12], "strides": [[2, 2, 1], [2, 2, 2], [2, 2, 2]]}},
    "cnn-2d": {"spatial_dims": 2, "in_channels": 2, "options": {"channels": [4, 8, 8]}},
    "nnunet": {"options": {"channels": [4, 8, 8], "blocks": [1, 2, 1]}, "in_channels": 2},
    "resnet_unet": {"spatial_dims": 2, "options": {"resnet": "resnet10"}},
    "swin_unetr": {
        "spatial_dims": 2,
        "options": {"feature_size": 12, "depths": [1, 1, 1, 1], "window_size": 4},
    },
    "swin_unetr-v2": {
        "spatial_dims": 2,
        "options": {"feature_size": 12, "depths": [1, 1, 1, 1], "window_size": 4, "use_v2": True},
    },
    "primus": {
        "options": {"width": 24, "depth": 2, "heads": 2, "grid": [2], "decoder_channels": 8}
    },
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights folders of small networks, with numbers that a fresh network does not have."""
    folders = {}
    for name, arguments in NETWORKS.items():
        torch.manual_seed(1)
        config = BackboneConfig(name=name.partition("-")[0], **arguments)
        backbone = build(config)
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        card = Card(
            backbone=config,
            method="spatial+s2dc",
            preprocessing={"spacing": [1.0, 1.0, 2.0], "ct_window": [-1000, 1000]},
            view_size=(64,) * config.spatial_dims,
            step=7,
            data_fingerprint="0123456789abcdef",
            decoder_trained=True,
        )
        folders[name] = save_weights(tmp_path_factory.mktemp("weights") / name, backbone, card)
    return folders


@pytest.mark.parametrize("name", NETWORKS)
def test_safetensors_come_back_as_the_same_network(name: str, weights, tmp_path: Path):
    if name == "nnunet":
        pytest.importorskip("dynamic_network_architectures")
    exported = export(weights[name], "safetensors", tmp_path / "out", licence="CC-BY-4.0")
    assert exported.files == ("card.json", "decoder.safetensors", "encoder.safetensors")
    again, original = load_encoder(exported.path), load_encoder(weights[name])
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), original.state_dict().values(), strict=True)
    )
    assert load_card(exported.path).licence == "CC-BY-4.0"


@pytest.mark.parametrize("name", ["cnn", "cnn-2d", "resnet_unet", "swin_unetr", "swin_unetr-v2"])
@torch.no_grad()
def test_monai_builds_and_fills_the_network_from_the_files_alone(name, weights, tmp_path: Path):
    exported = export(weights[name], "monai", tmp_path / "out")
    arguments = json.loads((exported.path / "network.json").read_text())
    kind = arguments.pop("_target_").rpartition(".")[2]
    assert kind in exported.checked
    network = getattr(monai.networks.nets, kind)(**arguments)
    before = {n: p.clone() for n, p in network.named_parameters()}
    network.load_state_dict(load_file(exported.path / "model.safetensors"), strict=True)
    kept = [n for n, p in network.named_parameters() if torch.equal(p, before[n])]
    assert kept == []
    assert network.eval()(probe_image(load_encoder(weights[name]))).shape[1] == 1


@pytest.mark.parametrize("name", ["cnn", "resnet_unet", "swin_unetr"])
@torch.no_grad()
def test_monai_gets_the_head_of_a_fine_tuned_model(name: str, weights, tmp_path: Path):
    card = load_card(weights[name])
    backbone = load_encoder(weights[name])
    model = Segmenter(backbone, 3).eval()
    folder = save_weights(tmp_path / "model", backbone, card, {"head": model.head.state_dict()})
    exported = export(folder, "monai", tmp_path / "out")
    arguments = json.loads((exported.path / "network.json").read_text())
    kind = arguments.pop("_target_").rpartition(".")[2]
    network = getattr(monai.networks.nets, kind)(**arguments).eval()
    network.load_state_dict(load_file(exported.path / "model.safetensors"), strict=True)
    image = probe_image(backbone)
    assert torch.allclose(network(image), model(image), atol=1e-5)
    assert "with its output layer" in exported.checked


def test_files_have_the_rights_that_the_user_gives(weights, tmp_path: Path):
    old = os.umask(0o027)
    try:
        folders = [
            export(weights[name], target, tmp_path / target, **wishes).path
            for name, target, wishes in (
                ("cnn", "monai", {}),
                ("cnn", "hub", {}),
                ("nnunet", "nnunet", {"pth": True}),
            )
        ]
    finally:
        os.umask(old)
    files = [file for folder in folders for file in folder.iterdir()]
    assert len(files) > 10
    assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o640"}
    assert {oct(folder.stat().st_mode & 0o777) for folder in folders} == {"0o750"}


def test_monai_has_no_class_for_nnunet(weights, tmp_path: Path):
    pytest.importorskip("dynamic_network_architectures")
    with pytest.raises(SitusError, match="Other targets: nnunet"):
        export(weights["nnunet"], "monai", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@torch.no_grad()
def test_nnunet_gets_every_tensor_it_insists_on(weights, tmp_path: Path):
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    exported = export(weights["nnunet"], "nnunet", tmp_path / "out")
    architecture = json.loads((exported.path / "architecture.json").read_text())
    assert architecture["network_class_name"].endswith("ResidualEncoderUNet")
    arguments = architecture["arch_kwargs"]
    for key in architecture["_kw_requires_import"]:
        if arguments[key] is not None:
            arguments[key] = getattr(torch.nn, arguments[key].rpartition(".")[2])
    network = unet.ResidualEncoderUNet(input_channels=2, num_classes=4, **arguments)
    weights_file = load_file(exported.path / "model.safetensors")
    # nnU-Net's own rule: every key without ".seg_layers." must be there, in the same shape.
    for key, value in network.state_dict().items():
        if ".seg_layers." not in key:
            assert weights_file[key].shape == value.shape
    network.load_state_dict(weights_file, strict=False)
    backbone = load_encoder(weights["nnunet"])
    image = probe_image(backbone)
    features = network.encoder(image.permute(0, 1, 4, 3, 2))
    for a, b in zip(features, backbone.encode(image), strict=True):
        assert torch.allclose(a.permute(0, 1, 4, 3, 2), b, atol=1e-5)
    assert "multiples of (4, 4, 4)" in (exported.path / "README.md").read_text()


def test_nnunet_takes_no_other_network(weights, tmp_path: Path):
    with pytest.raises(SitusError, match="pretrain with --backbone nnunet"):
        export(weights["cnn"], "nnunet", tmp_path / "out")


def test_the_hub_folder_has_a_card_and_loads(weights, tmp_path: Path):
    exported = export(weights["cnn"], "hub", tmp_path / "out", licence="Apache-2.0")
    page = (exported.path / "README.md").read_text(encoding="utf-8")
    _, front, body = page.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "apache-2.0"
    assert {"spatial", "s2dc", "3d"} <= set(yaml.safe_load(front)["tags"])
    for said in ("[1.0, 1.0, 2.0]", "0123456789abcdef", "multiples of (8, 8, 4)", "2509.05967"):
        assert said in body
    assert load_encoder(exported.path).channels == (4, 8, 8, 12)


def test_the_data_card_of_a_run_says_what_its_folder_tells(weights, tmp_path: Path):
    """Of one that was handed on without its scans nothing; of an early one what it recorded."""
    run = tmp_path / "run"
    shutil.copytree(weights["cnn"], run / "checkpoints" / "best")
    (run / "run.json").write_text('{"method": "spatial", "status": "finished"}')
    bare = export(run, "hub", tmp_path / "bare")
    assert "DATA.md" not in bare.files
    early = {"records": [{"key": "ab", "modality": "MR"}], "refused": [{}]}
    (run / "data.json").write_text(json.dumps(early))
    assert "DATA.md" in export(run, "hub", tmp_path / "told").files
    rows = (tmp_path / "told/DATA.md").read_text().splitlines()
    assert {"| scans | 1 |", "| modalities | MR: 1 |", "| unknown | 1 |"} <= set(rows)
    for name in ("voxels", "spacing in mm", "near-duplicates", "compressed size"):
        assert f"| {name} | unknown |" in rows


def test_the_model_card_of_bare_weights_says_what_is_unknown(weights):
    card = Card(backbone=load_card(weights["cnn"]).backbone)
    origin = Origin(weights["cnn"], weights["cnn"], card, load_encoder(weights["cnn"]))
    page = model_card(origin)
    assert "license: other" in page
    assert "Unknown: the weights came without it." in page
    assert "(the decoder is not trained)" in page


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "nnunet", "primus", "swin_unetr"])
def test_onnx_computes_the_same(name: str, weights, tmp_path: Path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra 'onnx'")
    exported = export(weights[name], "onnx", tmp_path / "out")
    assert "encoder.onnx" in exported.files
    assert "another batch size" in exported.checked


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_a_fine_tuned_model_runs_with_numpy_and_onnxruntime_alone(
    kind: Literal["segmentation", "classification"], weights, tmp_path: Path
):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra 'onnx'")
    model = fine_tuned(weights["cnn"], kind)
    model.save(tmp_path / "model")
    exported = export(tmp_path / "model", "onnx", tmp_path / "out")
    assert exported.files == ("card.json", "model.onnx", "run.py", "task.json")
    scan = np.random.default_rng(0).normal(0, 400, (1, 20, 30, 14)).astype(np.float32)
    np.save(tmp_path / "scan.npy", scan)
    # Nothing of ours, nor torch, can be imported there.
    code = "import sys; sys.modules.update(torch=None, situs=None, monai=None, scipy=None);"
    code += (
        "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    subprocess.run(
        [sys.executable, "-I", "-c", code, str(exported.path / "run.py"), "scan.npy", "out.npy"],
        cwd=tmp_path,
        check=True,
        timeout=600,
    )
    found = np.load(tmp_path / "out.npy")
    image = torch.from_numpy((scan.clip(-1000, 1000) / 1000).astype(np.float32))
    expected = model.of_image(image, [float(image.min())])
    if kind == "segmentation":
        values = np.array(list(model.task.classes))
        assert (found == values[expected.argmax(0)]).mean() > 0.9999
    else:
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.fixture
def gradients_afterwards():
    """MONAI's bundles switch gradients off for the whole process."""
    yield
    torch.set_grad_enabled(True)


@pytest.mark.slow
@pytest.mark.usefixtures("gradients_afterwards")
@pytest.mark.parametrize(("name", "modality"), [("cnn", "CT"), ("resnet_unet", "MR")])
def test_a_bundle_segments_as_situs_does(name: str, modality: str, weights, tmp_path: Path):
    """MONAI's own loader and transforms, on an oblique scan stored along L, S, P."""
    import monai.bundle

    model = fine_tuned(weights[name], "segmentation")
    rules = Preprocessing(spacing="native", crop=False, ct_window=(-800, 700), ct_range=(0, 1))
    kind = "hounsfield" if modality == "CT" else "relative"
    update = {"preprocessing": rules.model_dump(mode="json"), "intensity": (kind,)}
    if name == "resnet_unet":
        update |= {"patch_size": (32, 32), "slice_axis": 1}
    model.task = model.task.model_copy(update=update)
    model.save(tmp_path / "model")
    bundle = export(tmp_path / "model", "monai", tmp_path / "bundle").path
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (12, -8, 25), degrees=True).as_matrix() * (
        1,
        1.5,
        3,
    )
    affine[:3, 3] = (-30, 12, 5)
    shape = (20, 30, 14) if name == "cnn" else (40, 9, 36)
    values = np.random.default_rng(0).normal(-100, 500, shape).astype(np.float32)
    values[: shape[0] // 3] -= 400  # a body, and what is darker
    stored = ornt_transform(io_orientation(affine), axcodes2ornt(("L", "S", "P")))
    file = bundle / "images" / "scan.nii.gz"
    file.parent.mkdir()
    nibabel.save(nibabel.Nifti1Image(values, affine).as_reoriented(stored), file)
    monai.bundle.run(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        bundle_root=str(bundle),
        device="$torch.device('cpu')",
    )
    theirs = nibabel.load(bundle / "predictions" / "scan.nii.gz")
    scan = read_scan(file, modality=modality)
    ours = model.segment(preprocess(scan, rules))
    np.testing.assert_allclose(theirs.affine, scan.affine, atol=1e-4)
    assert theirs.shape == ours.shape == (shape[0], shape[2], shape[1])
    assert (np.asarray(theirs.dataobj) == ours).mean() > 0.999
    assert len(np.unique(ours)) > 1


def fine_tuned(folder: Path, kind: Literal["segmentation", "classification"]) -> Model:
    """A model as fine-tuning leaves it, with flips and windows smaller than the scan."""
    card = load_card(folder)
    torch.manual_seed(2)
    network = (Segmenter if kind == "segmentation" else Classifier)(load_encoder(folder), 3)
    task = Task(
        kind=kind,
        classes={0: "background", 1: "a", 5: "b"},
        patch_size=(16, 16, 8),
        flip_axes=(0,),
        preprocessing=Preprocessing(spacing=(1.0, 1.0, 2.0)).model_dump(mode="json"),
    )
    return Model(network.eval(), task, card)


def test_onnx_without_its_packages_names_the_extra(
    weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SitusError, match=r"situs\[onnx\]"):
        export(weights["cnn"], "onnx", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_occupied_folder_is_replaced_only_on_demand(weights, tmp_path: Path):
    (tmp_path / "precious.txt").write_text("keep me")
    with pytest.raises(SitusError, match="is not empty"):
        export(weights["cnn"], "safetensors", tmp_path)
    with pytest.raises(SitusError, match=r"something else \(precious.txt\), which would be lost"):
        export(weights["cnn"], "safetensors", tmp_path, overwrite=True)
    assert (tmp_path / "precious.txt").read_text() == "keep me"
    (tmp_path / "precious.txt").rename(tmp_path / "card.json")
    export(weights["cnn"], "safetensors", tmp_path, overwrite=True)
    assert (tmp_path / "card.json").read_text() != "keep me"


def test_unknown_targets_and_folders_without_weights(weights, tmp_path: Path):
    with pytest.raises(ConfigError, match="did you mean 'monai'"):
        export(weights["cnn"], "monay", tmp_path / "out")
    with pytest.raises(SitusError, match="has no weights"):
        export(tmp_path, "hub", tmp_path / "out")


def test_a_network_that_computes_something_else_is_not_let_through():
    image = torch.ones(1, 1, 4, 4)
    with pytest.raises(SitusError, match="does not give the same features"):
        insist_same(lambda x: [x], lambda x: [x * 1.01], image, "MONAI")
    with pytest.raises(SitusError, match="does not give the same features"):
        insist_same(lambda x: [x], lambda x: [x[..., :2]], image, "MONAI")
    with pytest.raises(SitusError, match="does not give the same features"):
        insist_same(lambda x: [x], lambda x: [x * torch.nan], image, "MONAI")


def test_the_command_line_prints_what_was_checked(weights, tmp_path: Path):
    arguments = ["export", str(weights["cnn"]), "--to", "monai", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["files"] == ["card.json", "model.safetensors", "network.json"]
    assert str(tmp_path / "out") in said["use"]
    result = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert "DynUNet loaded every tensor" in result.stdout


def test_every_target_is_offered_by_the_command_line():
    page = " ".join(CliRunner().invoke(app, ["export", "--help"]).stdout.split())
    assert all(target in page for target in available())
