"""Through the command line: a transformer is pretrained and fine-tuned; imported weights go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from collections_made import write_collection
from dino_names import Dino
from monai.networks.nets.swin_unetr import SwinUNETR
from torch import nn
from typer.testing import CliRunner

from situs.cli import app
from situs.weights import load_card, load_encoder

pytestmark = pytest.mark.slow

SMALL = {
    "primus": "{width: 24, depth: 2, heads: 2, grid: [2], decoder_channels: 8}",
    "vit": "{width: 24, depth: 2, heads: 2, patch: [8], grid: [2], decoder_channels: 8}",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"), cases=4)


def call(*arguments: str | Path) -> Any:
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def pretrained(data: Path, out: Path, *more: str | Path) -> None:
    scans = data / "images"
    call("pretrain", "--method", "mae", "--data", scans, "--out", out, "--steps", "1", *more,
         "--no-report", "--quiet", "--set", "batch_size=2", "--set", "observe_samples=2",
         "--set", "optimiser.lr=1e-9")  # fmt: skip


def finetuned(data: Path, out: Path, *more: str | Path) -> dict[str, Any]:
    call("finetune", "--data", data, "--out", out, "--labels", "2", "--test", "1", "--steps", "1",
         "--quiet", *more)  # fmt: skip
    return json.loads((out / "result.json").read_text())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_a_transformer_is_pretrained_and_fine_tuned(name, dims, data: Path, tmp_path: Path):
    size = "[" + ",".join(["16"] * dims) + "]"
    chosen = ["--backbone", name, "--set", f"backbone.spatial_dims={dims}"]
    options = ["--set", f"backbone.options={SMALL[name]}", "--set", f"options.view_size={size}"]
    pretrained(data, tmp_path / "run", *chosen, *options)
    size = f"patch_size={size}"
    result = finetuned(data, tmp_path / "result", "--init", tmp_path / "run", "--set", size)
    assert {part: 1.0 for part in ("encoder", "decoder")} == shares(result)


def shares(result: dict[str, Any]) -> dict[str, float]:
    entries = result["ledger"]["entries"]
    found = {}
    for part in ("encoder", "decoder"):
        counts = [(e["count"], e["status"]) for e in entries if e["part"] == part and e["wanted"]]
        total = sum(n for n, _ in counts)
        found[part] = sum(n for n, status in counts if status == "loaded") / total
    return found


def swin_v2() -> nn.Module:
    torch.manual_seed(3)
    size = {"feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 3, 6)}
    return SwinUNETR(1, 3, window_size=3, use_v2=True, **size)


def threedino() -> nn.Module:
    torch.manual_seed(3)
    return Dino(3, 1, 16, 2, 0)


@pytest.mark.parametrize(
    ("network", "decoder"), [(threedino, 0.0), (swin_v2, 1.0)], ids=["3dino", "swin_unetr_v2"]
)
def test_imported_weights_start_everything(network, decoder, data: Path, tmp_path: Path):
    torch.save({"state_dict": network().state_dict()}, tmp_path / "file.pt")
    weights = tmp_path / "weights"
    call("import", tmp_path / "file.pt", "--out", weights, "--spacing", "1", "1", "1")
    card, ours = load_card(weights), load_encoder(weights)

    backbone = tmp_path / "pretrain.yaml"
    backbone.write_text(json.dumps({"backbone": card.backbone.model_dump(mode="json")}))
    size = [32, 32, 64]
    views = ["--set", f"options.view_size={size}", "--set", "options.block_size=[16,16,16]"]
    pretrained(data, tmp_path / "run", "--config", backbone, "--init", weights, *views)
    again = load_encoder(tmp_path / "run")
    for a, b in zip(again.encoder.parameters(), ours.encoder.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)

    size = f"patch_size={size}"
    result = finetuned(data, tmp_path / "result", "--init", weights, "--set", size)
    assert shares(result) == {"encoder": 1.0, "decoder": pytest.approx(decoder, abs=0.01)}
    begun = json.loads((tmp_path / "result" / "model" / "card.json").read_text())
    assert begun["preprocessing"]["spacing"] == [1.0, 1.0, 1.0]

    probed = call("probe", weights, "--data", data, "--labels", "2", "--test", "1", "--json")
    assert json.loads(probed.stdout)
    call("embed", weights, data / "images", "--out", tmp_path / "features.parquet", "--quiet")
    assert (tmp_path / "features.parquet").is_file()
