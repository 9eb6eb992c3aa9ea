"""Transformers of others: the package's own Primus, and 3DINO's public names."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from dino_names import Dino
from safetensors.torch import load_file
from torch import Tensor

from situs.errors import TransferError
from situs.weights import load_encoder
from situs.weights.foreign import import_weights

REFERENCE = Path(__file__).parents[1] / "support" / "primus_reference.py"


@pytest.fixture(scope="module")
def primus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """State, image, tokens and logits of the package's own class; its axes are Z, Y, X."""
    for package in ("timm", "dynamic_network_architectures"):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}, which the Makefile installs")
    file = tmp_path_factory.mktemp("primus") / "made.safetensors"
    subprocess.run([sys.executable, str(REFERENCE), str(file)], check=True, timeout=900)
    return load_file(file)


def checkpoint(primus: dict[str, Tensor]) -> dict[str, Any]:
    state = {n.removeprefix("state."): t for n, t in primus.items() if n.startswith("state.")}
    plan = {
        "configurations": {"onemmiso": {"spacing": [3, 2, 1], "patch_size": [16, 24, 32]}},
    }
    return {"network_weights": state, "nnssl_adaptation_plan": {"pretrain_plan": plan}}


@pytest.mark.slow
@torch.no_grad()
def test_primus_sees_the_same_at_the_same_place(primus: dict[str, Tensor], tmp_path: Path):
    torch.save(checkpoint(primus), tmp_path / "primus.pth")
    imported = import_weights(tmp_path / "primus.pth", tmp_path / "out")
    assert imported.layout == "nnssl"
    assert imported.ledger.encoder_share == 1
    assert imported.card.preprocessing["spacing"] == [1.0, 2.0, 3.0]
    assert imported.card.backbone.options["grid"] == [4, 3, 2]
    left = {e.name for e in imported.ledger.entries if e.part == "other"}
    assert left
    assert all(name.startswith(("up_projection.", "mask_token")) for name in left)
    image = primus["image"].permute(0, 1, 4, 3, 2)  # X, Y, Z
    (ours,) = load_encoder(imported.path).encode(image)
    theirs = primus["tokens"].unflatten(1, (2, 3, 4)).permute(0, 4, 3, 2, 1)
    assert torch.allclose(ours, theirs, atol=2e-5)


def test_a_primus_whose_grid_nobody_says_is_refused(primus: dict[str, Tensor], tmp_path: Path):
    torch.save(checkpoint(primus)["network_weights"], tmp_path / "bare.pth")
    with pytest.raises(TransferError, match="24 positions are of no cube"):
        import_weights(tmp_path / "bare.pth", tmp_path / "out")


def dino(*size: int) -> Dino:
    torch.manual_seed(2)
    network = Dino(*size).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


@torch.no_grad()
def test_3dino_sees_the_same(tmp_path: Path):
    network = dino(3, 1, 16, 2, 0)
    # As its training writes the teacher: behind a prefix, blocks in chunks, a head beside.
    state = {
        f"backbone.{n}".replace("blocks.", "blocks.0."): t for n, t in network.state_dict().items()
    }
    state["dino_head.last_layer.weight"] = torch.zeros(8, 4)
    torch.save({"teacher": state, "student": {}}, tmp_path / "3dino.pth")
    imported = import_weights(tmp_path / "3dino.pth", tmp_path / "out")
    assert (imported.layout, imported.ledger.encoder_share) == ("3dino", 1)
    assert (imported.card.licence, imported.card.decoder_trained) == ("CC-BY-NC-ND-4.0", False)
    left = {e.name for e in imported.ledger.entries if e.part == "other"}
    keys = {f"blocks.{n}.attn.qkv.bias (keys)" for n in (0, 1)}
    assert left == {"mask_token", "dino_head.last_layer.weight", *keys}
    image = torch.randn(2, 1, 32, 32, 32)
    (ours,) = load_encoder(imported.path).encode(image)
    assert torch.allclose(ours, network(image), atol=1e-5)


@torch.no_grad()
def test_transformers_of_photographs_start_2d_networks(tmp_path: Path):
    network = dino(2, 3, 14, 3, 4)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    imported = import_weights(tmp_path / "vit.pth", tmp_path / "out", licence="Apache-2.0")
    assert (imported.layout, imported.ledger.encoder_share) == ("dinov2", 1)
    image = torch.randn(2, 3, 42, 42)
    (ours,) = load_encoder(imported.path).encode(image)
    assert torch.allclose(ours, network(image), atol=1e-5)
