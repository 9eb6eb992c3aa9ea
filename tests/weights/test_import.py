"""Checkpoints as the real packages' own classes write them, without downloads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets.swin_unetr import SwinUNETR
from torch import Tensor, nn
from typer.testing import CliRunner

from situs.backbones import build
from situs.cli import app
from situs.errors import TransferError
from situs.weights import load_card, load_encoder, load_into
from situs.weights.axes import turned
from situs.weights.foreign import import_weights

SIZE = {"feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 3, 6), "window_size": 3}


def swin(**arguments: Any) -> SwinUNETR:
    torch.manual_seed(3)
    return shaken(SwinUNETR(1, 4, **{**SIZE, **arguments}))


def shaken(network: Any) -> Any:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


def as_transformer_alone(network: SwinUNETR) -> dict[str, Tensor]:
    """``model_swinvit.pt``: what ``SwinUNETR.load_from`` reads."""
    state = {
        f"module.{n}".replace(".mlp.linear", ".mlp.fc"): t
        for n, t in network.swinViT.state_dict().items()
    }
    return {**state, "module.rotation_head.weight": torch.ones(4, 7)}


def write(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


@pytest.mark.parametrize("use_v2", [False, True], ids=["v1", "v2"])
@torch.no_grad()
def test_monai_swin_unetr(use_v2: bool, tmp_path: Path):
    if use_v2 and "use_v2" not in swin_options():
        pytest.skip("the backbone has no V2 yet")
    network = swin(use_v2=use_v2)
    file = write(tmp_path / "swin.pt", {"state_dict": network.state_dict(), "epoch": 3})
    imported = import_weights(file, tmp_path / "out")
    assert imported.share == 1
    assert imported.card.lacks == ()
    ours = load_encoder(imported.path)
    image = torch.randn(1, 1, 64, 64, 64)
    assert torch.allclose(network.out(ours(image)), network(image), atol=1e-4)
    heads = [e.name for e in imported.ledger.entries if e.part == "other"]
    assert heads == ["out.conv.conv.weight", "out.conv.conv.bias"]


def swin_options() -> dict[str, Any]:
    from situs.backbones.swin_unetr import SwinUnetrOptions

    return dict(SwinUnetrOptions.model_fields)


@torch.no_grad()
def test_monai_transformer_alone(tmp_path: Path):
    network = swin()
    state = as_transformer_alone(network)
    imported = import_weights(write(tmp_path / "a.pt", {"state_dict": state}), tmp_path / "out")
    assert (imported.layout, imported.share) == ("monai", 1)
    # MONAI's own reader of this layout gives the same transformer.
    theirs = SwinUNETR(1, 4, **SIZE).eval()
    theirs.load_from({"state_dict": state})
    ours = load_encoder(imported.path)
    image = torch.randn(1, 1, 64, 64, 64)
    transformer = ours.encoder.get_submodule("swinViT")
    for a, b in zip(transformer(image), theirs.swinViT(image), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)  # as far as its attention rounds
    card = imported.card
    assert card.preprocessing["ct_range"] == [0.0, 1.0]
    assert (card.licence, card.decoder_trained) == ("Apache-2.0", False)
    assert any("decoder1" in name for name in card.lacks)
    # What the source does not hold is not counted against it, here and when a task loads it.
    ledger = load_into(build(card.backbone), imported.path)
    assert ledger.encoder_share == 1


@pytest.mark.parametrize("layout", ["voco", "suprem"])
@torch.no_grad()
def test_networks_inside_wrappers(layout: str, tmp_path: Path):
    network = swin()
    wrapper = nn.ModuleDict({"backbone": network})
    if layout == "voco":
        wrapper["student"], wrapper["teacher"] = nn.Linear(5, 3), nn.Linear(5, 3)
        value: Any = wrapper.state_dict()
    else:
        wrapper["precls_conv"] = nn.Conv3d(12, 4, 1)
        value = {"net": {f"module.{n}": t for n, t in wrapper.state_dict().items()}, "epoch": 2}
    imported = import_weights(write(tmp_path / "a.pt", value), tmp_path / "out")
    assert (imported.layout, imported.share) == (layout, 1)
    assert imported.card.preprocessing["ct_window"] == [-175.0, 250.0]
    image = torch.randn(1, 1, 64, 64, 64)
    ours = load_encoder(imported.path)
    assert torch.allclose(network.out(ours(image)), network(image), atol=1e-4)


ARCHITECTURE = {
    "n_stages": 3,
    "features_per_stage": [4, 8, 12],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "n_conv_per_stage_decoder": [1, 1],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}


def unet(kind: str, **arguments: Any) -> Any:
    unets = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    given = {**ARCHITECTURE, **arguments}
    for name in ("conv_op", "norm_op", "nonlin"):
        given[name] = getattr(nn, given[name].rpartition(".")[2])
    blocks = "n_blocks_per_stage" if kind == "ResidualEncoderUNet" else "n_conv_per_stage"
    torch.manual_seed(4)
    return shaken(
        getattr(unets, kind)(input_channels=1, num_classes=3, **given, **{blocks: [1, 2, 1]})
    )


def plans(kind: str) -> dict[str, Any]:
    return {
        "image_reader_writer": "NibabelIOWithReorient",
        "transpose_forward": [1, 0, 2],
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 50.0, "std": 100.0, "percentile_00_5": -150.0, "percentile_99_5": 350.0}
        },
        "configurations": {
            "3d_fullres": {
                "patch_size": [8, 16, 16],
                "spacing": [5.0, 2.0, 1.0],
                "normalization_schemes": ["CTNormalization"],
                "architecture": {"network_class_name": kind, "arch_kwargs": ARCHITECTURE},
            }
        },
    }


@pytest.mark.parametrize("kind", ["ResidualEncoderUNet", "PlainConvUNet"])
@torch.no_grad()
def test_nnunet_checkpoints_turn_to_our_axes(kind: str, tmp_path: Path):
    network = unet(kind)
    value = {
        "network_weights": network.state_dict(),
        "optimizer_state": {},
        "logging": {"dice": [np.float32(0.5), np.float64(0.25)]},
        "init_args": {"plans": plans(kind), "configuration": "3d_fullres", "fold": 0},
        "trainer_name": "nnUNetTrainer",
    }
    imported = import_weights(write(tmp_path / "final.pth", value), tmp_path / "out")
    assert (imported.layout, imported.share, imported.notes) == ("nnunet", 1, ())
    rules = imported.card.preprocessing
    # transpose_forward (1, 0, 2): nnU-Net's axes are Y, Z, X.
    assert rules["spacing"] == [1.0, 5.0, 2.0]
    assert (rules["ct_window"], rules["ct_range"]) == ([-150.0, 350.0], [-2.0, 3.0])
    image = torch.randn(1, 1, 16, 8, 12)  # X, Y, Z
    ours = load_encoder(imported.path)
    theirs = network.encoder(image.permute(0, 1, 3, 4, 2))
    for a, b in zip(ours.encode(image), theirs, strict=True):
        assert torch.allclose(a, b.permute(0, 1, 4, 2, 3), atol=1e-5)
    logits = network(image.permute(0, 1, 3, 4, 2)).permute(0, 1, 4, 2, 3)
    assert torch.allclose(network.decoder.seg_layers[-1](ours(image)), logits, atol=1e-4)


@torch.no_grad()
def test_nnssl_checkpoints(tmp_path: Path):
    network = unet(
        "ResidualEncoderUNet", kernel_sizes=[[3, 3, 3]] * 3, strides=[[1] * 3, [2] * 3, [2] * 3]
    )
    encoder = {n: t for n, t in network.state_dict().items() if n.startswith("encoder.")}
    adaptation = {
        "architecture_plans": {"arch_class_name": "ResEncL", "arch_kwargs": None},
        "pretrain_plan": {
            "configurations": {"onemmiso": {"spacing": [3, 2, 1], "patch_size": [8] * 3}}
        },
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
    }
    value = {"network_weights": encoder, "nnssl_adaptation_plan": adaptation, "citations": []}
    imported = import_weights(
        write(tmp_path / "a.pth", value), tmp_path / "out", licence="CC-BY-4.0"
    )
    assert (imported.layout, imported.share) == ("nnssl", 1)
    assert imported.card.preprocessing["spacing"] == [1.0, 2.0, 3.0]
    assert "axes of files" in imported.notes[0]
    image = torch.randn(1, 1, 16, 8, 12)
    ours = load_encoder(imported.path)
    theirs = network.encoder(image.permute(0, 1, 4, 3, 2))
    for a, b in zip(ours.encode(image), theirs, strict=True):
        assert torch.allclose(a, b.permute(0, 1, 4, 3, 2), atol=1e-5)
    assert not imported.card.decoder_trained


def test_the_default_of_nnunet_is_the_network_of_openmind():
    """ResEnc-L as nnssl names it: what its checkpoints hold fits without an option."""
    from situs.backbones.nnunet import NnunetOptions

    options = NnunetOptions()
    assert options.channels == [32, 64, 128, 256, 320, 320]
    assert options.blocks == [1, 3, 4, 6, 6, 6]


def test_turning_twice_is_nothing():
    state = unet("ResidualEncoderUNet").state_dict()
    again = turned(turned(state, (2, 1, 0)), (2, 1, 0))
    assert all(torch.equal(again[n], t) for n, t in state.items())


class Loud:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_nothing_in_a_file_is_run(tmp_path: Path, capsys):
    file = write(tmp_path / "evil.pt", {"state_dict": swin().state_dict(), "args": Loud()})
    with pytest.raises(TransferError, match="situs never does"):
        import_weights(file, tmp_path / "out")
    assert "must never run" not in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_files_of_no_layout_and_of_another_one(tmp_path: Path):
    other = write(tmp_path / "resnet.pt", nn.Linear(3, 3).state_dict())
    with pytest.raises(TransferError, match="of no layout that situs knows"):
        import_weights(other, tmp_path / "out")
    file = write(tmp_path / "a.pt", as_transformer_alone(swin()))
    with pytest.raises(TransferError, match="of the layout 'monai', not 'nnunet'"):
        import_weights(file, tmp_path / "out", layout="nnunet")
    with pytest.raises(TransferError, match="is not a file"):
        import_weights(tmp_path / "absent.pt", tmp_path / "out")


def test_through_the_command_line_into_a_pretraining(tmp_path: Path):
    network = unet(
        "ResidualEncoderUNet", kernel_sizes=[[3, 3, 3]] * 3, strides=[[1] * 3, [2] * 3, [2] * 3]
    )
    file = write(tmp_path / "a.pth", {"network_weights": network.state_dict()})
    out = tmp_path / "weights"
    arguments = ["import", str(file), "--out", str(out), "--spacing", "1", "1", "2", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["share"] == 1
    assert load_card(out).preprocessing["spacing"] == [1.0, 1.0, 2.0]
    import nibabel

    rng = np.random.default_rng(0)
    for case in range(2):
        image = nibabel.Nifti1Image(rng.normal(100, 20, (24, 24, 24)).astype(np.float32), np.eye(4))
        nibabel.save(image, tmp_path / f"scan{case}.nii.gz")
    options = json.loads(json.dumps(load_card(out).backbone.options))
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({"backbone": {"name": "nnunet", "options": options}}))
    arguments = ["pretrain", "--method", "mae", "--config", str(config), "--init", str(out)]
    arguments += [
        "--data",
        str(tmp_path / "scan0.nii.gz"),
        "--data",
        str(tmp_path / "scan1.nii.gz"),
    ]
    arguments += ["--out", str(tmp_path / "run"), "--steps", "1", "--no-report"]
    for setting in (
        "options.view_size=[16,16,16]",
        "batch_size=2",
        "observe_samples=2",
        "optimiser.lr=1e-9",
    ):
        arguments += ["--set", setting]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    a, b = load_encoder(tmp_path / "run"), load_encoder(out)
    for x, y in zip(a.encoder.parameters(), b.encoder.parameters(), strict=True):
        assert torch.allclose(x, y, atol=1e-6)
