from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from typer.testing import CliRunner

from situs.backbones import BackboneConfig, build
from situs.cli import app
from situs.store import Preprocessing
from situs.transfer import features
from situs.transfer.cases import Cohort
from situs.transfer.probe import probe
from situs.weights import Card, save_weights


def saved(folder: Path, rules: Preprocessing, dims: int = 3) -> Path:
    torch.manual_seed(0)
    config = BackboneConfig(spatial_dims=dims, options={"channels": [4, 8]})
    preprocessing = rules.model_dump(mode="json")
    save_weights(folder, build(config), Card(backbone=config, preprocessing=preprocessing))
    return folder


@pytest.mark.parametrize("axis", [None, 1])
def test_voxel_features_are_those_of_the_whole_scan(axis: int | None) -> None:
    torch.manual_seed(0)
    dims = 3 if axis is None else 2
    options = {"channels": [3, 5], "norm": "batch"}
    backbone = build(BackboneConfig(spatial_dims=dims, options=options)).eval()
    rng = np.random.default_rng(0)
    # The odd size is padded by one voxel at the end.
    image = rng.normal(size=(1, 8, 6, 7)).astype(np.float32)
    voxels = np.stack([rng.integers(n, size=15) for n in image.shape[1:]], -1)
    found = features.voxel_features(backbone, image, voxels, axis)
    assert found.shape == (15, 8)
    padded = np.pad(image, ((0, 0), (0, 0), (0, 0), (0, 1)))
    for voxel, row in zip(voxels, found, strict=True):
        if axis is None:
            one, place = padded[None], voxel
        else:
            one, place = padded[None, :, :, voxel[1]], np.delete(voxel, 1)
        with torch.no_grad():
            fine, coarse = (f[0].numpy() for f in backbone.encode(torch.from_numpy(one)))
        np.testing.assert_allclose(row[:3], fine[(slice(None), *place)], atol=1e-5)
        centres = [[(p + 0.5) / 2 - 0.5] for p in place]
        expected = [map_coordinates(c, centres, order=1, mode="nearest")[0] for c in coarse]
        np.testing.assert_allclose(row[3:], expected, atol=1e-5)


def test_large_scans_are_encoded_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(features._LARGEST_TILE, 3, 4)
    torch.manual_seed(0)
    backbone = build(BackboneConfig(options={"channels": [3, 5]})).eval()
    image = np.random.default_rng(0).normal(size=(1, 8, 4, 4)).astype(np.float32)
    voxels = np.array([[1, 1, 1], [6, 2, 3]])
    both = features.voxel_features(backbone, image, voxels)
    first = features.voxel_features(backbone, image[:, :4], voxels[:1])
    second = features.voxel_features(backbone, image[:, 4:], voxels[1:] - [4, 0, 0])
    np.testing.assert_allclose(both, np.concatenate([first, second]), atol=1e-5)
    means = [features.scan_feature(backbone, half) for half in (image[:, :4], image[:, 4:])]
    np.testing.assert_allclose(
        features.scan_feature(backbone, image), np.mean(means, axis=0), atol=1e-5
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_voxel_probe(collection: Path, tmp_path: Path, dims: int) -> None:
    cohort = Cohort.open(collection)
    run = saved(tmp_path, cohort.rules, dims)
    result = probe(run, collection, train=3, test=3, voxels_per_class=30, cohort=cohort)
    assert result.chance == pytest.approx(1 / 3)
    assert result.samples == {"train": 270, "test": 270}
    assert not set(result.cases["train"]) & set(result.cases["test"])
    # Bright, dark and grey are told apart even by random filters.
    floor = 0.85 if dims == 3 else 0.7
    assert min(row.balanced_accuracy for row in result.rows) > floor
    assert {(r.features, r.probe) for r in result.rows} == {
        (f, p) for f in ("pretrained", "random") for p in ("knn", "linear")
    }
    # The seed's random network is the one that was saved here.
    scores = [r.balanced_accuracy for r in result.rows]
    assert scores[:2] == scores[2:]


def test_labels_without_meaning_are_at_chance(collection: Path, tmp_path: Path) -> None:
    cohort = Cohort.open(collection)
    rng = np.random.default_rng(0)
    for name in cohort.names:
        case = cohort[name]
        assert case.label is not None
        rng.shuffle(case.label.reshape(-1))
        object.__setattr__(case, "places", tuple(np.flatnonzero(case.label == k) for k in (1, 2)))
    result = probe(saved(tmp_path, cohort.rules), collection, train=3, test=3, cohort=cohort)
    assert all(row.balanced_accuracy == pytest.approx(1 / 3, abs=0.08) for row in result.rows)


def test_scan_probe_through_the_command_line(collection: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    rows = ["image,target"]
    for number, file in enumerate(sorted((collection / "images").iterdir())):
        (tmp_path / file.name).symlink_to(file)
        rows.append(f"{file.name},{'even' if number % 2 == 0 else 'odd'}")
    table.write_text("\n".join(rows))
    run = saved(tmp_path / "run", Preprocessing(spacing="native"))
    call = ["probe", str(run), "--data", str(table), "--labels", "4"]
    done = CliRunner().invoke(app, [*call, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["what"], result["chance"]) == ("scan labels", 0.5)
    assert result["samples"] == {"train": 4, "test": 2}
    assert "nearest neighbours" in CliRunner().invoke(app, call).output
