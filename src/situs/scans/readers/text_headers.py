"""The text headers of NRRD and MetaImage: fields, and what they say of voxels and units.

NRRD: https://teem.sourceforge.net/nrrd/format.html; MetaImage: the tag reference of MetaIO.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from situs.scans.readers.text_geometry import as_number, directions
from situs.scans.refusals import refuse

_HEADER_BYTES = 2**20
_DATA_KEYS = ("data file", "elementdatafile")
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
_META_SPELT = re.compile(
    r"NDims|DimSize|ElementSpacing|ElementSize|Offset|Origin|Position|CenterOfRotation"
    r"|TransformMatrix|Rotation|Orientation|ElementType|ElementNumberOfChannels|ElementDataFile"
    r"|HeaderSize|BinaryData|BinaryDataByteOrderMSB|ElementByteOrderMSB|CompressedData"
    r"|DistanceUnits|ElementToIntensityFunctionSlope|ElementToIntensityFunctionOffset",
)
_META_ANY_CASE = re.compile(_META_SPELT.pattern, re.IGNORECASE)
_MAX_CHANNELS = 1024
_MAX_VALUE = 1000
_NRRD_SYNONYMS = {
    "datafile": "data file",
    "lineskip": "line skip",
    "byteskip": "byte skip",
    "axismins": "axis mins",
    "axismaxs": "axis maxs",
    "centerings": "centers",
    "spaceunits": "space units",
    "spacedimension": "space dimension",
    "spacedirections": "space directions",
    "spaceorigin": "space origin",
}
_NRRD_TYPES = {
    name: kind
    for kind, names in {
        "i1": "signed char,int8,int8_t",
        "u1": "uchar,unsigned char,uint8,uint8_t",
        "i2": "short,short int,signed short,signed short int,int16,int16_t",
        "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t",
        "i4": "int,signed int,int32,int32_t",
        "u4": "uint,unsigned int,uint32,uint32_t",
        "i8": "longlong,long long,long long int,signed long long,signed long long int,int64,"
        "int64_t",
        "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t",
        "f4": "float",
        "f8": "double",
    }.items()
    for name in names.split(",")
}
_META_TYPES = {
    "met_char": "i1",
    "met_uchar": "u1",
    "met_short": "i2",
    "met_ushort": "u2",
    "met_int": "i4",
    "met_uint": "u4",
    "met_long": "i4",  # four bytes in MetaIO, whatever the machine's long is
    "met_ulong": "u4",
    "met_long_long": "i8",
    "met_ulong_long": "u8",
    "met_float": "f4",
    "met_double": "f8",
}
_NRRD_ENCODINGS = {
    "raw": "raw",
    "gzip": "gzip",
    "gz": "gzip",
    "bzip2": "bzip2",
    "bz2": "bzip2",
    "text": "text",
    "txt": "text",
    "ascii": "text",
    "hex": "hex",
}
_RANGE_KINDS = re.compile(
    r"list|vector|covariant-vector|normal|stub|scalar|complex|point|quaternion"
    r"|rgb-color|hsv-color|xyz-color|rgba-color|\d-(color|vector|gradient|normal)"
    r"|.*matrix"
)


@dataclass(frozen=True)
class Voxels:
    """How the voxels of a file are stored.

    Attributes:
        file: That holds them.
        start: Byte of ``file`` after the header; 0 in a file of its own.
        dtype: Of a value, with its byte order.
        shape: In the order of the file, the fastest axis first.
        channels: Axis of ``shape`` along which a voxel's components lie, None for a single one.
        encoding: ``"raw"``, ``"gzip"``, ``"zlib"``, ``"bzip2"``, ``"text"`` or ``"hex"``.
        skip_lines: Lines to leave out before anything else.
        skip_bytes: Bytes to leave out: of the decompressed stream in NRRD, of the file in
            MetaImage; -1 where the voxels are the file's last bytes.
        scale: Factor and offset from stored values to intensities.
    """

    file: Path
    start: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    channels: int | None
    encoding: str
    skip_lines: int = 0
    skip_bytes: int = 0
    scale: tuple[float, float] = (1.0, 0.0)

    @property
    def count(self) -> int:
        """Values stored."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values, decompressed."""
        return self.count * self.dtype.itemsize


