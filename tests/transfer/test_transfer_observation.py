"""The picture of a fine-tuning shows what was scored, where it is."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from situs.observation import Observation, OverlayPanel
from situs.report.figures.overlay import on_grid
from situs.transfer import Cohort, Result, finetune
from situs.transfer.observation import telling_cases


def row(case: str, name: str, dice: float) -> dict[str, str]:
    return {"case": case, "name": name, "dice": str(dice)}


def test_the_median_and_the_worst_case_are_shown() -> None:
    rows = [row(f"c{n}", k, 0.1 * n) for n in range(5) for k in ("a", "b")]
    assert telling_cases(rows) == {"c2": "median", "c0": "worst"}
    # A class that is absent says nothing; a case without any is no case to show.
    rows += [row("c0", "c", float("nan")), row("none", "a", float("nan"))]
    assert telling_cases(rows) == {"c2": "median", "c0": "worst"}
    assert telling_cases(rows[:2]) == {"c0": "only"}
    assert telling_cases([row("none", "a", float("nan"))]) == {}


@pytest.fixture(scope="module")
def result(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    values = {
        "data": collection,
        "out": tmp_path_factory.mktemp("result") / "out",
        "backbone": {"name": "cnn", "options": {"channels": [4, 8]}},
        "train": 2,
        "test": 3,
        "steps": 3,
        "patch_size": [16, 16, 8],
        "threads": 1,
    }
    return finetune(values, quiet=True)


def test_truth_and_prediction_are_those_that_were_scored(result: Result, collection: Path) -> None:
    (section,) = Observation.load(result.folder / "observation.obs").sections
    assert [p.title.split()[0] for p in section.panels] == ["Median", "Worst"]
    dice, hd95 = section.scores
    assert dice.value == pytest.approx(
        np.mean([np.mean([float(r["dice"]) for r in result.cases() if r["case"] == c])
                 for c in result.split["test"]])
    )  # fmt: skip
    assert hd95.unit == "mm"
    for panel in section.panels:
        assert isinstance(panel, OverlayPanel)
        assert panel.true is not None
        assert panel.overlay_affine is not None
        name = panel.volume.name
        whole = {
            "true": nib.load(collection / "labels" / f"{name}.nii.gz"),
            "predicted": nib.load(result.folder / "predictions" / f"{name}.nii.gz"),
        }
        for key, shown in (("true", panel.true), ("predicted", panel.overlay)):
            labels = np.asarray(whole[key].dataobj)
            assert np.count_nonzero(shown) == np.count_nonzero(labels)
            # The crop's voxels lie where the whole volume has them.
            places = np.argwhere(shown == 2)
            mm = places @ panel.overlay_affine[:3, :3].T + panel.overlay_affine[:3, 3]
            back = np.linalg.inv(whole[key].affine)
            there = np.rint(mm @ back[:3, :3].T + back[:3, 3]).astype(int)
            assert (labels[tuple(there.T)] == 2).all()


def test_the_scan_around_it_is_on_the_same_grid_in_mm(result: Result, collection: Path) -> None:
    cohort = Cohort.open(collection)
    (section,) = Observation.load(result.folder / "observation.obs").sections
    panel = section.panels[0]
    assert isinstance(panel, OverlayPanel)
    assert panel.true is not None
    label = cohort[panel.volume.name].prepared.label
    assert label is not None
    truth = on_grid(panel.true, panel.overlay_affine, panel)
    assert np.count_nonzero(truth) == pytest.approx(np.count_nonzero(label), rel=0.02)
    # Bright bodies are bright, dark ones dark: the picture is not shifted or mirrored.
    grey = panel.volume.array
    assert grey[truth == 1].mean() > grey[truth == 0].mean() + 40
    assert grey[truth == 2].mean() < grey[truth == 0].mean() - 40
