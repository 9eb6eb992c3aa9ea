"""The one type for a scan: array, affine in RAS mm, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Provenance:
    """Where a scan came from, with every identifier hashed.

    Attributes:
        format: ``"nifti"``, ``"nrrd"``, ``"mha"`` or ``"dicom"``.
        series: Hash of the series' identifier, or of the file's path; stable, not reversible.
        study: Hash of what places scans in one frame of reference (DICOM frame of reference
            and study), empty when unknown.
        patient: Hash of the patient's identifier, empty when unknown.
        description: Role words recognised in the series' description ("t1", "sax"); never the
            free text itself.
        notes: What was handled on the way in ("sorted 22 slices by position"), for the catalog.
        burned_in: Whether a DICOM header says that text stands in the pixels, perhaps a name.
    """

    format: str = "array"
    series: str = ""
    study: str = ""
    patient: str = ""
    description: str = ""
    notes: tuple[str, ...] = ()
    burned_in: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Scan:
    """A scan in memory.

    Attributes:
        array: ``(C, X, Y, Z)`` in the file's own voxel order, after rescale slope/intercept.
        affine: ``(4, 4)`` float64; takes the *centre* of voxel ``(i, j, k)`` to RAS mm.
        modality: ``"CT"``, ``"MR"``, ``"PT"``, … or ``"unknown"``.
        provenance: Where it came from.
        modalities: Of each channel, where they differ (CT beside PET); empty where all are
            ``modality``.
    """

    array: npt.NDArray[np.generic]
    affine: npt.NDArray[np.float64]
    modality: str = "unknown"
    provenance: Provenance = field(default_factory=Provenance)
    modalities: tuple[str, ...] = ()

    def __repr__(self) -> str:
        size = "×".join(map(str, self.shape))
        spacing = "×".join(f"{s:.3g}" for s in self.spacing)
        return (
            f"Scan({self.array.shape[0]} channel(s) of {size} voxels, {spacing} mm, "
            f"{self.orientation}, {self.modality}, {self.array.dtype})"
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis, without channels."""
        x, y, z = self.array.shape[1:]
        return (x, y, z)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxel centres along each array axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return (x, y, z)

    @property
    def channel_modalities(self) -> tuple[str, ...]:
        """The modality of every channel."""
        return self.modalities or (self.modality,) * self.array.shape[0]

    @property
    def orientation(self) -> str:
        """Anatomical direction that each array axis runs towards, for instance ``"RAS"``."""
        from nibabel.orientations import aff2axcodes  # noqa: PLC0415 - `import situs` is quick

        return "".join(aff2axcodes(self.affine))
