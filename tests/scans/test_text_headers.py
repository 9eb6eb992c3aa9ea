"""NRRD and MetaImage: every encoding against ITK's own reader, and lengths that are untrue."""

from __future__ import annotations

import bz2
import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

import situs
from situs.scans.read import read_scan

SIZE, SPACING, ORIGIN_LPS = (9, 7, 5), (0.8, 0.7, 2.5), (-10.0, -20.0, 5.0)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
TYPES = {
    "i1": ("signed char", "MET_CHAR"),
    "u1": ("uchar", "MET_UCHAR"),
    "i2": ("short", "MET_SHORT"),
    "u2": ("ushort", "MET_USHORT"),
    "i4": ("int", "MET_INT"),
    "u4": ("uint", "MET_UINT"),
    "i8": ("longlong", "MET_LONG_LONG"),
    "u8": ("ulonglong", "MET_ULONG_LONG"),
    "f4": ("float", "MET_FLOAT"),
    "f8": ("double", "MET_DOUBLE"),
}


def volume(kind: str = "i2", components: int = 1) -> np.ndarray:
    """Whole numbers over most of the type's range, ``([C,] X, Y, Z)``."""
    shape = SIZE if components == 1 else (components, *SIZE)
    low, high = (-9000, 9000) if kind[0] == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
    low, high = max(low, -(2**40)), min(high, 2**40)
    return np.random.default_rng(3).integers(low, high, shape).astype(kind)


def bytes_of(array: np.ndarray, order: str = "<") -> bytes:
    return array.astype(array.dtype.newbyteorder(order)).tobytes(order="F")


def nrrd(path: Path, data: bytes, **changes: str | None) -> Path:
    fields = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, SIZE)),
        "space directions": "(0.8,0,0) (0,0.7,0) (0,0,2.5)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(-10,-20,5)",
    } | {key.replace("_", " "): value for key, value in changes.items()}
    lines = "".join(f"{key}: {value}\n" for key, value in fields.items() if value is not None)
    path.write_bytes(f"NRRD0005\n{lines}\n".encode() + data)
    return path


def meta(path: Path, data: bytes, **changes: object) -> Path:
    fields = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "-10 -20 5",
        "ElementSpacing": "0.8 0.7 2.5",
        "DimSize": " ".join(map(str, SIZE)),
        "ElementType": "MET_SHORT",
    } | changes
    file = fields.pop("ElementDataFile", "LOCAL")
    lines = [f"{key} = {value}\n" for key, value in fields.items() if value is not None]
    path.write_bytes(("".join(lines) + f"ElementDataFile = {file}\n").encode())
    if file == "LOCAL":
        path.write_bytes(path.read_bytes() + data)
    return path


def as_itk_reads(path: Path) -> None:
    """The same values at the same places as SimpleITK, which decodes the file itself."""
    scan, image = read_scan(path), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(scan.array[0], sitk.GetArrayFromImage(image).T)
    origin = np.array(image.GetOrigin())
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = origin
    np.testing.assert_allclose(scan.affine, LPS @ affine, atol=1e-9)


ENCODED = {
    "raw": lambda raw: raw,
    "gzip": gzip.compress,
    "gz": lambda raw: gzip.compress(raw[:100]) + gzip.compress(raw[100:]),
    "hex": lambda raw: raw.hex().encode(),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("encoding", ENCODED)
def test_nrrd_as_itk_reads_it(tmp_path: Path, kind: str, order: str, encoding: str) -> None:
    data = ENCODED[encoding](bytes_of(volume(kind), order))
    endian = "little" if order == "<" else "big"
    path = tmp_path / "a.nrrd"
    as_itk_reads(nrrd(path, data, type=TYPES[kind][0], endian=endian, encoding=encoding))


@pytest.mark.parametrize("kind", TYPES)
def test_text_and_bzip2_of_nrrd(tmp_path: Path, kind: str) -> None:
    array = volume(kind)
    text = " ".join(map(str, array.reshape(-1, order="F").tolist())).encode() + b"\n"
    as_itk_reads(nrrd(tmp_path / "a.nrrd", text, type=TYPES[kind][0], encoding="ascii"))
    # ITK is built without bzip2: the array itself is the reference.
    packed = bz2.compress(bytes_of(array))
    path = nrrd(tmp_path / "b.nrrd", packed, type=TYPES[kind][0], encoding="bzip2")
    np.testing.assert_array_equal(read_scan(path).array[0], array)


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b"x" * 7 + bytes_of(volume()), {"byte_skip": "7"}),
        (b"junk" * 10 + bytes_of(volume()), {"byte_skip": "-1"}),
        (b"a\nb\n" + bytes_of(volume()), {"line_skip": "2"}),
        (b"a\nb\nxyz" + bytes_of(volume()), {"line_skip": "2", "byteskip": "3"}),
        (gzip.compress(b"x" * 7 + bytes_of(volume())), {"byte_skip": "7", "encoding": "gzip"}),
        (bytes_of(volume()), {"space": "right-anterior-superior"}),
        (bytes_of(volume()) + b"behind", {}),
    ],
)
def test_nrrd_skips_as_itk_does(tmp_path: Path, data: bytes, fields: dict[str, str]) -> None:
    as_itk_reads(nrrd(tmp_path / "a.nrrd", data, **fields))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("big", ["True", "False"])
