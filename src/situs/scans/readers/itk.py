"""NRRD and MetaImage (MHA, MHD) through SimpleITK, which answers in LPS."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it so

from situs.geometry.frames import turn_affine_lps_ras
from situs.scans import quality
from situs.scans.names import is_utf8
from situs.scans.privacy import digest, role_words
from situs.scans.readers.options import ReadOptions, chosen_volumes
from situs.scans.refusals import refuse
from situs.scans.scan import Provenance, Scan

_HEADER_BYTES = 2**20
_PIECE = 2**20
_IO = {"nrrd": "NrrdImageIO", "mha": "MetaImageIO"}
_DATA_KEYS = ("data file", "datafile", "elementdatafile")
_META_COUNTS = {  # key → power of the number of dimensions
    "dimsize": 1,
    "elementspacing": 1,
    "elementsize": 1,
    "offset": 1,
    "origin": 1,
    "position": 1,
    "centerofrotation": 1,
    "transformmatrix": 2,
    "rotation": 2,
    "orientation": 2,
}
_MAX_CHANNELS = 1024
_MAX_VALUE = 1000
_SPACING_KEYS = ("spacings", "elementspacing", "elementsize")


def read(path: Path, options: ReadOptions) -> Scan:
    """Read one NRRD or MetaImage file; see :func:`situs.scans.read.read_scan`."""
    fmt = "nrrd" if path.suffix.lower() in (".nrrd", ".nhdr") else "mha"
    fields = _header_fields(path, fmt)
    if fmt == "mha":
        _check_meta_fields(fields, path)
    data_file = _data_file(path, fields)
    _check_spacing_text(fields, path)
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
    volumes, along_axis = _layout(reader, path, options)
    shape = _shape(reader)
    affine = _affine(reader, path)
    quality.check_affine(affine, path)
    quality.check_shape(shape, path, planes=options.planes)
    _check_length(reader, fields, data_file, path, options)
    array = _read_voxels(reader, volumes, along_axis, path)
    notes: tuple[str, ...] = ()
    if fmt == "nrrd" and not any(k in fields for k in ("space", "space dimension")):
        notes = ("the header names no space: taken as LPS",)
    provenance = Provenance(
        format=fmt,
        series=digest("file", path.resolve()),
        description=role_words(path.stem),
        notes=notes,
    )
    return Scan(array, affine, "unknown", provenance)


def _header_fields(path: Path, fmt: str) -> dict[str, str]:
    """The text header's fields, keys in lower case; reads its first megabyte only."""
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    if fmt == "nrrd" and not start.startswith(b"NRRD"):
        raise refuse("unreadable-file", path, "this is no NRRD header")
    separator = ":" if fmt == "nrrd" else "="
    fields: dict[str, str] = {}
    complete = len(start) < _HEADER_BYTES  # a detached header ends with its file
    for line in start.split(b"\n"):
        text = line.decode("latin-1").strip()
        if fmt == "nrrd" and not text:
            complete = True
            break
        key, found, value = text.partition(separator)
        key = key.strip().lower()
        if found and not text.startswith("#"):
            # Which of two would ITK believe? A second one could lead it round the checks.
            if key in fields:
                raise refuse("unreadable-file", path, "a field stands in the header twice")
            fields[key] = value.lstrip("=").strip()
        if fmt == "mha" and key == "elementdatafile":
            break
    if not complete or (fmt == "mha" and "elementdatafile" not in fields):
        raise refuse("unreadable-file", path, f"this is no whole {fmt.upper()} header")
    return fields


def _check_meta_fields(fields: dict[str, str], path: Path) -> None:
    """Refuse what MetaIO would read past the end of its buffers for: it trusts these numbers."""
    dims = fields.get("ndims", "")
    if dims not in ("2", "3", "4"):
        raise refuse("unreadable-file", path, "NDims must be 2, 3 or 4")
    n = int(dims)
    for key, count in _META_COUNTS.items():
        if key in fields and len(fields[key].split()) != n**count:
            raise refuse("unreadable-file", path, f"{key} must have {n**count} values")
    channels = fields.get("elementnumberofchannels", "1")
    if not channels.isdigit() or not 1 <= int(channels) <= _MAX_CHANNELS:
        raise refuse("unreadable-file", path, "ElementNumberOfChannels must be a small number")
    if any(len(value) > _MAX_VALUE for value in fields.values()):
        raise refuse("unreadable-file", path, "a header line is too long")


def _data_file(path: Path, fields: dict[str, str]) -> Path:
    """The file that holds the voxels, which must lie in the header's own folder."""
    given = [fields[key] for key in _DATA_KEYS if key in fields]
    named = given[0] if given else "LOCAL"
    if len(given) > 1:
        raise refuse("unreadable-file", path, "the header names two data files")
    if named.upper() == "LOCAL":
        return path
    if Path(named).name != named or named.upper().startswith("LIST") or "%" in named:
        raise refuse("outside-file", path, "voxels must be in one file beside the header")
    beside = path.parent / named
    if not beside.is_file():
        raise refuse("missing-file", path, "the data file named in the header is not beside it")
    return beside


