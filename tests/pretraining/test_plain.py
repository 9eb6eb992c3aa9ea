"""Methods without the trainer: data set, module, and the examples as they stand."""

from __future__ import annotations

import pickle
import runpy
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from tiny import TinyBackbone, smooth_sources
from torch.utils.data import DataLoader

import situs
from situs.errors import ConfigError
from situs.store import Preprocessing, prepare
from situs.weights import load_encoder

EXAMPLES = Path(__file__).parents[2] / "examples"


def equal(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return a == b


def test_samples_depend_on_seed_and_number_alone():
    sources = smooth_sources(3, (24, 24, 24))
    options = {"view_size": [8, 8, 8]}
    views = situs.views_dataset("spatial", sources, options=options, samples=7, seed=1)
    again = pickle.loads(pickle.dumps(views))
    other = situs.views_dataset("spatial", sources, options=options, samples=7, seed=2)
    backwards = [again[i] for i in reversed(range(7))][::-1]
    assert len(list(views)) == len(views) == 7  # iterating ends
    assert all(equal(views[i], backwards[i]) for i in range(7))
    assert not equal(views[0], other[0])
    with pytest.raises(ConfigError, match="no scans"):
        situs.views_dataset("spatial", [])


@pytest.mark.parametrize("method", ["spatial", "mae"])
def test_a_loop_of_ones_own_learns(method: str):
    torch.manual_seed(0)
    backbone = TinyBackbone()
    options = {"view_size": [16, 16, 16]}
    views = situs.views_dataset(
        method, smooth_sources(2, (32, 32, 32)), options=options, backbone=backbone, samples=2
    )
    objective = situs.Objective(views, backbone, momentum=0.5)
    (batch,) = DataLoader(views, batch_size=2)
    optimiser = torch.optim.Adam(objective.trained_parameters(), lr=3e-3)
    before = [p.clone() for p in backbone.encoder.parameters()]
    totals = []
    for _ in range(12):
        terms = objective.loss(batch, torch.Generator().manual_seed(0))
        optimiser.zero_grad()
        terms["total"].backward()
        optimiser.step()
        objective.update_teacher()
        totals.append(terms["total"].item())
    assert totals[-1] < totals[0]
    assert any(
        not torch.equal(a, b) for a, b in zip(before, backbone.encoder.parameters(), strict=True)
    )
    if objective.teacher is not None:
        student = list(objective.student.parameters())
        for a, b in zip(objective.teacher.parameters(), student, strict=True):
            assert not a.requires_grad
            assert torch.isfinite(a - b).all()


def test_the_example_runs_as_it_stands(tmp_path: Path):
    for case in range(2):
        values = np.random.default_rng(case).normal(100, 20, (70, 70, 70)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"{case}.nii.gz")
    scans = sorted(tmp_path.glob("*.nii.gz"))
    store = prepare(scans, tmp_path / "store", Preprocessing(spacing=(1.0, 1.0, 1.0)), workers=1)
    main = runpy.run_path(str(EXAMPLES / "plain_loop.py"))["main"]
    total = main(str(store.path), str(tmp_path / "weights"), steps=1)
    assert np.isfinite(total)
    assert load_encoder(tmp_path / "weights").channels == (8, 16, 32)
    assert len((EXAMPLES / "plain_loop.py").read_text().splitlines()) < 42
