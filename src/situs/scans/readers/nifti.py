"""NIfTI-1 and NIfTI-2, single file or pair, gzipped or not.

The affine is that of :mod:`situs.scans.readers.nifti_affine`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError

from situs.scans import quality
from situs.scans.formats import without_suffix
from situs.scans.privacy import digest, role_words
from situs.scans.readers.nibabel_images import read_analyze
from situs.scans.readers.nifti_affine import nifti_affine
from situs.scans.readers.options import ReadOptions, chosen_volumes
from situs.scans.readers.streams import (
    DAMAGE,
    HOLDS_MORE,
    GoesOnError,
    Inflated,
    open_plain_or_gzip,
)
from situs.scans.refusals import refuse
from situs.scans.scan import Provenance, Scan

_HEADERS: dict[int, type[Any]] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_MAGIC = {b"n+1\x00": True, b"ni1\x00": False, b"n+2\x00": True, b"ni2\x00": False}
_LINE_ENDS = (b"\r\n\x1a\n", b"\0\0\0\0")  # NIfTI-2's own check, which some leave empty
_UNORDERED = ("c", "V")  # numpy kinds: complex, structured (RGB)


def read(path: Path, options: ReadOptions) -> Scan:
    """Read one NIfTI file; see :func:`situs.scans.read.read_scan`.

    Raises:
        ScanRefused: If the file is damaged, or says nothing clear of its voxels.
    """
    start = _start(path)
    if _is_analyze(start, path):
        return read_analyze(path, _image_beside(path), options)
    header, single = _header(start, path)
    shape, volumes = _volumes(header, path, options)
    affine, notes = nifti_affine(header, path)
    quality.check_affine(affine, path)
    quality.check_shape(shape, path, planes=options.planes)
    data_file = path if single else _image_beside(path)
    doubtful = single and float(header["vox_offset"]) < _least_offset(header)
    notes += _start_of_voxels(header, path) if doubtful else []
    _check_length(header, data_file, len(volumes), shape, path, options)
    array, more = _read_voxels(header, data_file, volumes, path)
    if doubtful and more:
        raise refuse("unreadable-file", path, "where its voxels start is not clear (vox_offset)")
    notes += more
    provenance = Provenance(
        format="nifti",
        series=digest("file", path.resolve()),
        description=role_words(_stem(path)),
        notes=tuple(notes),
    )
    return Scan(array, affine, "unknown", provenance)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def _start(path: Path) -> bytes:
    try:
        with open_plain_or_gzip(path) as file:
            return file.read(540)
    except DAMAGE:
        raise refuse("truncated-file", path, "the header cannot be decompressed") from None


def _is_analyze(start: bytes, path: Path) -> bool:
    """Whether this is a header of NIfTI's ancestor, which has no magic."""
    sizes = {int(np.frombuffer(start, f"{o}i4", count=1)[0]) for o in "<>" if len(start) >= 348}
    detached = path.name.lower().endswith(".hdr")
    return detached and 348 in sizes and start[344:348] not in _MAGIC


def _header(start: bytes, path: Path) -> tuple[Any, bool]:
    """The header without nibabel's silent repairs, and whether voxels follow in the same file."""
    if len(start) < 348:
        raise refuse("truncated-file", path, f"{len(start)} bytes; a header has 348 or more")
    for order in ("<", ">"):
        size = int(np.frombuffer(start, f"{order}i4", count=1)[0])
        magic = start[344:348] if size == 348 else start[4:8]
        if size == 540 and start[8:12] not in _LINE_ENDS:
            raise refuse("unreadable-file", path, "line ends were converted, as of a text file")
        if size in _HEADERS and magic in _MAGIC and len(start) >= size:
            # A .nii whose magic is that of a pair holds its voxels all the same.
            single = _MAGIC[magic] or path.suffix.lower() != ".hdr"
            return _HEADERS[size](start[:size], endianness=order, check=False), single
    raise refuse("unreadable-file", path, "this is no NIfTI-1 or NIfTI-2 header")


