"""Observations as real methods make them, over nilearn's MNI152 template, without a network.

Predictions are the truth plus noise, so that scores and figures hang together.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

from situs.observation import (
    ArrowsPanel,
    BoxesPanel,
    CurvePanel,
    ImagesPanel,
    LinesPanel,
    MatchesPanel,
    MatrixPanel,
    Observation,
    OverlayPanel,
    Panel,
    ScatterPanel,
    Score,
    Section,
    Volume,
)
from situs.training.run import write_json

Float = npt.NDArray[np.float64]


@cache
def template() -> Volume:
    """The MNI152 T1 template at 3 mm."""
    from nilearn.datasets import load_mni152_template  # noqa: PLC0415 - slow to import

    image = load_mni152_template(resolution=3)
    return Volume(np.asarray(image.dataobj, np.float32), np.asarray(image.affine), "MNI152")


def panels(rng: np.random.Generator, error_vox: float = 2.0) -> dict[str, Panel]:
    """One panel of every kind."""
    volume = template()
    shape = np.asarray(volume.array.shape)
    starts = rng.integers(6, shape - 30, size=(3, 3)).astype(float)
    size = np.full((3, 3), 24.0)
    centres = starts + size / 2
    ends = np.roll(centres, -1, axis=0)
    gap = np.linalg.norm(centres[:, None] - centres[None], axis=-1) * 3
    noise = np.abs(rng.normal(0, 3 * error_vox, gap.shape)) * (1 - np.eye(3))
    grid = np.stack(np.meshgrid([18, 30, 42], [20, 36, 52], [30], indexing="ij"), -1)
    points = grid.reshape(-1, 3).astype(float)
    found = points + rng.normal(0, error_vox, points.shape) * [1, 1, 0]
    labels = np.digitize(volume.array, [0.35, 0.62]).astype(np.int16)
    truth = rng.normal(0, 20, 150)
    image = volume.array[:, :, 30].T[::-1]
    rows, columns = np.indices(image.shape)
    # (column, row, 0) → voxel: rows run from front to back.
    pixel_to_vox = np.diag([1.0, -1, 1, 1])
    pixel_to_vox[1:3, 3] = len(image) - 1, 30
    line = np.array([[0.8, 0.6, -40.0], [0.0, 1.0, -30.0]])
    distance = line[:, :1, None] * columns + line[:, 1:2, None] * rows + line[:, 2:, None]
    grid01 = np.indices(volume.array.shape) / shape[:, None, None, None]
    colours = np.moveaxis(grid01, 0, -1) * (volume.array > 0.2)[..., None]
    return {
        "matrix": MatrixPanel(
            title="Distances between views",
            caption="Each cell is the distance between two views' centres.",
            predicted=gap + noise,
            true=gap,
            labels=("view 1", "view 2", "view 3"),
        ),
        "plan": MatrixPanel(
            title="Transport plan",
            predicted=rng.random((48, 40)),
            true=np.eye(48, 40),
            unit="",
        ),
        "scatter": ScatterPanel(
            title="Gaps along each axis",
            caption="On the diagonal the prediction is exact.",
            predicted=truth + rng.normal(0, 3 * error_vox, 150),
            true=truth,
            quantity="gap",
            groups=tuple(["right–left", "back–front", "bottom–top"] * 50),
        ),
        "curve": CurvePanel(
            title="Position along the scan",
            x=np.arange(20.0),
            series=np.stack([np.linspace(0, 1, 20), np.linspace(0.1, 0.9, 20)]),
            names=("true", "predicted"),
            x_label="slice",
            y_label="relative position",
        ),
        "boxes": BoxesPanel(
            title="Chunks",
            volume=volume,
            start_vox=np.concatenate([starts[:2], starts[:2] + 12, starts[:1] + 2]),
            size_vox=np.concatenate([size[:2], size[:2] * 0 + 10, size[:1] * 0 + 10]),
            names=("view 1", "view 2", "chosen as closest", "chosen as closest", "truly closest"),
            roles=("view", "view", "right", "wrong", "true"),
        ),
        "arrows": ArrowsPanel(
            title="From view to view",
            caption="Every predicted arrow should end where the true one does.",
            volume=volume,
            start_vox=centres,
            predicted_vox=ends + rng.normal(0, error_vox, ends.shape),
            true_vox=ends,
            boxes_vox=np.stack([starts, size], axis=1),
            names=("view 1 → view 2", "view 2 → view 3", "view 3 → view 1"),
        ),
        "matches": MatchesPanel(
            title="Matched positions",
            left=volume,
            right=volume,
            left_vox=points,
            predicted_vox=found,
            true_vox=points,
            right_or_wrong=np.linalg.norm(found - points, axis=1) < 2.5,
        ),
        "lines": LinesPanel(
            title="Where other planes cut this image",
            image=image,
            spacing=(3.0, 3.0),
            predicted=line + rng.normal(0, 0.05, line.shape) * [1, 1, 30],
            true=line,
            heatmaps=np.exp(-(distance**2) / 32),
            names=("2-chamber", "4-chamber"),
            affine=volume.affine @ pixel_to_vox,
            volume=volume,
        ),
        "heat": OverlayPanel(
            title="Sharpness",
            volume=volume,
            overlay=np.asarray(volume.array[::4, ::4, ::4] ** 2),
        ),
        "colours": OverlayPanel(
            title="Principal components", volume=volume, overlay=colours, style="colours"
        ),
        "labels": OverlayPanel(
            title="Tissue",
            volume=volume,
            overlay=np.roll(labels, 1, axis=0),
            true=labels,
            style="labels",
            label_names=("background", "grey matter", "white matter"),
        ),
        "images": ImagesPanel(
            title="Rebuilt from a quarter",
            volumes=(volume, Volume(volume.array * 0.7, volume.affine), volume),
            names=("input", "masked", "rebuilt"),
        ),
    }


def observation(
    step: int = 200, error_vox: float = 2.0, seed: int = 0, hostile: str = ""
) -> Observation:
    """An observation with every panel kind, whose errors shrink with ``error_vox``."""
    rng = np.random.default_rng(seed)
    drawn = panels(rng, error_vox)
    misses = np.abs(rng.normal(3 * error_vox, 1.0, 8))
    right = 100 * (rng.random(8) > error_vox / 10)
    return Observation(
        method="spatial",
        step=step,
        sections=(
            Section(
                "Gap matrix",
                f"How far apart, and along which axis, are two sub-volumes of one scan?{hostile}",
                (
                    Score("gap_error", float(misses.mean()), "mm", "lower", 44.0, 31.2,
                          f"gap error{hostile}", tuple(misses.tolist())),
                    Score("gap_r2", 1 - error_vox / 10, "", "higher", -1.0, 0.0, "R² of gaps"),
                ),
                (drawn["matrix"], drawn["plan"], drawn["scatter"], drawn["arrows"]),
            ),
            Section(
                "Chunks",
                "Which two chunks lie closest together?",
                (
                    Score("adjacent_accuracy", float(right.mean()), "%", "higher", 25.0, None,
                          "closest pair found", tuple(right.tolist())),
                ),
                (drawn["boxes"], drawn["matches"], drawn["lines"], drawn["curve"]),
            ),
            Section(
                "Features",
                "What do the features look like?",
                (),
                (drawn["heat"], drawn["colours"], drawn["labels"], drawn["images"]),
            ),
        ),
        warnings=(hostile,) if hostile else (),
        scans=tuple(f"scan-{n}{hostile}" for n in range(8)),
        modalities=("MR",) * 5 + ("CT",) * 3,
        spacings=((1.0, 1.0, 1.0),) * 4 + ((1.0, 1.0, 5.0),) * 4,
    )  # fmt: skip


def write_run(
    folder: Path, steps: tuple[int, ...] = (0, 200), hostile: str = "", sections: int = 3
) -> Path:
    """A finished run folder with observations, metrics, data and two transfer results."""
    rng = np.random.default_rng(0)
    (folder / "observations").mkdir(parents=True)
    config = {
        "method": "spatial",
        "data": "/archive/Smith^Anna/1961/store",
        "seed": 0,
        "steps": max(steps),
    }
    config |= {"batch_size": 4, "backbone": {"name": "cnn", "spatial_dims": 3}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    info = {
        "situs_version": "0.1.0",
        "method": "spatial",
        "method_info": {
            "spatial": {
                "title": "Gaps, chunks and vectors",
                "paper": "arXiv 2509.05967",
                "formulas": {"gap_axis": f"MSE(ĝ, g){hostile}"},
            }
        },
        "data_fingerprint": "a1b2c3",
        "seed": 0,
        "scans": 20,
        "held_out_items": 8,
        "status": "finished",
        "step": max(steps),
        "wall_seconds": 321.5,
        "hardware": {"cores": 2, "gpus": []},
        "data_wait_share": 0.04,
    }
    write_json(folder / "run.json", info)
    records = [
        {
            "key": f"scan-{n}{hostile}",
            "modality": "MR" if n % 3 else "CT",
            "shape": [60 + n, 72, 60],
            "spacing": [1.0, 1.0, 1.0 + (n % 4)],
            "held_out": n < 8,
        }
        for n in range(20)
    ]
    refused = [{"name": f"broken{hostile}.nii.gz", "reason": "empty-file", "detail": "0 bytes"}]
    write_json(folder / "data.json", {"records": records, "refused": refused})
    every = np.arange(10, max(steps) + 1, 10)
    lines = ["step,loss/total,loss/gap_axis,score/gap_error,score/gap_r2,lr,seconds"]
    for n, step in enumerate(every):
        total = 2 * np.exp(-n / 10) + rng.normal(0, 0.05)
        seen = f"{30 - n},{n / 30}" if step in steps else ","
        lines.append(f"{step},{total},{total / 2},{seen},0.001,{n * 3}")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for n, step in enumerate(steps):
        error = 8.0 / (1 + n)
        seen = observation(step, error, hostile=hostile)
        replace(seen, sections=seen.sections[:sections]).save(
            folder / "observations" / f"{step:07d}-spatial.obs"
        )
    for name, gain in (("scratch", 0.0), ("pretrained", 0.06)):
        write_transfer(folder / "transfer" / name, gain, rng, hostile)
    return folder


def write_transfer(folder: Path, gain: float, rng: np.random.Generator, hostile: str = "") -> None:
    """A segmentation result; ``gain`` above scratch, which has 0."""
    folder.mkdir(parents=True)
    cases = [f"case-{n}" for n in range(12)]
    dice = np.clip(0.7 + gain + rng.normal(0, 0.02, (12, 2)), 0, 1)
    # What is better in Dice need not be so at the surface.
    hd95 = 10 + 40 * gain + rng.normal(0, 0.2, (12, 2))
    rows = [
        f"{case},{label},{name},both,{dice[n, label - 1]},{hd95[n, label - 1]}"
        for n, case in enumerate(cases)
        for label, name in ((1, "anterior"), (2, "posterior"))
    ]
    head = "case,label,name,presence,dice,hd95_mm"
    (folder / "cases.csv").write_text(f"{head}\n" + "\n".join(rows), encoding="utf-8")
    if gain:
        shown = replace(panels(rng)["labels"], title=f"Median case case-3{hostile}")
        segmentation = Section("Segmentation", "Where is it right?", (), (shown,))
        Observation("segmentation", 90, (segmentation,)).save(folder / "observation.obs")
    means = dice.mean(axis=0)
    write_json(
        folder / "result.json",
        {
            "task": "segmentation",
            "init": "runs/first" if gain else "none",
            "method": "spatial" if gain else "none",
            "scores": {"dice": float(dice.mean()), "hd95_mm": float(hd95.mean())},
            "classes": {n: {"dice": float(m)} for n, m in zip(["a", "p"], means, strict=True)},
            "split": {"train": ["t1", "t2"], "validation": [], "test": cases},
            "seconds": {"train": 12.0},
        },
    )
