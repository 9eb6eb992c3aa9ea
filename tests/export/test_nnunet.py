"""The export beside nnU-Net itself: its planner, reader, preprocessing, network and trainer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from nnunet_data import SPACINGS, plan, scan_files, small
from torch import Tensor, nn
from typer.testing import CliRunner

from situs import read_scan
from situs.backbones import BackboneConfig, build
from situs.cli import app
from situs.errors import ConfigError
from situs.export import export
from situs.store import Preprocessing, preprocess
from situs.weights import Card, save_weights
from situs.weights.axes import inverse
from situs.weights.nnunet_plans import NnunetPlan

pytestmark = pytest.mark.slow

pytest.importorskip("nnunetv2", reason="the set-up of the Makefile installs it")

STEPS = {"Z": [[2, 2, 1], [2, 2, 2]], "X": [[1, 2, 2], [2, 2, 2]]}
KERNELS = {"Z": [[3, 3, 1], [3, 3, 3], [3, 3, 3]], "X": [[1, 3, 3], [3, 3, 3], [3, 3, 3]]}


@pytest.fixture(scope="module", params=["Z", "X"])
def planned(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    """Plans that nnU-Net's ResEnc M planner makes for thick axial, or thick sagittal slices."""
    root = tmp_path_factory.mktemp("nnunet")
    folder = scan_files(root, request.param)
    plans = plan(root, folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed", "results"):
            patch.setenv(f"nnUNet_{name}", str(root / name))
        yield SimpleNamespace(root=root, raw=folder, plans=plans, thick=request.param)


def shaken(config: BackboneConfig, seed: int = 0) -> Any:
    """A network with numbers everywhere: nnU-Net begins with branches multiplied by zero."""
    torch.manual_seed(seed)
    backbone = build(config)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return backbone.eval()


def saved(folder: Path, config: BackboneConfig) -> Path:
    rules = Preprocessing(spacing="native", crop=False)
    card = Card(
        backbone=config,
        method="spatial",
        preprocessing=rules.model_dump(mode="json"),
        decoder_trained=True,
    )
    return save_weights(folder, shaken(config), card)


def their_network(plans: dict[str, Any], weights: Path) -> nn.Module:
    """Built and filled by nnU-Net's own functions."""
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        2,
        deep_supervision=False,
    )
    load_pretrained_weights(network, str(weights))
    return network.eval()


@pytest.mark.parametrize("isotropic", [False, True], ids=["anisotropic", "isotropic"])
@torch.no_grad()
def test_features_agree_at_the_same_physical_points(isotropic: bool, planned, tmp_path: Path):
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    options = {"channels": [4, 8, 12], "blocks": [1, 2, 1]}
    if not isotropic:
        options |= {"strides": STEPS[planned.thick], "kernels": KERNELS[planned.thick]}
    config = BackboneConfig(name="nnunet", options=options)
    source = saved(tmp_path / "weights", config)
    out = export(source, "nnunet", tmp_path / "out", plan=planned.plans, pth=True).path
    plans = json.loads((out / "situsPlans.json").read_text())
    manager = PlansManager(plans)
    file = planned.raw / "imagesTr" / "case0_0000.nii.gz"
    data, _, properties = DefaultPreprocessor(verbose=False).run_case(
        [str(file)],
        None,
        manager,
        manager.get_configuration("3d_fullres"),
        str(planned.raw / "dataset.json"),
    )
    prepared = preprocess(
        read_scan(file, modality="CT"), Preprocessing(spacing="native", crop=False)
    )

    # Where each voxel of nnU-Net's array lies, by nnU-Net's own record, is where ours lies.
    axes = [2 - axis for axis in plans["transpose_forward"]]
    index = np.stack(np.meshgrid(*map(np.arange, data.shape[1:]), indexing="ij"), -1)
    vox = np.empty_like(index)
    for place, axis in enumerate(axes):
        vox[..., axis] = index[..., place] + properties["bbox_used_for_cropping"][place][0]
    theirs = nibabel.affines.apply_affine(properties["nibabel_stuff"]["reoriented_affine"], vox)
    ours = nibabel.affines.apply_affine(np.linalg.inv(prepared.affine), theirs)
    assert np.abs(ours - np.round(ours)).max() < 1e-3
    x, y, z = np.moveaxis(np.round(ours).astype(int), -1, 0)
    np.testing.assert_allclose(data[0], prepared.array[0][x, y, z], atol=1e-5)

    # Both networks need whole cells; the common part of the two grids is the same there.
    backbone = shaken(config)
    size = [n - n % d for n, d in zip(prepared.array.shape[1:], backbone.divisor, strict=True)]
    image = torch.from_numpy(prepared.array)[None, :, : size[0], : size[1], : size[2]]
    turned_size = [size[axis] for axis in axes]
    other = torch.from_numpy(data)[None, :, *(slice(n) for n in turned_size)]
    network = their_network(plans, out / "pretrained.pth")
    for scale, (a, b) in enumerate(
        zip(backbone.encode(image), network.encoder(other), strict=True)
    ):
        back = b.permute(0, 1, *(2 + i for i in inverse(axes)))
        assert float((a - back).abs().max()) < 1e-4 * float(a.abs().max()), scale
    head = network.decoder.seg_layers[-1]
    decoded = head(backbone(image).permute(0, 1, *(2 + i for i in axes)))
    assert torch.allclose(decoded, network(other), atol=1e-4)
    if not isotropic:
        return
    # What the check is worth: kernels that were not turned fit as well, and compute other things.
    network.encoder.load_state_dict(backbone.encoder.state_dict(), strict=False)
    unturned = network.encoder(other)[-1].permute(0, 1, *(2 + i for i in inverse(axes)))
    pair = np.corrcoef(unturned.flatten(), backbone.encode(image)[-1].flatten())
    assert pair[0, 1] < 0.9