@pytest.mark.parametrize("packed", [False, True])
def test_metaimage_as_itk_reads_it(tmp_path: Path, kind: str, big: str, packed: bool) -> None:
    data = bytes_of(volume(kind), ">" if big == "True" else "<")
    more = {"ElementType": TYPES[kind][1], "BinaryDataByteOrderMSB": big}
    if packed:
        data = zlib.compress(data)
        more |= {"CompressedData": "True", "CompressedDataSize": len(data)}
    as_itk_reads(meta(tmp_path / "a.mha", data, **more))


def test_text_headers_of_metaimage(tmp_path: Path) -> None:
    text = " ".join(map(str, volume().reshape(-1, order="F"))).encode()
    as_itk_reads(meta(tmp_path / "a.mha", text + b" \n", BinaryData="False"))
    # ITK stumbles over text that ends with its last digit.
    path = meta(tmp_path / "b.mha", text, BinaryData="False")
    np.testing.assert_array_equal(read_scan(path).array[0], volume())
    for size in (8, -1):
        (tmp_path / "c.raw").write_bytes(b"HEADER!!" + bytes_of(volume()))
        as_itk_reads(meta(tmp_path / "c.mhd", b"", HeaderSize=size, ElementDataFile="c.raw"))


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
@pytest.mark.parametrize("kind", ["u1", "i2", "f4"])
def test_components_as_itk_reads_them(tmp_path: Path, suffix: str, kind: str) -> None:
    image = sitk.GetImageFromArray(volume(kind, 5).transpose(3, 2, 1, 0), isVector=True)
    for packed in (False, True):
        sitk.WriteImage(image, str(tmp_path / f"a.{suffix}"), packed)
        scan = read_scan(tmp_path / f"a.{suffix}", "all")
        np.testing.assert_array_equal(scan.array, volume(kind, 5))


@pytest.mark.parametrize("size", [None, 0, 1, 0.5, 1.5, -1, "10 short"])
@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
def test_compressed_sizes_of_metaimage_are_not_believed(tmp_path: Path, size, name: str) -> None:
    """ITK hands over memory that it never wrote, another at every call."""
    data = zlib.compress(bytes_of(volume()))
    told = len(data) - 10 if size == "10 short" else size
    told = int(len(data) * told) if isinstance(told, float) else told
    (tmp_path / "a.zraw").write_bytes(data)
    more = {} if name == "a.mha" else {"ElementDataFile": "a.zraw"}
    path = meta(tmp_path / name, data, CompressedData="True", CompressedDataSize=told, **more)
    for _ in range(2):
        np.testing.assert_array_equal(read_scan(path).array[0], volume())


