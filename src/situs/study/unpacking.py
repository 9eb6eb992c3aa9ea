"""Scans of an archive as files of their own, which is what pretraining reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from situs.scans.datasets import Case, Dataset


def image_files(dataset: Dataset, cases: Sequence[Case], folder: Path) -> tuple[Path, ...]:
    """The image files of ``cases``.

    Members of an archive are written to ``folder`` as NIfTI, once: a file that is there is taken
    as it is.

    Args:
        dataset: Reads the members.
        cases: Whose images are wanted.
        folder: Where to write; made only if anything is written.
    """
    files: list[Path] = []
    for case in cases:
        if case.member is None:
            files.extend(case.image)
            continue
        file = folder / f"{case.name}.nii"
        if not file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            scan, _ = dataset.read(case)
            channels_last = np.moveaxis(scan.array, 0, -1)
            image = nib.Nifti1Image(channels_last.squeeze(-1), scan.affine)
            partial = file.with_suffix(".part.nii")
            nib.save(image, partial)
            partial.replace(file)
        files.append(file)
    return tuple(files)
