"""NIfTI-1 and NIfTI-2, single file or pair, gzipped or not.

The affine follows the standard's own order (nifti1.h, "3D image (volume) orientation and
location in space"): sform where its code is above zero, else qform, else the voxel sizes alone.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError

from situs.scans import quality
from situs.scans.privacy import digest, role_words
from situs.scans.readers.options import ReadOptions, chosen_volumes
from situs.scans.refusals import refuse
from situs.scans.scan import Provenance, Scan

_HEADERS: dict[int, type[Any]] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_MAGIC = {b"n+1\x00": True, b"ni1\x00": False, b"n+2\x00": True, b"ni2\x00": False}
_TO_MM = {1: 1000.0, 3: 1e-3}  # xyzt_units: metre, micron
_TRAILING_BYTES = 2**20
_UNORDERED = ("c", "V")  # numpy kinds: complex, structured (RGB)


def read(path: Path, options: ReadOptions) -> Scan:
    """Read one NIfTI file; see :func:`situs.scans.read.read_scan`."""
    header, single = _read_header(path)
    shape, volumes = _volumes(header, path, options)
    affine, notes = _affine(header, path)
    quality.check_affine(affine, path)
    quality.check_shape(shape, path, planes=options.planes)
    data_file = path if single else _image_beside(path)
    _check_length(header, data_file, len(volumes), shape, path, options)
    array = _read_voxels(header, data_file, single, volumes, path)
    provenance = Provenance(
        format="nifti",
        series=digest("file", path.resolve()),
        description=role_words(_stem(path)),
        notes=tuple(notes),
    )
    return Scan(array, affine, "unknown", provenance)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def _open(path: Path) -> Any:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")


def _read_header(path: Path) -> tuple[Any, bool]:
    """The header without nibabel's silent repairs, and whether voxels follow in the same file."""
    try:
        with _open(path) as file:
            start = file.read(540)
    except (EOFError, zlib.error, OSError):
        raise refuse("truncated-file", path, "the header cannot be decompressed") from None
    if len(start) < 348:
        raise refuse("truncated-file", path, f"{len(start)} bytes; a header has 348 or more")
    for order in ("<", ">"):
        size = int(np.frombuffer(start, f"{order}i4", count=1)[0])
        magic = start[344:348] if size == 348 else start[4:8]
        if size in _HEADERS and magic in _MAGIC and len(start) >= size:
            return _HEADERS[size](start[:size], endianness=order, check=False), _MAGIC[magic]
    raise refuse("unreadable-file", path, "this is no NIfTI-1 or NIfTI-2 header")


def _volumes(header: Any, path: Path, options: ReadOptions) -> tuple[tuple[int, ...], list[int]]:
    """Shape of one volume and the indices of those to read along the fourth axis."""
    count = int(header["dim"][0])
    if not 1 <= count <= 7:
        raise refuse("absurd-header", path, f"the header has {count} dimensions")
    dims = [int(n) for n in header["dim"][1 : count + 1]]
    if min(dims) < 1:
        raise refuse("absurd-header", path, f"the header's shape is {dims}")
    dims += [1] * (3 - count)
    if any(n > 1 for n in dims[4:]):
        raise refuse("four-dimensional", path, f"shape is {dims}; situs reads up to 4 dimensions")
    try:
        kind = header.get_data_dtype().kind
    except (HeaderDataError, KeyError):
        raise refuse("unsupported-dtype", path, "the header's data type is unknown") from None
    if kind in _UNORDERED:
        rgb = int(header["datatype"]) in (128, 2304)
        raise refuse("colour-image" if rgb else "unsupported-dtype", path)
    frames = dims[3] if len(dims) > 3 else 1
    return (dims[0], dims[1], dims[2]), chosen_volumes(frames, options.volume, path)


def _affine(header: Any, path: Path) -> tuple[npt.NDArray[np.float64], list[str]]:
    zooms = [float(z) for z in header["pixdim"][1:4]]
    zooms += [1.0] * (3 - len(zooms))
    quality.check_spacing(zooms[: max(1, min(3, int(header["dim"][0])))], path)
    notes: list[str] = []
    qform = _qform(header, path)
    if int(header["sform_code"]) > 0:
        affine = np.asarray(header.get_sform(), dtype=np.float64)
        if np.isfinite(affine).all():
            _note_disagreement(affine, qform, header, notes)
    elif qform is not None:
        affine = qform
    else:
        affine = np.diag([*zooms, 1.0])
        notes.append("no sform and no qform: orientation assumed RAS, origin at the first voxel")
    scale = _TO_MM.get(int(header["xyzt_units"]) & 7)
    if scale is not None:
        affine = np.diag([scale, scale, scale, 1.0]) @ affine
        notes.append(f"lengths multiplied by {scale:g} to give mm")
    return affine, notes