@pytest.mark.parametrize("keep", [0.3, -20, -4])
@pytest.mark.parametrize("form", ["zlib", "gzip", "bzip2", "hex", "text", "raw"])
def test_ends_that_are_missing(tmp_path: Path, form: str, keep: float) -> None:
    raw = bytes_of(volume())
    text = " ".join(map(str, volume().reshape(-1, order="F"))).encode()
    data = {
        "zlib": zlib.compress(raw),
        "gzip": gzip.compress(raw),
        "bzip2": bz2.compress(raw),
        "hex": raw.hex().encode(),
        "text": text,
        "raw": raw,
    }[form]
    end = int(len(data) * keep) if keep > 0 else int(keep)
    if form == "zlib":
        path = meta(tmp_path / "a.mha", data[:end], CompressedData="True")
    elif form == "text" and keep == -4:
        pytest.skip("a number that lost its last digits is a number")
    else:
        path = nrrd(tmp_path / "a.nrrd", data[:end], encoding=form)
    with pytest.raises(situs.ScanRefused) as caught:
        read_scan(path)
    assert caught.value.reason in ("truncated-file", "absurd-header")


MM_OF = {"um": 1e-3, "microns": 1e-3, "µm": 1e-3, "cm": 10.0, "m": 1000.0, "mm": 1.0, "nm": 1e-6}


@pytest.mark.parametrize("unit", MM_OF)
def test_lengths_are_values_times_units(tmp_path: Path, unit: str) -> None:
    raw, factor = bytes_of(volume()), MM_OF[unit]
    plain = read_scan(nrrd(tmp_path / "a.nrrd", raw))
    units = f'"{unit}" "{unit}" "{unit}"'
    scaled = [
        read_scan(nrrd(tmp_path / "b.nrrd", raw, space_units=units)),
        read_scan(meta(tmp_path / "b.mha", raw, DistanceUnits=unit)),
    ]
    old = {"space": None, "space_directions": None, "space_origin": None, "kinds": None}
    old |= {"spacings": "0.8 0.7 2.5", "axis_mins": "-10 -20 5", "centers": "node node node"}
    scaled.append(read_scan(nrrd(tmp_path / "c.nrrd", raw, units=units, **old)))
    for scan in scaled:
        np.testing.assert_allclose(scan.affine[:3], factor * plain.affine[:3], rtol=1e-9)
        assert any("multiplied" in note for note in scan.provenance.notes) == (factor != 1)


@pytest.mark.parametrize("units", ['"parsec" "parsec" "parsec"', '"mm" "mm" "cm"', '"um" "um" ""'])
def test_units_that_leave_a_doubt_are_refused(tmp_path: Path, units: str) -> None:
    path = nrrd(tmp_path / "a.nrrd", bytes_of(volume()), space_units=units)
    with pytest.raises(situs.ScanRefused) as caught:
        read_scan(path)
    assert caught.value.reason == "bad-spacing"
    assert "parsec" not in str(caught.value)


def test_a_unit_without_a_size_is_refused(tmp_path: Path) -> None:
    units = {"space_units": '"um" "um" "um"', "space_directions": None}
    with pytest.raises(situs.ScanRefused, match="no voxel size"):
        read_scan(nrrd(tmp_path / "a.nrrd", bytes_of(volume()), **units))


def test_long_lines_that_end_the_process_inside_itk(tmp_path: Path) -> None:
    with pytest.raises(situs.ScanRefused, match="too long"):
        read_scan(nrrd(tmp_path / "a.nrrd", bytes_of(volume()), space="x" * 2000))


def test_free_text_of_nrrd_is_no_field(tmp_path: Path) -> None:
    """``key:=value`` says nothing of the voxels, and header words in it change nothing."""
    path = nrrd(tmp_path / "a.nrrd", bytes_of(volume()))
    start, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(start + b"\nencoding:=gzip\nsizes:=1 1 1\nspace units:=um\n" + rest)
    as_itk_reads(path)


def test_intensities_follow_the_slope_of_the_header(tmp_path: Path) -> None:
    more = {"ElementToIntensityFunctionSlope": 2, "ElementToIntensityFunctionOffset": -1024}
    scan = read_scan(meta(tmp_path / "a.mha", bytes_of(volume()), **more))
    np.testing.assert_allclose(scan.array[0], volume() * 2.0 - 1024)
    assert "slope" in scan.provenance.notes[0]


