from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.ndimage import map_coordinates
from typer.testing import CliRunner

from situs.backbones import BackboneConfig, build
from situs.cli import app
from situs.cli.tables import probed
from situs.errors import ConfigError
from situs.store import Preprocessing
from situs.transfer import features
from situs.transfer.cases import Cohort, PreparedCase
from situs.transfer.probe import ProbeResult, probe
from situs.weights import Card, save_weights


def saved(folder: Path, preprocessing: Preprocessing, dims: int = 3) -> Path:
    torch.manual_seed(0)
    config = BackboneConfig(spatial_dims=dims, options={"channels": [4, 8]})
    save_weights(
        folder,
        build(config),
        Card(backbone=config, preprocessing=preprocessing.model_dump(mode="json")),
    )
    return folder


def capture(result: ProbeResult) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(probed(result))
    return captured.get()


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
    run = saved(tmp_path, cohort.preprocessing, dims)
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


def write_table(collection: Path, folder: Path, header: str, rows: list[str]) -> Path:
    """A table of six scans; each row's text is what follows the image's name."""
    lines = [header]
    for file, row in zip(sorted((collection / "images").iterdir()), rows, strict=True):
        (folder / file.name).symlink_to(file)
        lines.append(f"{file.name},{row}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder / "labels.csv"


def test_one_class_among_the_training_scans_is_named(collection: Path, tmp_path: Path) -> None:
    data = write_table(collection, tmp_path, "image,target", ["well"] * 5 + ["sick"])
    cohort = Cohort.open(data, Preprocessing(spacing="native"))
    run = saved(tmp_path / "run", cohort.preprocessing)
    first, rest = cohort.names[:3], cohort.names[3:]
    with pytest.raises(ConfigError, match="do not differ in their labels: all are 'well'"):
        probe(run, data, train=first, test=rest, cohort=cohort)


def test_findings_that_cannot_be_learned_are_left_out(collection: Path, tmp_path: Path) -> None:
    rows = ["1,0,0", "0,0,1", "1,0,0", "1,1,1", "0,0,0", "0,1,0"]
    data = write_table(collection, tmp_path, "image,nodule,rare,fluid", rows)
    cohort = Cohort.open(data, Preprocessing(spacing="native"))
    run = saved(tmp_path / "run", cohort.preprocessing)
    first, rest = cohort.names[:3], cohort.names[3:]
    result = probe(run, data, train=first, test=rest, cohort=cohort)
    assert result.left_out == ("rare",)
    assert all(row.recall["rare"] is None for row in result.rows)
    assert all(row.recall["nodule"] is not None for row in result.rows)
    assert "left out" in capture(result)
    with pytest.raises(ConfigError, match="no test case has a class that could be learned"):
        probe(run, data, train=first, test=[cohort.names[4]], cohort=cohort)


def test_slices_lie_alike_in_training_and_test(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = Cohort.open(collection)
    first, rest = cohort.names[:2], cohort.names[2:4]

    def axis_of(backbone: object, cases: list[PreparedCase]) -> int:
        return 2 if [case.name for case in cases] == first else 0

    used: set[int | None] = set()
    encode = features.voxel_features

    def spy(*arguments: Any) -> Any:
        used.add(arguments[3])
        return encode(*arguments)

    monkeypatch.setattr("situs.transfer.probe.slice_axis_of", axis_of)
    monkeypatch.setattr("situs.transfer.probe.voxel_features", spy)
    probe(
        saved(tmp_path, cohort.preprocessing, dims=2),
        collection,
        train=first,
        test=rest,
        cohort=cohort,
    )
    assert used == {2}


def test_labels_without_meaning_are_at_chance(collection: Path, tmp_path: Path) -> None:
    cohort = Cohort.open(collection)
    rng = np.random.default_rng(0)
    for name in cohort.names:
        case = cohort[name]
        assert case.label is not None
        rng.shuffle(case.label.reshape(-1))
        object.__setattr__(case, "places", tuple(np.flatnonzero(case.label == k) for k in (1, 2)))
    result = probe(
        saved(tmp_path, cohort.preprocessing), collection, train=3, test=3, cohort=cohort
    )
    assert all(row.balanced_accuracy == pytest.approx(1 / 3, abs=0.08) for row in result.rows)


def test_scan_probe_through_the_command_line(collection: Path, tmp_path: Path) -> None:
    table = write_table(collection, tmp_path, "image,target", ["even", "odd"] * 3)
    run = saved(tmp_path / "run", Preprocessing(spacing="native"))
    call = ["probe", str(run), "--data", str(table), "--labels", "4"]
    done = CliRunner().invoke(app, [*call, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["what"], result["chance"]) == ("scan labels", 0.5)
    assert result["samples"] == {"train": 4, "test": 2}
    assert "nearest neighbours" in CliRunner().invoke(app, call).output
