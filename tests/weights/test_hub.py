from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from situs.backbones import BackboneConfig, build
from situs.errors import TransferError
from situs.weights import Card, load_encoder, save_weights
from situs.weights.hub import is_hub_name

pytest.importorskip("huggingface_hub", reason="needs the extra 'hub'")


def test_a_name_is_asked_for_on_the_hub_only_where_nothing_local_has_it(
    tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("owner/name")
    (tmp_path / "owner").mkdir()
    assert not is_hub_name("owner/name")  # a run folder with a slip of the pen
    for other in ("name", "/owner/name", "a/b/c", "../name", "./x/y", "owner/..", "x y/z"):
        assert not is_hub_name(other), other


@pytest.mark.slow
def test_offline_a_model_in_the_cache_of_the_hub_is_loaded_and_of_another_said_what_to_do(
    tmp_path: Path,
):
    """The cache is laid out as huggingface_hub documents it, and read by its own code offline."""
    config = BackboneConfig(name="cnn", options={"channels": [4, 8, 8]})
    torch.manual_seed(0)
    backbone = build(config)
    store = tmp_path / "hub" / "models--owner--name"
    commit = "0" * 40
    save_weights(store / "snapshots" / commit, backbone, Card(backbone=config))
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text(commit)
    script = (
        "import situs, torch; e = situs.load_encoder('owner/name');"
        "print(sum(float(p.double().sum()) for p in e.encoder.parameters()), flush=True);"
        "situs.load_encoder('nobody-there/no-such-model')"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    expected = sum(float(p.double().sum()) for p in backbone.encoder.parameters())
    assert float(result.stdout) == pytest.approx(expected), result.stderr
    assert "TransferError: there is no folder 'nobody-there/no-such-model' here" in result.stderr
    assert "give its path" in result.stderr


def test_the_error_of_load_encoder_is_one_of_transfer(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TransferError, match="does not exist"):
        load_encoder("runs")
