"""The demo cohort: one real anatomy, many deformations.

The MNI152 T1 template and its grey- and white-matter maps are shipped by the nilearn package;
nothing is downloaded. Each subject is the template under a random smooth warp, with tissue
labels warped along, then another contrast, bias field, gain and noise. What a method shows on
it is that it works, not that it works on patients.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from situs.demo.warps import random_warp, sample, smooth_field
from situs.errors import SitusError, require
from situs.files import write_json
from situs.scans.parallel import isolated_map

Floats = npt.NDArray[np.float32]

CLASSES = {0: "background", 1: "CSF and other", 2: "grey matter", 3: "white matter"}

_VERSION = 1
_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))
_LICENCE = (
    "Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal "
    "Neurological Institute, McGill University. Permission to use, copy, modify, and distribute "
    "for any purpose and without fee is granted, provided that this notice appears in all copies."
)


@dataclass(frozen=True)
class Template:
    """T1 and tissues of the MNI152 brain.

    Attributes:
        channels: ``(4, X, Y, Z)`` at 1 mm: T1 in 0 … 1, and the shares of CSF, grey and white
            matter; smoothed to the resolution of the grid that they will be sampled on.
        affine: ``(4, 4)`` of the 1 mm grid.
        spacing_mm: Of the grid that they will be sampled on.
    """

    channels: Floats
    affine: npt.NDArray[np.float64]
    spacing_mm: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of a subject."""
        x, y, z = (round(n / self.spacing_mm) for n in self.channels.shape[1:])
        return (x, y, z)

    @property
    def subject_affine(self) -> npt.NDArray[np.float64]:
        """``(4, 4)`` of a subject's grid, which begins at the same voxel centre."""
        return self.affine @ np.diag([*[self.spacing_mm] * 3, 1.0])


@dataclass(frozen=True)
class Subject:
    """One member of the cohort.

    Attributes:
        image: ``(X, Y, Z)`` int16.
        label: ``(X, Y, Z)`` uint8, see :data:`CLASSES`.
        affine: ``(4, 4)``, voxel centres to RAS mm.
        warp_mm: ``(3, X, Y, Z)``: where each voxel lies in the template, in mm from its first.
    """

    image: npt.NDArray[np.int16]
    label: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]
    warp_mm: Floats


def load_template(spacing_mm: float = 3.0) -> Template:
    """The template that nilearn ships, made ready for subjects of this spacing.

    Raises:
        SitusError: Where nilearn is not installed, or ``spacing_mm`` is below 1 or above 8.
    """
    if not 1 <= spacing_mm <= 8:
        raise SitusError(f"spacing_mm must be between 1 and 8, got {spacing_mm}")
    require("nilearn", "demo")
    from nilearn.datasets import (  # noqa: PLC0415 - an optional extra, slow to import
        load_mni152_gm_template,
        load_mni152_template,
        load_mni152_wm_template,
    )

    t1 = load_mni152_template(resolution=1)
    brain = np.asarray(t1.dataobj, dtype=np.float32)
    grey, white = (
        np.asarray(load(resolution=1).dataobj, dtype=np.float32)
        for load in (load_mni152_gm_template, load_mni152_wm_template)
    )
    # Shares of a voxel: what is brain but neither grey nor white is fluid, vessels, meninges.
    inside = ndimage.binary_fill_holes(brain > 0)
    csf = np.clip(inside - grey - white, 0, 1)
    sigma = np.sqrt(spacing_mm**2 - 1) / _FWHM
    channels = np.stack([brain, csf, grey * inside, white * inside])
    smooth = ndimage.gaussian_filter(channels, (0, sigma, sigma, sigma), truncate=3.0)
    return Template(smooth.astype(np.float32), np.asarray(t1.affine, float), spacing_mm)