def header_fields(path: Path, fmt: str) -> tuple[dict[str, str], int]:
    """The fields of a text header, keys in lower case, and where the header ends.

    Reads the first megabyte only. NRRD's ``key:=value`` pairs are free text and left out.

    Raises:
        ScanRefused: ``unreadable-file`` for anything but a whole header with each field once.
    """
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    if fmt == "nrrd" and not start.startswith(b"NRRD"):
        raise refuse("unreadable-file", path, "this is no NRRD header")
    fields: dict[str, str] = {}
    place = 0
    complete = len(start) < _HEADER_BYTES  # a detached header ends with its file
    for line in start.split(b"\n"):
        place += len(line) + 1
        text = line.decode("latin-1").strip()
        if fmt == "nrrd" and not text:
            complete = True
            break
        key, value = _field(text, fmt)
        name = text.partition("=")[0].strip()
        if fmt == "mha" and _META_ANY_CASE.fullmatch(name) and not _META_SPELT.fullmatch(name):
            # MetaIO tells capitals apart, and would go on as if the field were not there.
            raise refuse("unreadable-file", path, f"{key} is not in MetaImage's own capitals")
        if key:
            # Which of two would a reader believe? A second one could lead it round the checks.
            if key in fields:
                raise refuse("unreadable-file", path, "a field stands in the header twice")
            fields[key] = value
        if fmt == "mha" and key == "elementdatafile":
            complete = True
            break
    # Both libraries copy values into buffers of fixed length, and end the process on longer ones.
    if any(len(value) > _MAX_VALUE for key, value in fields.items() if key != "content"):
        raise refuse("unreadable-file", path, "a header line is too long")
    if not complete or (fmt == "mha" and "elementdatafile" not in fields):
        raise refuse("unreadable-file", path, f"this is no whole {fmt.upper()} header")
    return fields, place


def _field(text: str, fmt: str) -> tuple[str, str]:
    key, found, value = text.partition(":" if fmt == "nrrd" else "=")
    if not found or text.startswith("#") or (fmt == "nrrd" and value.startswith("=")):
        return "", ""
    key = key.strip().lower()
    if fmt == "nrrd":
        return _NRRD_SYNONYMS.get(key, key), value.strip()
    return key, value.lstrip("=").strip()


def check_meta_fields(fields: dict[str, str], path: Path) -> None:
    """Refuse what MetaIO would read past the end of its buffers for: it trusts these numbers.

    Raises:
        ScanRefused: ``unreadable-file``.
    """
    dims = fields.get("ndims", "")
    if dims not in ("2", "3", "4"):
        raise refuse("unreadable-file", path, "NDims must be 2, 3 or 4")
    n = int(dims)
    for key, count in _META_COUNTS.items():
        if key in fields and len(fields[key].split()) != n**count:
            raise refuse("unreadable-file", path, f"{key} must have {n**count} values")
    channels = fields.get("elementnumberofchannels", "1")
    if not channels.isdecimal() or not 1 <= int(channels) <= _MAX_CHANNELS:
        raise refuse("unreadable-file", path, "ElementNumberOfChannels must be a small number")


def voxels_of(fields: dict[str, str], path: Path, fmt: str, header_end: int) -> Voxels:
    """Where and how the voxels are stored.

    Raises:
        ScanRefused: ``outside-file``, ``missing-file``, ``unsupported-dtype``, or
            ``unreadable-file`` for a header that does not say it, or in a way unknown to the
            format.
    """
    file = _data_file(path, fields)
    start = header_end if file == path else 0
    return (_nrrd_voxels if fmt == "nrrd" else _meta_voxels)(fields, path, file, start)


