from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from situs.backbones import Backbone, BackboneConfig
from situs.errors import TransferError
from situs.weights import Card, load_card, load_encoder, load_into, save_weights, weights


class Tiny(Backbone):
    """Two convolutions: enough to tell loaded from adapted from skipped."""

    def __init__(self, in_channels: int = 1, width: int = 4, extra: int = 0) -> None:
        super().__init__()
        self.spatial_dims, self.in_channels = 3, in_channels
        self.channels, self.strides, self.decoder_channels = (width,), ((1, 1, 1),), width
        self.encoder = nn.ModuleDict({"stem": nn.Conv3d(in_channels, width, 3, padding=1)})
        self.decoder = nn.Conv3d(width, width, 1)
        if extra:
            self.encoder["extra"] = nn.Conv3d(width, extra, 1)

    @classmethod
    def from_config(cls, config: BackboneConfig) -> Tiny:
        return cls(config.in_channels, **{k: int(v) for k, v in config.options.items()})

    def encode(self, x: Tensor) -> list[Tensor]:
        return [self.encoder["stem"](x)]

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        return self.decoder(features[0])


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Tiny]:
    monkeypatch.setattr(weights, "build", lambda config, **_: Tiny.from_config(config))
    torch.manual_seed(0)
    backbone = Tiny()
    card = Card(backbone=BackboneConfig(), method="spatial", step=7, decoder_trained=True)
    save_weights(tmp_path / "run" / "checkpoints" / "last", backbone, card)
    return tmp_path / "run", backbone


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y)


def test_round_trip_and_preference_of_best(saved: tuple[Path, Tiny]) -> None:
    run, backbone = saved
    assert_same(load_encoder(run), backbone)
    assert load_card(run).step == 7
    better = Tiny()
    best = run / "checkpoints" / "best"
    save_weights(best, better, load_card(run).model_copy(update={"step": 5}))
    assert_same(load_encoder(run), better)
    assert_same(load_encoder(run / "checkpoints" / "last"), backbone)
    assert sorted(p.name for p in best.iterdir()) == [
        "card.json",
        "decoder.safetensors",
        "encoder.safetensors",
    ]


def test_every_tensor_is_accounted_for(saved: tuple[Path, Tiny]) -> None:
    run, backbone = saved
    target = Tiny()
    ledger = load_into(target, run)
    assert_same(target, backbone)
    assert {(e.part, e.name) for e in ledger.entries} == {
        ("encoder", "stem.weight"),
        ("encoder", "stem.bias"),
        ("decoder", "weight"),
        ("decoder", "bias"),
    }
    assert {e.status for e in ledger.entries} == {"loaded"}
    assert ledger.encoder_share == 1
    again = type(ledger).model_validate(json.loads(json.dumps(ledger.model_dump(mode="json"))))
    assert again == ledger


@pytest.mark.parametrize("channels", [2, 3])
def test_more_input_channels_keep_the_response(saved: tuple[Path, Tiny], channels: int) -> None:
    run, backbone = saved
    target = Tiny(in_channels=channels)
    ledger = load_into(target, run)
    (entry,) = [e for e in ledger.entries if e.status == "adapted"]
    assert (entry.name, entry.reason) == (
        "stem.weight",
        f"1 input channel(s) in the file, {channels} in the network",
    )
    assert ledger.encoder_share == 1
    x = torch.randn(1, 1, 5, 5, 5)
    torch.testing.assert_close(target(x.expand(-1, channels, -1, -1, -1)), backbone(x))


def test_fewer_input_channels_take_the_mean(tmp_path: Path) -> None:
    source, target = Tiny(in_channels=3), Tiny()
    save_weights(tmp_path, source, Card(backbone=BackboneConfig(in_channels=3)))
    load_into(target, tmp_path, parts=("encoder",))
    summed = source.encoder["stem"].weight.sum(1, keepdim=True)
    torch.testing.assert_close(target.encoder["stem"].weight, summed)


def test_untrained_decoder_stays_behind(tmp_path: Path) -> None:
    source, target = Tiny(), Tiny()
    before = target.decoder.weight.clone()
    save_weights(tmp_path, source, Card(backbone=BackboneConfig(), method="simclr"))
    ledger = load_into(target, tmp_path)
    assert torch.equal(target.decoder.weight, before)
    assert ledger.share("decoder") == 0
    assert {e.reason for e in ledger.entries if e.part == "decoder"} == {
        "'simclr' did not train the decoder"
    }


def test_too_little_matched_is_an_error_unless_allowed(saved: tuple[Path, Tiny]) -> None:
    run, _ = saved
    # 112 of 172 parameters of the larger encoder are in the file.
    with pytest.raises(TransferError, match=r"only 65\.1 % of the encoder.*\n.*extra\.weight"):
        load_into(Tiny(extra=12), run)
    ledger = load_into(Tiny(extra=12), run, allow_partial=True)
    assert ledger.encoder_share == pytest.approx(112 / 172)
    assert {e.reason for e in ledger.entries if e.status == "skipped"} == {"not in the file"}


def test_tensors_only_in_the_file_are_named(tmp_path: Path) -> None:
    save_weights(tmp_path, Tiny(extra=2), Card(backbone=BackboneConfig()))
    ledger = load_into(Tiny(), tmp_path)
    assert ledger.encoder_share == 1
    assert "encoder.extra.weight skipped: not in the network" in ledger.problems()


def test_loading_nothing_is_always_an_error(saved: tuple[Path, Tiny]) -> None:
    run, _ = saved
    with pytest.raises(TransferError, match="none of the weights fit"):
        load_into(Tiny(width=6), run, allow_partial=True)


def test_damage_is_noticed(saved: tuple[Path, Tiny], tmp_path: Path) -> None:
    run, _ = saved
    file = run / "checkpoints" / "last" / "encoder.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    with pytest.raises(TransferError, match="checksums differ"):
        load_encoder(run)
    file.unlink()
    with pytest.raises(TransferError, match=r"no encoder\.safetensors"):
        load_encoder(run)
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x04.")
    with pytest.raises(TransferError, match="never from pickled"):
        load_encoder(tmp_path / "model.ckpt")
    with pytest.raises(TransferError, match="does not exist"):
        load_encoder(tmp_path / "nothing")
    (run / "checkpoints" / "last" / "card.json").write_text('{"backbone": {"nme": "cnn"}}')
    with pytest.raises(TransferError, match="did you mean 'name'"):
        load_card(run)


def test_weights_that_do_not_fit_their_card(saved: tuple[Path, Tiny]) -> None:
    run, _ = saved
    card = load_card(run).model_copy(update={"backbone": BackboneConfig(options={"width": 8})})
    (run / "checkpoints" / "last" / "card.json").write_text(card.model_dump_json())
    with pytest.raises(TransferError, match="weights and card disagree"):
        load_encoder(run)


@pytest.mark.slow
def test_importing_situs_does_not_import_torch() -> None:
    code = "import sys, situs; assert 'torch' not in sys.modules; assert situs.load_encoder"
    subprocess.run([sys.executable, "-c", code], check=True)
