"""Scans of an archive as files of their own, which is what pretraining reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib

from situs.datasets.dataset import Case, Dataset
from situs.files import file_inside, writing


def image_files(dataset: Dataset, cases: Sequence[Case], folder: Path) -> tuple[Path, ...]:
    """The image files of ``cases``.

    Members of an archive are written to ``folder`` as NIfTI, and again only once the archive is
    newer than they are.

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
        file = file_inside(folder, case.name, ".nii")
        if not file.is_file() or file.stat().st_mtime < case.image[0].stat().st_mtime:
            scan, _ = dataset.read(case)
            (array,) = scan.array  # members have one channel
            image = nib.Nifti1Image(array, scan.affine)
            with writing(file, ".nii") as part:
                nib.save(image, part)
        files.append(file)
    return tuple(files)