def test_a_plan_gives_the_backbone_that_it_will_load(planned, tmp_path: Path):
    plan = NnunetPlan.read(planned.plans)
    config = plan.backbone()
    out = export(
        saved(tmp_path / "weights", config), "nnunet", tmp_path / "out", plan=planned.plans
    )
    patched = json.loads((out.path / "situsPlans.json").read_text())
    original = json.loads(planned.plans.read_text())
    old, new = (p["configurations"]["3d_fullres"] for p in (original, patched))
    assert new["architecture"] == old["architecture"]
    assert new["patch_size"] == old["patch_size"]
    assert plan.spacing == pytest.approx(SPACINGS[planned.thick], abs=1e-4)
    assert sorted(plan.patch_size) == sorted(old["patch_size"])


def test_a_plan_whose_axes_are_those_of_files_is_refused(planned, tmp_path: Path):
    values = json.loads(planned.plans.read_text())
    other = tmp_path / "plans.json"
    other.write_text(json.dumps({**values, "image_reader_writer": "SimpleITKIO"}))
    source = saved(tmp_path / "weights", NnunetPlan.read(planned.plans).backbone())
    with pytest.raises(ConfigError, match="overwrite_image_reader_writer"):
        export(source, "nnunet", tmp_path / "out", plan=other)
    assert not (tmp_path / "out").exists()


def test_pretraining_like_a_plan_fits_into_it(planned, tmp_path: Path):
    """Through the command line: pretrain on the scans themselves, export, load by nnU-Net."""
    if planned.thick == "X":
        pytest.skip("one axis order is enough for the journey")
    plans = small(planned.plans, tmp_path / "plans.json")
    values = json.loads(plans.read_text())
    architecture = values["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    run = tmp_path / "run"
    arguments = ["pretrain", "--method", "mae", "--data", str(planned.raw / "imagesTr")]
    arguments += ["--like-plan", str(plans), "--out", str(run), "--steps", "2", "--no-report"]
    for setting in ("options.view_size=[16,8,8]", "batch_size=2", "observe_samples=2"):
        arguments += ["--set", setting]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    out = export(run, "nnunet", tmp_path / "out", plan=plans, pth=True).path
    patched = json.loads((out / "situsPlans.json").read_text())["configurations"]["3d_fullres"]
    assert patched["architecture"]["arch_kwargs"] == architecture
    assert patched["spacing"] == pytest.approx([4.0, 1.25, 1.0], abs=1e-4)
    their_network(json.loads((out / "situsPlans.json").read_text()), out / "pretrained.pth")


@pytest.mark.slow
def test_nnunet_trains_from_the_export(planned, tmp_path: Path, monkeypatch):
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.run import run_training
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    if planned.thick == "X":
        pytest.skip("one axis order is enough for the trainer")
    config = BackboneConfig(
        name="nnunet",
        options={
            "channels": [4, 8, 12],
            "blocks": [1, 1, 1],
            "strides": STEPS["Z"],
            "kernels": KERNELS["Z"],
        },
    )
    source = saved(tmp_path / "weights", config)
    out = export(source, "nnunet", tmp_path / "out", plan=planned.plans, pth=True).path
    folder = planned.plans.parent
    (folder / "situsPlans.json").write_bytes((out / "situsPlans.json").read_bytes())
    (folder / "dataset.json").write_bytes((planned.raw / "dataset.json").read_bytes())
    (folder / "gt_segmentations").mkdir(exist_ok=True)
    manager = PlansManager(str(folder / "situsPlans.json"))
    configuration = manager.get_configuration("3d_fullres")
    data = folder / configuration.data_identifier
    data.mkdir()
    for case in ("case0", "case1"):
        label = planned.raw / "labelsTr" / f"{case}.nii.gz"
        (folder / "gt_segmentations" / label.name).write_bytes(label.read_bytes())
        DefaultPreprocessor(verbose=False).run_case_save(
            str(data / case),
            [str(planned.raw / "imagesTr" / f"{case}_0000.nii.gz")],
            str(label),
            manager,
            configuration,
            str(folder / "dataset.json"),
        )
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["case0"], "val": ["case1"]}]))
    trainer = run_training.get_trainer_from_args(
        "1", "3d_fullres", 0, "nnUNetTrainer", "situsPlans", device=torch.device("cpu")
    )
    assert isinstance(trainer, nnUNetTrainer)
    trainer.num_epochs, trainer.num_iterations_per_epoch = 1, 2
    trainer.num_val_iterations_per_epoch = 1
    run_training.maybe_load_checkpoint(trainer, False, False, str(out / "pretrained.pth"))
    given = torch.load(out / "pretrained.pth", weights_only=True)["network_weights"]
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    assert set(given) == {k for k in before if ".seg_layers." not in k}
    assert all(torch.equal(before[k], v) for k, v in given.items())
    trainer.run_training()
    moved = [k for k, v in trainer.network.state_dict().items() if not torch.equal(v, before[k])]
    assert len(moved) > 0.9 * len(before)
    change = [distance(trainer.network.state_dict()[k], v) for k, v in given.items()]
    assert np.median(change) < 0.1  # two steps from where pretraining ended, not a fresh start


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / (b.norm() + 1e-12))