def make_subject(template: Template, rng: np.random.Generator) -> Subject:
    """A random anatomy, imaged by a random scanner; a pure function of its arguments."""
    warp = random_warp(template.shape, template.spacing_mm, rng)
    t1, *tissues = sample(template.channels, warp)
    shares = np.stack([np.clip(1 - sum(tissues), 0, 1), *tissues])
    label = shares.argmax(axis=0).astype(np.uint8)

    image = t1 ** rng.uniform(0.75, 1.35)
    image += np.einsum("t,t...->...", rng.normal(0, 0.06, 3), shares[1:])
    bias = smooth_field(template.shape, 50.0 / template.spacing_mm, rng)[0]
    image = np.clip(image, 0, None) * np.exp(0.15 * bias)
    noise = rng.uniform(0.01, 0.04)
    real, imaginary = rng.normal(0, noise, (2, *template.shape))
    gain = 10 ** rng.uniform(2.6, 3.6)
    magnitude = gain * np.hypot(image + real, imaginary)
    return Subject(
        np.clip(magnitude, 0, 32767).round().astype(np.int16), label, template.subject_affine, warp
    )


def demo_cohort(
    out: str | Path,
    subjects: int = 24,
    seed: int = 0,
    spacing_mm: float = 3.0,
    workers: int | None = 0,
) -> Path:
    """Write a cohort that :func:`situs.datasets.dataset.open_dataset` reads.

    ``images/subject_00.nii.gz`` …, ``labels/`` with the same names, and ``dataset.json``. A
    subject depends on the seed and its own number alone. A cohort that is there already is
    left as it is.

    Args:
        out: Folder.
        subjects: How many.
        seed: Of everything random.
        spacing_mm: Voxel size, 1 to 8.
        workers: Processes; None for all cores, 0 for this process alone.

    Returns:
        ``out``.

    Raises:
        SitusError: If ``out`` holds something else, or nilearn is absent.
    """
    out = Path(out)
    description = _description(subjects, seed, spacing_mm)
    if _made_already(out, description):
        return out
    for folder in ("images", "labels"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    template = load_template(spacing_mm)
    jobs = [_Job(template, out, seed, number) for number in range(subjects)]
    for job, error in isolated_map(_write_subject, jobs, crashed=_crashed, workers=workers):
        if error:
            raise SitusError(f"subject {job.number} could not be made: {error}")
    # Last, so that a cohort with a description is whole.
    write_json(out / "dataset.json", description, indent=1)
    return out


@dataclass(frozen=True)
class _Job:
    template: Template
    out: Path
    seed: int
    number: int


def _write_subject(job: _Job) -> str:
    try:
        subject = make_subject(job.template, np.random.default_rng([job.seed, job.number]))
        for folder, array in (("images", subject.image), ("labels", subject.label)):
            image = nib.Nifti1Image(array, subject.affine)
            image.header.set_xyzt_units("mm")
            nib.save(image, job.out / folder / f"{_name(job.number)}.nii.gz")
    except OSError as error:
        return str(error)
    return ""


def _crashed(_: _Job) -> str:
    return "its process ended"


def _name(number: int) -> str:
    return f"subject_{number:02d}"


def _description(subjects: int, seed: int, spacing_mm: float) -> dict[str, Any]:
    """``dataset.json`` as the Medical Segmentation Decathlon has it, and how it was made."""
    names = [f"{_name(number)}.nii.gz" for number in range(subjects)]
    return {
        "name": "situs demo cohort",
        "description": "The MNI152 template under random smooth warps, contrasts and noise.",
        "reference": "ICBM 152 nonlinear symmetric 2009a; Fonov et al., NeuroImage 54 (2011)",
        "licence": _LICENCE,
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {str(value): name for value, name in CLASSES.items()},
        "numTraining": subjects,
        "numTest": 0,
        "training": [{"image": f"./images/{n}", "label": f"./labels/{n}"} for n in names],
        "test": [],
        "situs_demo": {"version": _VERSION, "seed": seed, "spacing_mm": spacing_mm},
    }


def _made_already(out: Path, description: dict[str, Any]) -> bool:
    file = out / "dataset.json"
    if not file.is_file():
        if (out / "images").is_dir() and any(
            not p.name.startswith("subject_") for p in (out / "images").iterdir()
        ):
            raise SitusError(f"{out} holds other images; choose another folder")
        return False
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if found != description:
        raise SitusError(
            f"{out} holds another cohort (other subjects, seed or spacing); choose another "
            "folder or delete it"
        )
    return True