def _check_spacing_text(fields: dict[str, str], path: Path) -> None:
    # ITK replaces a spacing it does not like by 1, or turns the axis round, without a word.
    for key in _SPACING_KEYS:
        if key in fields:
            values = [_number(text) for text in fields[key].split()]
            # NRRD says "nan" for an axis outside space, such as a list of components.
            known = [v for v in values if not math.isnan(v)]
            if key == "spacings" and len(known) >= min(3, len(values)):
                values = known
            quality.check_spacing(values, path)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _layout(
    reader: sitk.ImageFileReader, path: Path, options: ReadOptions
) -> tuple[list[int], bool]:
    """Which volumes to read, and whether they lie along a fourth axis (else are components)."""
    pixel = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if "complex" in pixel:
        raise refuse("unsupported-dtype", path, "voxels are complex numbers")
    size = reader.GetSize()
    components = reader.GetNumberOfComponents()
    if len(size) > 4 or (len(size) == 4 and components > 1):
        raise refuse("four-dimensional", path, f"shape is {size} × {components} components")
    if components in (3, 4) and "8-bit unsigned" in pixel:
        raise refuse("colour-image", path)
    count = size[3] if len(size) == 4 else components
    return chosen_volumes(count, options.volume, path), len(size) == 4


def _shape(reader: sitk.ImageFileReader) -> tuple[int, int, int]:
    size: tuple[int, ...] = reader.GetSize()
    x, y, z = (*size[:3], *(1,) * (3 - len(size)))
    return (x, y, z)


def _affine(reader: sitk.ImageFileReader, path: Path) -> npt.NDArray[np.float64]:
    """Voxel centres to RAS mm, from origin, spacing and direction in LPS."""
    n = len(reader.GetSize())
    direction = np.array(reader.GetDirection(), dtype=np.float64).reshape(n, n)
    if n > 3 and not np.allclose(np.delete(direction[3], 3), 0):
        raise refuse("bad-orientation", path, "the fourth axis is mixed with those of space")
    affine = np.eye(4)
    m = min(n, 3)
    affine[:m, :m] = (direction * np.array(reader.GetSpacing()))[:m, :m]
    affine[:m, 3] = reader.GetOrigin()[:m]
    return turn_affine_lps_ras(affine)


def _check_length(
    reader: sitk.ImageFileReader,
    fields: dict[str, str],
    data_file: Path,
    path: Path,
    options: ReadOptions,
) -> None:
    voxels = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    bytes_each = _bytes_each(reader)
    size = data_file.stat().st_size
    packed = fields.get("compresseddata", "").lower() == "true" or fields.get("encoding") not in (
        None,
        "raw",
    )
    if not packed and size < voxels * bytes_each:
        detail = f"{size} bytes; the header promises {voxels * bytes_each}"
        raise refuse("truncated-file", path, detail)
    quality.check_size(voxels, bytes_each, size if packed else None, path, options.max_bytes)
    if fields.get("compresseddata", "").lower() == "true":
        _check_zlib(path, data_file, voxels * bytes_each)


def _check_zlib(path: Path, data_file: Path, expected: int) -> None:
    """Whether a MetaImage's voxels decompress whole: ITK prints that they do not, and goes on."""
    try:
        with data_file.open("rb") as file:
            if data_file == path:
                for line in file:
                    if line.lower().startswith(b"elementdatafile"):
                        break
            stream, length = zlib.decompressobj(), 0
            while not stream.eof and (piece := stream.unconsumed_tail or file.read(_PIECE)):
                length += len(stream.decompress(piece, _PIECE))
                if length > expected:
                    break
    except zlib.error:
        length = -1
    if length != expected or not stream.eof:
        raise refuse("truncated-file", path, "the voxels end too early or are damaged")


def _bytes_each(reader: sitk.ImageFileReader) -> int:
    name = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    return next((n // 8 for n in (64, 32, 16) if f"{n}-bit" in name), 1)


def _read_voxels(
    reader: sitk.ImageFileReader, volumes: list[int], along_axis: bool, path: Path
) -> npt.NDArray[np.generic]:
    try:
        image = reader.Execute()
    except RuntimeError:
        raise refuse("truncated-file", path, "the voxels end too early or are damaged") from None
    if image.GetNumberOfComponentsPerPixel() > 1:
        pieces = [sitk.VectorIndexSelectionCast(image, v) for v in volumes]
    elif along_axis:
        pieces = [image[:, :, :, v] for v in volumes]
    else:
        pieces = [image]
    return np.stack([_array(piece) for piece in pieces])


def _array(image: sitk.Image) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = sitk.GetArrayFromImage(image).T
    array = array.reshape(array.shape + (1,) * (3 - array.ndim))
    return array.astype(np.float32) if array.dtype == np.float64 else array