def test_what_is_not_said_is_noted(tmp_path: Path) -> None:
    path = meta(tmp_path / "a.mha", bytes_of(volume()), ElementSpacing=None)
    assert read_scan(path).provenance.notes == ("the header gives no voxel size: taken as 1 mm",)
    path = meta(tmp_path / "b.mha", bytes_of(volume()) + b"more")
    assert read_scan(path).provenance.notes == ("bytes behind the voxels were left out",)


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr", "a.nii"])
@pytest.mark.parametrize("packed", [False, True])
def test_files_of_megabytes(tmp_path: Path, name: str, packed: bool) -> None:
    """Larger than what is read of them as a header, and of noise that does not compress."""
    array = np.random.default_rng(0).integers(0, 60000, (90, 100, 110)).astype(np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name), packed)
    np.testing.assert_array_equal(read_scan(tmp_path / name).array[0], array.T)


def refused(path: Path) -> str:
    with pytest.raises(situs.ScanRefused) as caught:
        read_scan(path)
    return caught.value.reason


@pytest.mark.parametrize("space", ["3D-left-handed", "3DLT", "3D-left-handed-time"])
def test_a_left_handed_space_would_be_a_mirror_image(tmp_path: Path, space: str) -> None:
    path = nrrd(tmp_path / "a.nrrd", bytes_of(volume()), space=space)
    assert refused(path) == "bad-orientation"


@pytest.mark.parametrize("space", ["scanner-xyz", "3D-right-handed", "left-posterior-superior"])
def test_a_space_that_names_no_side_is_noted(tmp_path: Path, space: str) -> None:
    scan = read_scan(nrrd(tmp_path / "a.nrrd", bytes_of(volume()), space=space))
    assert any("names no direction" in note for note in scan.provenance.notes) == (space[0] != "l")


def test_sizes_that_stand_in_the_ends_of_axes(tmp_path: Path) -> None:
    """ITK leaves them out, and takes voxels for 1 mm."""
    fields = {"space": None, "space_directions": None, "space_origin": None}
    path = nrrd(
        tmp_path / "a.nrrd", bytes_of(volume()), axis_mins="0 0 0", axis_maxs="7 5 12", **fields
    )
    assert refused(path) == "bad-spacing"


@pytest.mark.parametrize("kind", ["MET_LONG", "MET_ULONG"])
def test_longs_of_eight_bytes_are_no_longs_of_four(tmp_path: Path, kind: str) -> None:
    """MetaIO's are of four bytes; a file of twice as many bytes is read by it in halves."""
    values = np.abs(volume("i8")) % 100
    four = bytes_of(values.astype("i4"))
    scan = read_scan(meta(tmp_path / "a.mha", four, ElementType=kind))
    np.testing.assert_array_equal(scan.array[0], values)
    assert refused(meta(tmp_path / "b.mha", bytes_of(values), ElementType=kind)) == "absurd-header"
    packed = {"ElementType": kind, "CompressedData": "True"}
    path = meta(tmp_path / "c.mha", zlib.compress(bytes_of(values)), **packed)
    assert refused(path) == "absurd-header"


def test_a_file_beside_the_header_may_be_named_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes_of(volume()))
    path = nrrd(tmp_path / "a.nhdr", b"", data_file="./a.raw")
    np.testing.assert_array_equal(read_scan(path).array[0], volume())


@pytest.mark.parametrize("kind", ["time", "none", "???"])
def test_an_axis_of_components_must_be_called_one(tmp_path: Path, kind: str) -> None:
    path = nrrd(
        tmp_path / "a.nrrd",
        bytes_of(volume(components=2)),
        dimension="4",
        sizes="2 9 7 5",
        space_directions="none (0.8,0,0) (0,0.7,0) (0,0,2.5)",
        kinds=f"{kind} domain domain domain",
    )
    with pytest.raises(situs.ScanRefused, match="'list'"):
        read_scan(path, "all")


@pytest.mark.parametrize("matrix", ["2 0 0 0 1 0 0 0 1", "0 3 0 -0.5 0 0 0 0 1"])
def test_directions_of_another_length_scale_voxels_as_in_itk(tmp_path: Path, matrix: str) -> None:
    path = meta(tmp_path / "a.mha", bytes_of(volume()), TransformMatrix=matrix)
    as_itk_reads(path)
    scan, image = read_scan(path), sitk.ReadImage(str(path))
    for index in ((0, 0, 0), (8, 6, 4)):
        place = np.array([*image.TransformIndexToPhysicalPoint(index), 1])
        np.testing.assert_allclose(scan.affine @ [*index, 1], LPS @ place, atol=1e-9)
