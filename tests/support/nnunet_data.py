"""A data set for nnU-Net, and the plans that its own planner makes for it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage
from scipy.spatial.transform import Rotation

SHAPES = {"Z": (32, 28, 10), "X": (10, 32, 28)}
SPACINGS = {"Z": (1.0, 1.25, 4.0), "X": (4.0, 1.0, 1.25)}


def scan_files(root: Path, thick: str) -> Path:
    """A labelled data set of two oblique CT-like scans whose voxels lie L, S, P in the files."""
    folder = root / "raw" / "Dataset001_Oblique"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    matrix = Rotation.from_euler("xyz", (14, -9, 20), degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = matrix * SPACINGS[thick]
    affine[:3, 3] = (-20, 30, 7)
    stored = ornt_transform(io_orientation(affine), axcodes2ornt(("L", "S", "P")))
    for case in range(2):
        rng = np.random.default_rng(case)
        values = ndimage.gaussian_filter(rng.standard_normal(SHAPES[thick]), 1.5)
        values = np.round(values / values.std() * 500).astype(np.int16)
        # Two classes: a planner that finds nothing to segment plans nothing.
        for name, array in (
            (f"imagesTr/case{case}_0000", values),
            (f"labelsTr/case{case}", (values > 300).astype(np.uint8)),
        ):
            image = nibabel.Nifti1Image(array, affine).as_reoriented(stored)
            nibabel.save(image, folder / f"{name}.nii.gz")
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "bright": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def fingerprint(raw: Path, out: Path) -> None:
    """What nnU-Net notes of a data set, by its own analysis, without its pool of processes."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (  # noqa: PLC0415 - optional
        DatasetFingerprintExtractor,
    )
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient  # noqa: PLC0415 - optional

    cases = [
        DatasetFingerprintExtractor.analyze_case(
            [str(raw / "imagesTr" / f"case{case}_0000.nii.gz")],
            str(raw / "labelsTr" / f"case{case}.nii.gz"),
            NibabelIOWithReorient,
        )
        for case in range(2)
    ]
    shapes, spacings, intensities, _, sizes = zip(*cases, strict=True)
    values = np.concatenate([each[0] for each in intensities])
    known = {"mean": values.mean(), "median": np.median(values), "std": values.std()}
    known |= {"min": values.min(), "max": values.max()}
    known |= {
        f"percentile_{n}": np.percentile(values, p) for n, p in (("00_5", 0.5), ("99_5", 99.5))
    }
    out.mkdir()
    (out / "dataset_fingerprint.json").write_text(
        json.dumps(
            {
                "spacings": [list(map(float, s)) for s in spacings],
                "shapes_after_crop": [list(map(int, s)) for s in shapes],
                "foreground_intensity_properties_per_channel": {
                    "0": {k: float(v) for k, v in known.items()}
                },
                "median_relative_size_after_cropping": float(np.median(sizes)),
            }
        )
    )


def plan(root: Path, raw: Path) -> Path:
    """Plans of nnU-Net's ResEnc M planner, in ``preprocessed`` beside the raw data."""
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import (  # noqa: PLC0415 - optional
        residual_encoder_unet_planners as planners,
    )

    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed", "results"):
            (root / name).mkdir(exist_ok=True)
            patch.setenv(f"nnUNet_{name}", str(root / name))
        fingerprint(raw, root / "preprocessed" / raw.name)
        planners.nnUNetPlannerResEncM(1).plan_experiment()
    return root / "preprocessed" / raw.name / "nnUNetResEncUNetMPlans.json"


def small(plans: Path, out: Path) -> Path:
    """The same plans with a network that trains in a moment."""
    values = json.loads(plans.read_text())
    architecture = values["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    architecture["features_per_stage"] = [4, 6, 8, 8]
    architecture["n_blocks_per_stage"] = [1, 1, 1, 1]
    out.write_text(json.dumps(values))
    return out