def _nrrd_voxels(fields: dict[str, str], path: Path, file: Path, start: int) -> Voxels:
    kind = fields.get("type", "").lower()
    if kind == "block":
        raise refuse("unsupported-dtype", path)
    encoding = _NRRD_ENCODINGS.get(fields.get("encoding", "").lower())
    shape = _whole_numbers(fields.get("sizes", ""))
    if kind not in _NRRD_TYPES or encoding is None or not shape or min(shape) < 1:
        raise refuse("unreadable-file", path, "type, sizes or encoding make no sense")
    if str(len(shape)) != fields.get("dimension"):
        raise refuse("unreadable-file", path, "dimension and sizes differ")
    endian = fields.get("endian", "").lower()
    dtype = np.dtype(_NRRD_TYPES[kind]).newbyteorder(">" if endian == "big" else "<")
    if endian not in ("little", "big") and dtype.itemsize > 1 and encoding != "text":
        raise refuse("unreadable-file", path, "the header does not tell the byte order")
    lines, skip = (_whole_numbers(fields.get(k, "0")) for k in ("line skip", "byte skip"))
    if len(lines) != 1 or len(skip) != 1 or lines[0] < 0:
        raise refuse("unreadable-file", path, "line skip or byte skip makes no sense")
    if skip[0] < (-1 if encoding == "raw" else 0):
        raise refuse("unreadable-file", path, "byte skip below 0 needs raw voxels")
    channels = _range_axis(fields, len(shape), path)
    return Voxels(file, start, dtype, shape, channels, encoding, lines[0], skip[0])


def _range_axis(fields: dict[str, str], dimension: int, path: Path) -> int | None:
    kinds = fields.get("kinds", "").lower().split()
    ranges = [axis for axis, kind in enumerate(kinds) if _RANGE_KINDS.fullmatch(kind)]
    given = directions(fields)
    if len(given) == len(kinds) == dimension == 4 and not ranges and "none" in given:
        detail = "kinds must say 'list' or 'vector' of the axis that has no direction in space"
        raise refuse("unreadable-file", path, detail)
    if len(kinds) not in (0, dimension) or len(ranges) > 1:
        raise refuse("unreadable-file", path, "kinds must name every axis, one of them components")
    return ranges[0] if ranges else None


def _meta_voxels(fields: dict[str, str], path: Path, file: Path, start: int) -> Voxels:
    kind = fields.get("elementtype", "").lower().removesuffix("_array")
    if kind not in _META_TYPES:
        raise refuse("unreadable-file", path, "ElementType makes no sense")
    shape = _whole_numbers(fields.get("dimsize", ""))
    if str(len(shape)) != fields["ndims"] or min(shape) < 1:
        raise refuse("unreadable-file", path, "DimSize makes no sense")
    encoding = "raw" if _true(fields.get("binarydata", "true")) else "text"
    if _true(fields.get("compresseddata", "false")):
        encoding = "zlib"
    skip = _whole_numbers(fields.get("headersize", "0"))
    if len(skip) != 1 or skip[0] < -1 or (skip[0] == -1 and encoding != "raw"):
        raise refuse("unreadable-file", path, "HeaderSize makes no sense")
    big = _true(fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "false")))
    dtype = np.dtype(_META_TYPES[kind]).newbyteorder(">" if big else "<")
    components = int(fields.get("elementnumberofchannels", "1"))
    if components > 1:
        shape = (components, *shape)
    slope = as_number(fields.get("elementtointensityfunctionslope", "1"))
    offset = as_number(fields.get("elementtointensityfunctionoffset", "0"))
    if not (math.isfinite(slope) and math.isfinite(offset)):
        raise refuse("unreadable-file", path, "the function to intensities makes no sense")
    channels = 0 if components > 1 else None
    return Voxels(file, start, dtype, shape, channels, encoding, 0, skip[0], (slope, offset))


def _data_file(path: Path, fields: dict[str, str]) -> Path:
    """The file that holds the voxels, which must lie in the header's own folder."""
    given = [fields[key] for key in _DATA_KEYS if key in fields]
    named = given[0].removeprefix("./") if given else "LOCAL"
    if named.upper() == "LOCAL":
        return path
    beside = path.parent / named
    if not beside.is_file() and (named.upper().split()[:1] == ["LIST"] or "%" in named):
        raise refuse("several-files", path)
    if Path(named).name != named:
        raise refuse("outside-file", path, "voxels must be in one file beside the header")
    if not beside.is_file():
        raise refuse("missing-file", path, "the data file named in the header is not beside it")
    return beside


def _whole_numbers(text: str) -> tuple[int, ...]:
    """Whole numbers separated by spaces; empty where anything else is among them."""
    parts = text.split()
    return tuple(map(int, parts)) if all(re.fullmatch(r"[+-]?\d{1,18}", p) for p in parts) else ()


def _true(text: str) -> bool:
    return text[:1] in ("T", "t", "1")  # as MetaIO reads it
