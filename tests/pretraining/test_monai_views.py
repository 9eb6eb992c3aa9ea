"""Methods in the loops and pipelines of others: MONAI's transforms, Lightning's trainer."""

from __future__ import annotations

import pickle
import runpy
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, SelectItemsd
from tiny import TinyBackbone

import situs
from situs.errors import ConfigError
from situs.store import Preprocessing, prepare
from situs.weights import load_card, load_encoder

EXAMPLES = Path(__file__).parents[2] / "examples"
RAS = np.diag([1.0, 1.5, 2.0, 1.0])


def image(seed: int = 0, affine: np.ndarray = RAS) -> MetaTensor:
    generator = torch.Generator().manual_seed(seed)
    return MetaTensor(torch.randn(1, 24, 26, 28, generator=generator), affine=affine)


def test_views_are_cut_where_they_say_and_follow_monais_seed():
    views = situs.Viewsd(
        "image", "mae", options={"view_size": (16, 16, 16)}, backbone=TinyBackbone()
    )
    scan = image()
    drawn = [views.set_random_state(seed)({"image": scan})["views"]["mae"] for seed in (1, 1, 2)]
    x, y, z = drawn[0]["start"][0].tolist()
    cut = scan.as_tensor()[:, x : x + 16, y : y + 16, z : z + 16]
    assert torch.equal(drawn[0]["image"][0], cut)
    assert all(torch.equal(drawn[0][key], drawn[1][key]) for key in drawn[0])
    assert not torch.equal(drawn[0]["start"], drawn[2]["start"])
    again = pickle.loads(pickle.dumps(views)).set_random_state(1)({"image": scan})
    assert torch.equal(again["views"]["mae"]["image"], drawn[0]["image"])

    left = image(affine=np.diag([-1.0, 1, 1, 1]))
    with pytest.raises(ConfigError, match=r"towards L, A, S; put Orientationd"):
        views({"image": left})
    with pytest.raises(ConfigError, match="look at studies"):
        situs.Viewsd("image", "planes")


def test_what_is_in_millimetres_follows_the_affine():
    """The gap between views is told in mm of the image's own affine, not in voxels."""
    scan = image()
    options = {"view_size": (8, 8, 8), "length_mm": (10, 10, 10)}
    views = situs.Viewsd("image", "spatial", options=options).set_random_state(0)
    batch = views({"image": scan})["views"]["spatial"]
    doubled = situs.Viewsd("image", "spatial", options=options).set_random_state(0)
    twice = doubled({"image": MetaTensor(scan.as_tensor(), affine=np.diag([2.0, 3, 4, 1]))})
    centers = batch["centers_mm"] - batch["centers_mm"][:1]
    larger = twice["views"]["spatial"]["centers_mm"]
    assert torch.allclose(larger - larger[:1], 2 * centers, atol=1e-4)


def test_in_workers_of_monais_loader():
    views = situs.Viewsd(
        "image", "mae", options={"view_size": (16, 16, 16)}, backbone=TinyBackbone()
    )
    data = Dataset([{"image": image(n)} for n in range(4)], Compose([views, SelectItemsd("views")]))
    objective = situs.Objective(views.composition, TinyBackbone())
    starts = []
    for batch in DataLoader(data, batch_size=2, num_workers=2):
        assert torch.isfinite(objective.loss(batch["views"])["total"])
        starts += [tuple(start.tolist()) for start in batch["views"]["mae"]["start"][:, 0]]
    assert len(set(starts)) == 4, "each worker has a seed of its own"


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for case in range(2):
        values = np.random.default_rng(case).normal(100, 20, (70, 70, 70)).astype(np.float32)
        nibabel.save(
            nibabel.Nifti1Image(values, np.diag([-1.0, 1, 1, 1])), folder / f"{case}.nii.gz"
        )
    return folder


def example(name: str):
    return runpy.run_path(str(EXAMPLES / name))["main"]


def test_the_lightning_example_runs_as_it_stands(scans: Path, tmp_path: Path):
    rules = Preprocessing(spacing=(1.0, 1.0, 1.0))
    store = prepare(sorted(scans.glob("*.nii.gz")), tmp_path / "store", rules, workers=1)
    total = example("lightning_loop.py")(str(store.path), str(tmp_path / "weights"), steps=1)
    assert np.isfinite(total)
    assert load_encoder(tmp_path / "weights").channels == (8, 16, 32)


def test_the_monai_example_runs_as_it_stands(scans: Path, tmp_path: Path):
    total = example("monai_loop.py")(str(scans), str(tmp_path / "weights"), epochs=1)
    assert np.isfinite(total)
    assert load_card(tmp_path / "weights").preprocessing["spacing"] == [1.0, 1.0, 1.0]
