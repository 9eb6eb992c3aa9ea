"""What SwinUNETR's encoder is, and weights that others made for it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinUNETR
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from situs.backbones import Backbone, BackboneConfig, build, window_attention
from situs.backbones.swin_unetr import from_monai
from situs.backbones.window_attention import FusedWindowAttention, fuse_attention
from situs.files import sha256
from situs.weights import Card, load_encoder, save_weights
from situs.weights.ledger import Ledger, fill
from situs.weights.weights import load_part

OPTIONS = {"feature_size": 12, "depths": [1, 1, 1, 1], "window_size": 4}
BRANCHES = ("encoder1.", "encoder2.", "encoder3.", "encoder4.", "encoder10.")


def network(seed: int, **options: bool) -> Backbone:
    torch.manual_seed(seed)
    return build(BackboneConfig(name="swin_unetr", options={**OPTIONS, **options})).eval()


def monai(seed: int, v2: bool = False) -> SwinUNETR:
    torch.manual_seed(seed)
    norm = ("INSTANCE", {"affine": True})
    return SwinUNETR(1, 1, norm_name=norm, use_v2=v2, **OPTIONS).eval()


@torch.no_grad()
@pytest.mark.parametrize("v2", [False, True])
def test_weights_of_monai_start_the_same_network(v2: bool) -> None:
    reference, ours = monai(0, v2), network(1, use_v2=v2)
    parts = from_monai(reference.state_dict())
    entries = fill(ours.encoder, parts["encoder"], "encoder", (1, 1))
    entries += fill(ours.decoder, parts["decoder"], "decoder", (1, 1))
    ledger = Ledger(source="monai", entries=tuple(entries))
    assert ledger.problems() == []
    assert set(parts["other"]) == {"out.conv.conv.weight", "out.conv.conv.bias"}
    reference, ours = reference.double(), ours.double()
    x = torch.randn(1, 1, 32, 64, 32, dtype=torch.float64)
    assert torch.allclose(reference(x), reference.out(ours(x)), atol=1e-12)
    hidden = reference.swinViT(x, reference.normalize)
    for got, want in zip(ours.encode(x), [x, *hidden], strict=True):
        assert torch.allclose(got, want, atol=1e-12)


def as_pretrained(name: str) -> str:
    """As MONAI's self-supervised checkpoint calls the transformer's tensors."""
    return "module." + name.removeprefix("swinViT.").replace(".mlp.linear", ".mlp.fc")


@pytest.mark.parametrize(
    "naming", [as_pretrained, "module.backbone.{}".format, "student.{}".format]
)
def test_the_names_that_wrappers_leave_are_known(naming) -> None:
    state = {k: v for k, v in monai(0).state_dict().items() if k.startswith("swinViT.")}
    others = {"module.contrastive_head.weight": torch.zeros(2), "queue": torch.zeros(3)}
    parts = from_monai({naming(k): v for k, v in state.items()} | others)
    assert parts["other"].keys() == others.keys()
    assert parts["encoder"].keys() == state.keys()
    ours = network(1)
    ledger = Ledger(
        source="x", entries=tuple(fill(ours.encoder, parts["encoder"], "encoder", (1, 1)))
    )
    assert ledger.encoder_share == 1
    assert all(torch.equal(v, state[k]) for k, v in ours.encoder_state().items())


def test_encoding_costs_the_transformer_and_no_skip_branch() -> None:
    ours, reference, x = network(0), monai(0), torch.randn(1, 1, 64, 64, 64)
    fuse_attention(reference)  # torch counts nothing of what the CPU fuses

    def operations(call) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call(x)
        return counter.get_total_flops()

    transformer = operations(lambda x: reference.swinViT(x, True))
    assert operations(ours.encode) == transformer
    assert operations(ours) > 3 * transformer  # what was computed, in large part, before


def test_weights_of_before_keep_their_skip_branches(tmp_path: Path) -> None:
    """They stood with the encoder, and were written with it."""
    ours = network(0)
    card = Card(backbone=BackboneConfig(name="swin_unetr", options=OPTIONS), decoder_trained=True)
    folder = save_weights(tmp_path, ours, card)
    encoder, decoder = ours.encoder_state(), ours.decoder_state()
    branches = {k: v for k, v in decoder.items() if k.startswith(BRANCHES)}
    assert branches
    rewrite(folder, "encoder", {**encoder, **branches})
    rewrite(folder, "decoder", {k: v for k, v in decoder.items() if k not in branches})
    assert (load_part(folder, "encoder") or {}).keys() == encoder.keys()
    x = torch.randn(1, 1, 32, 32, 64)
    with torch.no_grad():
        assert torch.equal(load_encoder(folder)(x), ours(x))


def rewrite(folder: Path, part: str, state: dict[str, Tensor]) -> None:
    file = folder / f"{part}.safetensors"
    save_file({k: v.clone() for k, v in state.items()}, file)
    card = json.loads((folder / "card.json").read_text())
    card["checksums"][file.name] = sha256(file.read_bytes())
    (folder / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize(("dims", "size"), [(3, (2, 1, 64, 32, 32)), (2, (3, 1, 96, 64))])
def test_fused_attention_is_monais_and_so_is_its_gradient(
    dims: int, size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    # Windows of 5 in maps of 16 to 48: shifted and padded ones are among them.
    reference = SwinUNETR(1, 1, spatial_dims=dims, feature_size=12, window_size=5).swinViT.double()
    fused = copy.deepcopy(reference)
    fuse_attention(fused)
    assert any(isinstance(m, FusedWindowAttention) for m in fused.modules())
    assert fused.state_dict().keys() == reference.state_dict().keys()
    monkeypatch.setattr(window_attention, "has_kernel", lambda x, width: True)  # as on a GPU
    image = torch.randn(size, dtype=torch.float64)
    found, wanted = ([f.square().mean() for f in net(image)] for net in (fused, reference))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    sum(found).backward()
    sum(wanted).backward()
    trained = 0
    for (name, got), want in zip(fused.named_parameters(), reference.parameters(), strict=True):
        assert (got.grad is None) == (want.grad is None), name
        if got.grad is not None:
            torch.testing.assert_close(got.grad, want.grad, rtol=1e-9, atol=1e-14)
            trained += "relative_position_bias_table" in name
    assert trained == 8


@torch.no_grad()
def test_fused_attention_rounds_no_worse_under_autocast() -> None:
    torch.manual_seed(0)
    reference = SwinUNETR(1, 1, feature_size=12, window_size=5).swinViT
    fused = copy.deepcopy(reference)
    fuse_attention(fused)
    image = torch.randn(1, 1, 64, 32, 32)
    exact = reference(image)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = [net(image) for net in (reference, fused)]
    theirs, ours = (
        [float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]
        for found in rounded
    )
    assert all(0 < our < 1.5 * their for our, their in zip(ours, theirs, strict=True))
