"""FreeSurfer's MGH and MGZ, MINC, Philips PAR/REC, AFNI and Analyze, through nibabel.

nibabel reads these with their geometry in RAS mm. What it takes on trust is checked here: that the
file is long enough for what its header promises, and that nothing absurd is allocated.
"""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.analyze import AnalyzeHeader
from nibabel.brikhead import AFNIHeaderError, AFNIImage, AFNIImageError
from nibabel.fileholders import FileHolder
from nibabel.parrec import PARRECError

from situs.scans import quality
from situs.scans.formats import format_by_name, is_gzip, without_suffix
from situs.scans.privacy import digest, role_words
from situs.scans.readers.options import ReadOptions, chosen_volumes
from situs.scans.readers.streams import BROKEN, DAMAGE, HOLDS_MORE, open_plain_or_gzip
from situs.scans.refusals import refuse
from situs.scans.scan import Provenance, Scan

_UNORDERED = ("c", "V")  # numpy kinds: complex, structured (RGB)
_HEADER_AND_TAGS = 2**24
_HDF5 = b"\x89HDF"


def read(path: Path, options: ReadOptions) -> Scan:
    """Read one file; see :func:`situs.scans.read.read_scan`.

    Raises:
        ScanRefused: If it cannot be read or trusted.
    """
    fmt = format_by_name(path) or ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel's; what matters of them is refused or noted
        try:
            image, notes = _LOADERS[fmt](path)
        except BROKEN:
            raise refuse("truncated-file", path, "the header cannot be decompressed") from None
        return _as_scan(image, fmt, notes, path, options)


