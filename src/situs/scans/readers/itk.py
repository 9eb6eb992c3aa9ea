"""NRRD and MetaImage (MHA, MHD): geometry through SimpleITK, voxels decoded once.

SimpleITK answers in LPS. It reads no voxels here; see :mod:`situs.scans.readers.voxels`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it so

from situs.geometry.frames import turn_affine_lps_ras
from situs.scans import quality
from situs.scans.names import is_utf8
from situs.scans.privacy import digest, role_words
from situs.scans.readers import text_geometry, text_headers
from situs.scans.readers.options import ReadOptions, chosen_volumes
from situs.scans.readers.streams import HOLDS_MORE
from situs.scans.readers.text_headers import Voxels
from situs.scans.readers.voxels import components, decode, held_bytes, in_volumes, spatial_shape
from situs.scans.refusals import refuse
from situs.scans.scan import Provenance, Scan

_IO = {"nrrd": "NrrdImageIO", "mha": "MetaImageIO"}


def read(path: Path, options: ReadOptions) -> Scan:
    """Read one NRRD or MetaImage file; see :func:`situs.scans.read.read_scan`.

    Raises:
        ScanRefused: If it cannot be read or trusted.
    """
    fmt = "nrrd" if path.suffix.lower() in (".nrrd", ".nhdr") else "mha"
    fields, header_end = text_headers.header_fields(path, fmt)
    if fmt == "mha":
        text_headers.check_meta_fields(fields, path)
    voxels = text_headers.voxels_of(fields, path, fmt, header_end)
    text_geometry.check_spacing_text(fields, path)
    text_geometry.check_directions(fields, path)
    space_notes = text_geometry.check_space(fields, path) if fmt == "nrrd" else []
    unit = text_geometry.unit_mm(fields, path)
    sized = text_geometry.names_spacing(fields)
    if unit not in (None, 1.0) and not sized:
        raise refuse("bad-spacing", path, "the header names a unit of length, and no voxel size")
    reader = _information(path, fmt)
    volumes = _layout(reader, voxels, path, options)
    affine = _affine(reader, path, unit or 1.0)
    quality.check_affine(affine, path)
    x, y, z = (*spatial_shape(voxels)[:3], *(1,) * (3 - len(spatial_shape(voxels))))
    quality.check_shape((x, y, z), path, planes=options.planes)
    _check_length(voxels, path, options)
    values, notes = decode(voxels, path)
    notes += space_notes
    if fmt == "nrrd" and not {"space", "space dimension"} & fields.keys():
        notes.append("the header names no space: taken as LPS")
    if not sized:
        notes.append("the header gives no voxel size: taken as 1 mm")
    if unit not in (None, 1.0):
        notes.append(f"lengths multiplied by {unit:g} to give mm")
    if voxels.scale != (1.0, 0.0):
        notes.append("intensities by the header's slope and offset")
    provenance = Provenance(
        format=fmt,
        series=digest("file", path.resolve()),
        description=role_words(path.stem),
        notes=tuple(notes),
    )
    return Scan(in_volumes(values, voxels, volumes), affine, "unknown", provenance)


def _information(path: Path, fmt: str) -> sitk.ImageFileReader:
    if not is_utf8(str(path)):
        # SimpleITK would end the process.
        raise refuse("unreadable-file", path, "this format's reader takes paths in UTF-8 only")
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_IO[fmt])
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        # ITK's message repeats header text, so it is not passed on.
        raise refuse("unreadable-file", path, f"the {fmt.upper()} header makes no sense") from None
    return reader


def _layout(
    reader: sitk.ImageFileReader, voxels: Voxels, path: Path, options: ReadOptions
) -> list[int]:
    """Which volumes to read: components, or along a fourth axis."""
    pixel = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if "complex" in pixel:
        raise refuse("unsupported-dtype", path, "voxels are complex numbers")
    size: tuple[int, ...] = reader.GetSize()
    count = components(voxels)
    if (size, reader.GetNumberOfComponents()) != (spatial_shape(voxels), count):
        raise refuse("unreadable-file", path, "which axes are those of space does not get clear")
    if len(size) > 4 or (len(size) == 4 and count > 1):
        raise refuse("four-dimensional", path, f"shape is {size} × {count} components")
    if count in (3, 4) and voxels.dtype == np.uint8:
        raise refuse("colour-image", path)
    return chosen_volumes(size[3] if len(size) == 4 else count, options.volume, path)


def _affine(reader: sitk.ImageFileReader, path: Path, unit_mm: float) -> npt.NDArray[np.float64]:
    """Voxel centres to RAS mm, from origin, spacing and direction in LPS."""
    n = len(reader.GetSize())
    direction = np.array(reader.GetDirection(), dtype=np.float64).reshape(n, n)
    if n > 3 and not np.allclose(np.delete(direction[3], 3), 0):
        raise refuse("bad-orientation", path, "the fourth axis is mixed with those of space")
    affine = np.eye(4)
    m = min(n, 3)
    affine[:m, :m] = (direction * np.array(reader.GetSpacing()))[:m, :m] * unit_mm
    affine[:m, 3] = np.array(reader.GetOrigin())[:m] * unit_mm
    return turn_affine_lps_ras(affine)


def _check_length(voxels: Voxels, path: Path, options: ReadOptions) -> None:
    held = held_bytes(voxels)
    raw = voxels.encoding == "raw"
    if raw and held < voxels.nbytes:
        detail = f"{held} bytes of voxels; the header promises {voxels.nbytes}"
        raise refuse("truncated-file", path, detail)
    if raw and voxels.skip_bytes >= 0 and held >= 2 * voxels.nbytes:
        # Values of twice the bytes, or twice as many: one of the two is not what it says.
        raise refuse("absurd-header", path, f"{HOLDS_MORE}: {held} bytes for {voxels.nbytes}")
    if not raw and voxels.encoding == "bzip2":
        held *= 50  # bzip2 reaches about 45,000:1 on equal bytes, deflate about 1000:1
    quality.check_size(
        voxels.count, voxels.dtype.itemsize, None if raw else held, path, options.max_bytes
    )