def _volumes(header: Any, path: Path, options: ReadOptions) -> tuple[tuple[int, ...], list[int]]:
    """Shape of one volume and the indices of those to read along the fourth axis."""
    count = int(header["dim"][0])
    if not 1 <= count <= 7:
        raise refuse("absurd-header", path, f"the header has {count} dimensions")
    dims = [int(n) for n in header["dim"][1 : count + 1]]
    # Sizes of 0 behind those of space are 1, as in nifti1_io.
    dims = [*dims[:3], *[n or 1 for n in dims[3:]]]
    if min(dims) < 1:
        raise refuse("absurd-header", path, f"the header's shape is {dims}")
    dims += [1] * (3 - count)
    several = [n for n in dims[3:] if n > 1]
    if len(several) > 1:
        raise refuse("four-dimensional", path, f"shape is {dims}; situs reads up to 4 dimensions")
    # Components of a vector stand on the fifth axis; they are volumes like those of the fourth.
    dims = [*dims[:3], *several]
    header["dim"] = [len(dims), *dims, *[1] * (7 - len(dims))]
    try:
        kind = header.get_data_dtype().kind
    except (HeaderDataError, KeyError):
        raise refuse("unsupported-dtype", path, "the header's data type is unknown") from None
    if kind in _UNORDERED:
        rgb = int(header["datatype"]) in (128, 2304)
        raise refuse("colour-image" if rgb else "unsupported-dtype", path)
    frames = dims[3] if len(dims) > 3 else 1
    return (dims[0], dims[1], dims[2]), chosen_volumes(frames, options.volume, path)


def _image_beside(path: Path) -> Path:
    stem = without_suffix(path.name).lower()
    wanted = (f"{stem}.img", f"{stem}.img.gz")
    beside = sorted(f for f in path.parent.iterdir() if f.name.lower() in wanted)
    # Where names differ by capitals alone, the one that is written as the header's is meant.
    beside.sort(key=lambda f: not f.name.startswith(without_suffix(path.name)))
    found = next((f for f in beside if f.is_file()), None)
    if found is None:
        raise refuse("missing-file", path, "the .img file of this .hdr is not beside it")
    return found


def _least_offset(header: Any) -> int:
    """Where voxels of a single file start at the earliest: four bytes follow the header."""
    return int(header.sizeof_hdr) + 4


def _start_of_voxels(header: Any, path: Path) -> list[str]:
    """Put a ``vox_offset`` right that is not given; it must then fit to the last byte.

    Raises:
        ScanRefused: ``unreadable-file`` where voxels would start inside the header.
    """
    offset = float(header["vox_offset"])
    if offset >= header.sizeof_hdr:
        return []
    if offset != 0:
        raise refuse("unreadable-file", path, "voxels would start inside the header (vox_offset)")
    header["vox_offset"] = _least_offset(header)
    return ["vox_offset is 0: voxels start behind the header"]


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
    header: Any, data_file: Path, volumes: list[int], path: Path
) -> tuple[npt.NDArray[np.generic], list[str]]:
    more = 0
    try:
        with open_plain_or_gzip(data_file) as file:
            proxy = nib.arrayproxy.ArrayProxy(file, header, mmap=False)
            if proxy.ndim > 3 and len(volumes) < proxy.shape[3]:
                stack = [np.asanyarray(proxy[:, :, :, v, ...]) for v in volumes]
                raw = np.stack([v.reshape(v.shape[:3]) for v in stack])
            else:
                raw = np.asanyarray(proxy)
                raw = raw.reshape(*(raw.shape[:3] + (1,) * (3 - raw.ndim)), len(volumes))
                raw = np.moveaxis(raw, -1, 0)
            end = int(proxy.offset) + math.prod(proxy.shape) * proxy.dtype.itemsize
            more = _bytes_behind(file, end)
    except GoesOnError:
        raise refuse("absurd-header", path, HOLDS_MORE) from None
    except DAMAGE:
        raise refuse("truncated-file", path, "the voxels end too early or are damaged") from None
    except HeaderDataError:
        raise refuse("non-finite", path, "the header's slope or intercept is infinite") from None
    if raw.dtype.kind == "f" and raw.dtype != np.float32:
        with np.errstate(over="ignore"):  # infinity is found later, and refused
            raw = raw.astype(np.float32)
    native = raw.astype(raw.dtype.newbyteorder("="), copy=False)
    return native, ["bytes behind the voxels were left out"] * bool(more)


def _bytes_behind(file: BinaryIO, end: int) -> int:
    """How much follows the voxels; a compressed stream is read to its checksum.

    Args:
        file: Somewhere behind the voxels that were wanted.
        end: Where the last voxel of all volumes ends.
    """
    if isinstance(file, Inflated):
        file.seek(max(end, file.tell()))
        return file.finish() + file.trailing
    file.seek(end)
    return len(file.read(1))