def _qform(header: Any, path: Path) -> npt.NDArray[np.float64] | None:
    if int(header["qform_code"]) <= 0:
        return None
    try:
        return np.asarray(header.get_qform(), dtype=np.float64)
    except (ValueError, HeaderDataError):
        if int(header["sform_code"]) > 0:
            return None
        raise refuse("bad-orientation", path, "the quaternion is not that of a rotation") from None


def _note_disagreement(
    sform: npt.NDArray[np.float64],
    qform: npt.NDArray[np.float64] | None,
    header: Any,
    notes: list[str],
) -> None:
    """Compare the sform with the voxel sizes, and with where the qform puts the corners."""
    with np.errstate(over="ignore"):
        spacing = np.linalg.norm(sform[:3, :3], axis=0)
    if not np.allclose(spacing, header["pixdim"][1:4], rtol=0.01):
        sizes = "×".join(f"{z:.4g}" for z in header["pixdim"][1:4])
        notes.append(f"sform used; pixdim says voxels are {sizes} mm")
    if qform is None:
        return
    last = np.maximum(header["dim"][1:4].astype(int) - 1, 0)
    corners = np.stack(np.meshgrid(*[[0, n] for n in last]), axis=-1).reshape(-1, 3)
    with np.errstate(over="ignore"):
        moved_mm = corners @ (sform - qform)[:3, :3].T + (sform - qform)[:3, 3]
        worst = float(np.linalg.norm(moved_mm, axis=1).max())
    if worst > 0.1:
        notes.append(f"sform used; qform places voxels up to {worst:.1f} mm elsewhere")


def _image_beside(path: Path) -> Path:
    name = path.name.removesuffix(".gz").removesuffix(".hdr")
    for suffix in (".img", ".img.gz"):
        if (path.parent / (name + suffix)).is_file():
            return path.parent / (name + suffix)
    raise refuse("missing-file", path, "the .img file of this .hdr is not beside it")


def _check_length(
    header: Any,
    data_file: Path,
    volumes: int,
    shape: tuple[int, ...],
    path: Path,
    options: ReadOptions,
) -> None:
    size = data_file.stat().st_size
    bytes_each = int(header.get_data_dtype().itemsize)
    stored = int(np.prod(header["dim"][1 : int(header["dim"][0]) + 1].astype(object)))
    with data_file.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    needed = stored * bytes_each + int(float(header["vox_offset"]))
    if not zipped and size < needed:
        raise refuse("truncated-file", path, f"{size} bytes; the header promises {needed}")
    quality.check_size(stored, bytes_each, size if zipped else None, path, max_bytes=None)
    voxels = int(np.prod(shape)) * volumes
    quality.check_size(voxels, max(4, bytes_each), None, path, options.max_bytes)


def _read_voxels(
    header: Any, data_file: Path, single: bool, volumes: list[int], path: Path
) -> npt.NDArray[np.generic]:
    if single and float(header["vox_offset"]) < header.sizeof_hdr:
        raise refuse("unreadable-file", path, "voxels would start inside the header")
    try:
        with _open(data_file) as file:
            proxy = nib.arrayproxy.ArrayProxy(file, header, mmap=False)
            if proxy.ndim > 3 and len(volumes) < proxy.shape[3]:
                stack = [np.asanyarray(proxy[:, :, :, v, ...]) for v in volumes]
                raw = np.stack([v.reshape(v.shape[:3]) for v in stack])
            else:
                raw = np.asanyarray(proxy)
                raw = raw.reshape(*(raw.shape[:3] + (1,) * (3 - raw.ndim)), len(volumes))
                raw = np.moveaxis(raw, -1, 0)
                # gzip compares its checksum only where the stream ends.
                file.read(_TRAILING_BYTES)
    except (EOFError, zlib.error, OSError, ValueError):
        raise refuse("truncated-file", path, "the voxels end too early or are damaged") from None
    except HeaderDataError:
        raise refuse("non-finite", path, "the header's slope or intercept is infinite") from None
    if raw.dtype.kind == "f" and raw.dtype != np.float32:
        with np.errstate(over="ignore"):  # infinity is found later, and refused
            raw = raw.astype(np.float32)
    return np.ascontiguousarray(raw, dtype=raw.dtype.newbyteorder("="))
