from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from situs import read_scan
from situs.backbones import BackboneConfig, build
from situs.cli import app
from situs.errors import RunError, StoreError
from situs.report.embedding import _umap, write_page
from situs.store import Preprocessing, prepare, preprocess
from situs.transfer.embed import embed, read_embedding
from situs.weights import Card, load_encoder, save_weights

RULES = Preprocessing(spacing=(2.0, 2.0, 3.0), crop=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights and four scans, two of them the same but for their orientation in the file."""
    folder = tmp_path_factory.mktemp("embed")
    torch.manual_seed(0)
    config = BackboneConfig(name="cnn", options={"channels": [4, 8, 12]})
    card = Card(backbone=config, method="spatial", preprocessing=RULES.model_dump(mode="json"))
    save_weights(folder / "weights", build(config), card)
    (folder / "scans").mkdir()
    for number in range(3):
        rng = np.random.default_rng(number)
        values = rng.normal(100, 20, (20, 24, 16)).astype(np.float32)
        image = nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0]))
        nibabel.save(image, folder / "scans" / f"scan-{number}.nii.gz")
    turned = image.as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))
    nibabel.save(turned, folder / "scans" / "turned.nii.gz")
    (folder / "scans" / "broken.nii.gz").write_bytes(b"no scan")
    return folder


def test_rows_are_features_that_the_encoder_gives(place: Path, tmp_path: Path):
    done = embed(place / "weights", [place / "scans"], tmp_path / "f.parquet")
    assert (done.scans, done.rows, done.width) == (4, 4, 24)
    assert [e.path.name for e in done.refused] == ["broken.nii.gz"]
    table, provenance = read_embedding(done.path)
    rows = {r["scan"]: np.array(r["feature"], np.float32) for r in table.to_pylist()}
    # An image of this size is one tile: the mean of each scale, computed by hand.
    prepared = preprocess(read_scan(place / "scans" / "scan-1.nii.gz"), RULES)
    with torch.no_grad():
        scales = load_encoder(place / "weights").encode(torch.from_numpy(prepared.array)[None])
    expected = np.concatenate([s.mean((2, 3, 4))[0].numpy() for s in scales])
    np.testing.assert_allclose(rows["scan-1"], expected, atol=1e-5)
    # How a file stores its axes says nothing about anatomy.
    np.testing.assert_allclose(rows["turned"], rows["scan-2"], atol=1e-5)
    assert np.abs(rows["scan-1"] - rows["scan-2"]).max() > 1e-4
    assert provenance["card"]["method"] == "spatial"
    assert len(provenance["encoder_sha256"]) == 64
    assert str(place) not in json.dumps(provenance)


def test_a_grid_says_where_each_feature_lies(place: Path, tmp_path: Path):
    scan = place / "scans" / "turned.nii.gz"
    done = embed(place / "weights", [scan], tmp_path / "f.parquet", grid_mm=9.0)
    table, _ = read_embedding(done.path)
    rows = table.to_pylist()
    other = embed(
        place / "weights", [place / "scans" / "scan-2.nii.gz"], tmp_path / "g.parquet", grid_mm=9.0
    )
    same = {
        tuple(r["position_mm"]): r["feature"] for r in read_embedding(other.path)[0].to_pylist()
    }
    assert len(rows) == len(same) > 20
    for row in rows:  # the same place of the body, whatever the file's axes
        np.testing.assert_allclose(row["feature"], same[tuple(row["position_mm"])], atol=1e-4)


def test_a_store_must_have_the_rules_of_the_weights(place: Path, tmp_path: Path):
    store = prepare([place / "scans"], tmp_path / "store", RULES, workers=1)
    done = embed(place / "weights", [store.path], tmp_path / "f.parquet")
    assert done.scans == len(store)
    plain = RULES.model_copy(update={"compression": "none"})
    store = prepare([place / "scans"], tmp_path / "plain", plain, workers=1)
    assert embed(place / "weights", [store.path], tmp_path / "p.parquet").scans == len(store)
    other = prepare(
        [place / "scans"], tmp_path / "other", Preprocessing(spacing="native"), workers=1
    )
    with pytest.raises(StoreError, match="spacing"):
        embed(place / "weights", [other.path], tmp_path / "g.parquet")


def test_the_command_writes_a_table_and_a_page(place: Path, tmp_path: Path):
    out = tmp_path / "features.parquet"
    arguments = ["embed", str(place / "weights"), str(place / "scans"), "--out", str(out), "--json"]
    arguments.append("--names")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["scans"], [r["scan"] for r in said["refused"]]) == (4, ["broken.nii.gz"])
    page = (tmp_path / "features.html").read_text(encoding="utf-8")
    # The same scan twice: each is the other's nearest.
    assert "turned <small>1.00</small>" in page
    assert str(tmp_path) not in page
    with pytest.raises(RunError, match="is there already"):
        embed(place / "weights", [place / "scans"], out)


@pytest.mark.slow
def test_the_map_keeps_groups_together_with_umap_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("umap", reason="needs the extra 'umap'")
    rng = np.random.default_rng(0)
    groups = np.repeat(np.eye(4, 12) * 8, 8, axis=0) + rng.normal(0, 0.3, (32, 12))
    threads = torch.get_num_threads()
    places, again = (_umap(groups) for _ in range(2))
    assert torch.get_num_threads() == threads, "what comes after it sums as before"
    assert np.array_equal(places, again), "one seed, one map"
    nearest = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(32) * 1e9
    assert (nearest.argmin(1) // 8 == np.arange(32) // 8).all()
    assert _umap(groups[:10]) is None
    monkeypatch.setattr("situs.report.embedding.find_spec", lambda name: None)
    assert _umap(groups) is None


def test_the_page_says_how_its_map_was_made(place: Path, tmp_path: Path):
    done = embed(place / "weights", [place / "scans"], tmp_path / "f.parquet", grid_mm=None)
    page = write_page(done.path).read_text()
    assert "Principal components of the scans" in page
    assert page.count('<th scope="row">') == 4