def read_analyze(path: Path, image_file: Path, options: ReadOptions) -> Scan:
    """Read a pair of Analyze 7.5 or SPM files.

    Args:
        path: The header.
        image_file: The voxels.
        options: As for every reader.

    Raises:
        ScanRefused: If it does not say how it lies in space.
    """
    with path.open("rb") as file:
        header = AnalyzeHeader(file.read(348), check=False)
    orient = int(np.frombuffer(header.binaryblock[252:253], np.uint8)[0])
    matrix = next((f for f in path.parent.iterdir() if _is_matrix_of(f, path)), None)
    notes = []
    if matrix is None:
        if orient != 0:
            detail = f"slices are of Analyze's orientation {orient}; situs reads 0, transverse"
            raise refuse("bad-orientation", path, detail)
        quality.check_spacing([float(z) for z in header["pixdim"][1:4]], path)
        notes.append("Analyze tells no left from right: taken as LAS, as SPM and FSL do")
    files = {"header": FileHolder(str(path)), "image": FileHolder(str(image_file))}
    files["mat"] = FileHolder(str(matrix or path.with_suffix(".mat")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = nib.Spm99AnalyzeImage.from_file_map(files, mmap=False)
        start = int(image.header["vox_offset"])
        image = _with_whole_voxels(image, image_file, start, path, files)
        return _as_scan(image, "analyze", notes, path, options)


def _is_matrix_of(file: Path, header: Path) -> bool:
    return file.name.lower() == without_suffix(header.name).lower() + ".mat" and file.is_file()


def _mgh(path: Path) -> tuple[Any, list[str]]:
    with open_plain_or_gzip(path) as file:
        image = nib.MGHImage.from_stream(file)
        goodness = int(image.header["goodRASFlag"])
    _check_raw(image, path, 284, path)
    # By what the file holds, not by its name; a compressed one up to its checksum.
    whole = io.BytesIO(_inflated(path, image)) if is_gzip(path) else path.open("rb")
    image = nib.MGHImage.from_file_map({"image": FileHolder(fileobj=whole)}, mmap=False)
    noted = ["the header tells no orientation: taken as coronal, FreeSurfer's default"]
    return image, noted if goodness != 1 else []


def _inflated(file: Path, image: Any) -> bytes:
    """What a gzip stream holds, of which no more is expected than ``image`` and some tags."""
    expected = math.prod(map(int, image.shape)) * image.get_data_dtype().itemsize
    with open_plain_or_gzip(file) as stream:
        start = stream.read(expected + _HEADER_AND_TAGS)
        if len(start) == expected + _HEADER_AND_TAGS:
            raise refuse("absurd-header", file, HOLDS_MORE)
    return start


def _with_whole_voxels(
    image: Any, file: Path, start: int, path: Path, files: dict[str, FileHolder]
) -> Any:
    """The image again, from voxels that are long enough and, if packed, agree with their checksum.

    nibabel reads no further than to the last voxel, and so never compares it.

    Raises:
        ScanRefused: ``truncated-file`` or ``absurd-header``.
    """
    _check_raw(image, file, start, path)
    if not is_gzip(file):
        return image
    try:
        voxels = FileHolder(fileobj=io.BytesIO(_inflated(file, image)))
    except DAMAGE:
        raise refuse("truncated-file", path, "the voxels end too early or are damaged") from None
    return type(image).from_file_map(files | {"image": voxels}, mmap=False)


def _minc(path: Path) -> tuple[Any, list[str]]:
    with path.open("rb") as file:
        new = file.read(4) == _HDF5
    kind = nib.minc2.Minc2Image if new else nib.Minc1Image
    image = kind.from_filename(path)
    sized = all(hasattr(axis, "step") for axis in image.dataobj.minc_file._dims)
    return image, [] if sized else ["the header gives no voxel size: taken as 1 mm"]


def _parrec(path: Path) -> tuple[Any, list[str]]:
    beside = _beside(path, (".rec",), "the .REC file of this .PAR is not beside it")
    files = {"header": FileHolder(str(path)), "image": FileHolder(str(beside))}
    try:
        # "dv": displayed values, RS·PV + RI, as the console shows them.
        image = nib.parrec.PARRECImage.from_file_map(files, mmap=False, scaling="dv")
    except PARRECError:
        raise refuse("truncated-file", path, "the PAR lists other images than it says") from None
    rec_shape = image.dataobj._rec_shape
    if beside.stat().st_size < math.prod(rec_shape) * image.header.get_data_dtype().itemsize:
        raise refuse("truncated-file", path, "the .REC file is shorter than its .PAR promises")
    return image, []


def _afni(path: Path) -> tuple[Any, list[str]]:
    beside = _beside(path, (".brik", ".brik.gz"), "the .BRIK file of this .HEAD is not beside it")
    files = {"header": FileHolder(str(path)), "image": FileHolder(str(beside))}
    try:
        image = AFNIImage.from_file_map(files, mmap=False)
    except (AFNIHeaderError, AFNIImageError):
        raise refuse("unreadable-file", path, "the .HEAD file makes no sense") from None
    return _with_whole_voxels(image, beside, 0, path, files), []


_LOADERS = {"mgh": _mgh, "minc": _minc, "parrec": _parrec, "afni": _afni}


def _beside(path: Path, suffixes: tuple[str, ...], missing: str) -> Path:
    names = [without_suffix(path.name).lower() + suffix for suffix in suffixes]
    found = next((f for f in sorted(path.parent.iterdir()) if f.name.lower() in names), None)
    if found is None or not found.is_file():
        raise refuse("missing-file", path, missing)
    return found


def _check_raw(image: Any, file: Path, start: int, path: Path) -> None:
    """Refuse a file that is too short; what is compressed cannot hold more than a thousandfold."""
    voxels, each = math.prod(map(int, image.shape)), image.get_data_dtype().itemsize
    held = file.stat().st_size - start
    with file.open("rb") as opened:
        packed = opened.read(2) == b"\x1f\x8b"
    if not packed and held < voxels * each:
        detail = f"{held} bytes of voxels; the header promises {voxels * each}"
        raise refuse("truncated-file", path, detail)
    quality.check_size(voxels, each, held if packed else None, path, None)


def _as_scan(image: Any, fmt: str, notes: list[str], path: Path, options: ReadOptions) -> Scan:
    shape = [int(n) for n in image.shape]
    dtype = np.dtype(image.get_data_dtype())
    if dtype.kind in _UNORDERED:
        raise refuse("colour-image" if dtype.kind == "V" else "unsupported-dtype", path)
    if min(shape) < 1:
        raise refuse("absurd-header", path, f"the header's shape is {shape}")
    time_first = fmt == "minc" and len(shape) == 4
    if time_first:
        shape = [*shape[1:], shape[0]]
    shape += [1] * (3 - len(shape))
    if len(shape) > 4 and any(n > 1 for n in shape[4:]):
        raise refuse("four-dimensional", path, f"shape is {shape}; situs reads up to 4 dimensions")
    affine = np.asarray(image.affine, dtype=np.float64)
    quality.check_affine(affine, path)
    quality.check_shape(tuple(shape[:3]), path, planes=options.planes)
    volumes = chosen_volumes(shape[3] if len(shape) > 3 else 1, options.volume, path)
    quality.check_size(math.prod(shape), max(4, dtype.itemsize), None, path, options.max_bytes)
    try:
        values = np.asanyarray(image.dataobj)
    except DAMAGE:
        raise refuse("truncated-file", path, "the voxels end too early or are damaged") from None
    values = np.moveaxis(values, 0, -1) if time_first else values
    provenance = Provenance(
        format=fmt,
        series=digest("file", path.resolve()),
        description=role_words(path.name.split(".", maxsplit=1)[0]),
        notes=tuple(notes),
    )
    return Scan(_in_volumes(values.reshape(shape), volumes), affine, "unknown", provenance)


def _in_volumes(values: npt.NDArray[Any], volumes: list[int]) -> npt.NDArray[Any]:
    values = np.moveaxis(values.reshape(*values.shape[:3], -1), -1, 0)[volumes]
    if values.dtype.kind == "f" and values.dtype.itemsize != 4:
        with np.errstate(over="ignore"):  # infinity is found later, and refused
            return np.ascontiguousarray(values, dtype=np.float32)
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
