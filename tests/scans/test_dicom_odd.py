"""DICOM that is not as the standard wants it, and what lies beside the slices of a series."""

from __future__ import annotations

import gzip
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import (
    Plane,
    affine_ras,
    common,
    edit,
    jpeg_lossless,
    noise,
    write_planes,
    write_series,
)
from refusing import refused

import situs
from situs.catalog.catalog import build_catalog
from situs.scans.read import read_scan
from situs.scans.readers import dicom
from situs.scans.readers.options import ReadOptions

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns that it is experimental
    from nibabel.nicom import dicomwrappers

SHAPE = (8, 7, 6)
SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
NICOM = Path(dicomwrappers.__file__).parent / "tests" / "data"


def edit_all(folder: Path, **header: Any) -> None:
    for file in folder.iterdir():
        edit(file, **header)


@pytest.mark.parametrize("suffix", [".dcm", "", ".IMA"])
@pytest.mark.parametrize("implicit", [True, False])
def test_objects_without_preamble_and_syntax(tmp_path: Path, suffix: str, implicit: bool) -> None:
    for file in write_series(tmp_path, noise(SHAPE)):
        ds = pydicom.dcmread(file)
        ds.file_meta, ds.preamble = pydicom.dataset.FileMetaDataset(), None
        file.unlink()
        ds.save_as(
            file.with_suffix(suffix),
            implicit_vr=implicit,
            little_endian=True,
            enforce_file_format=False,
        )
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.array[0], noise(SHAPE))
    (entry,) = build_catalog(tmp_path, workers=0).entries
    assert entry.accepted


def test_meta_information_without_syntax(tmp_path: Path) -> None:
    for file in write_series(tmp_path, noise(SHAPE)):
        ds = pydicom.dcmread(file)
        del ds.file_meta.TransferSyntaxUID
        ds.save_as(file, implicit_vr=True, little_endian=True, enforce_file_format=False)
    np.testing.assert_array_equal(read_scan(tmp_path).array[0], noise(SHAPE))


@pytest.mark.parametrize("name", ["{}.dcm.gz", "{}.gz", "{}"])
def test_gzipped_slices(tmp_path: Path, name: str) -> None:
    for file in write_series(tmp_path, noise(SHAPE)):
        (tmp_path / name.format(file.stem)).write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    np.testing.assert_array_equal(read_scan(tmp_path).array[0], noise(SHAPE))
    assert build_catalog(tmp_path, workers=0).entries[0].accepted


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    ds = common(8, 8)
    ds.PatientComments = "x" * 100
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    start = (tmp_path / "a.dcm").read_bytes().split(b"x" * 100)[0][:-4]
    bomb = start + (2**30).to_bytes(4, "little") + bytes(2**27)
    (tmp_path / "a.dcm").unlink()
    (tmp_path / "b.dcm.gz").write_bytes(gzip.compress(bomb, 1))
    assert refused(tmp_path / "b.dcm.gz").reason == "too-large"


@pytest.mark.parametrize(
    "name",
    [
        "PixelRepresentation",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "BitsStored",
        "HighBit",
        "BitsAllocated",
    ],
)
@pytest.mark.filterwarnings("ignore:A value of type 'str'")
def test_missing_attributes_have_their_defaults(tmp_path: Path, name: str) -> None:
    write_series(tmp_path, noise(SHAPE), PixelRepresentation=0)
    for empty in ("", None):  # the element is there without a value; it is not there
        edit_all(tmp_path, **{name: empty})
        scan = read_scan(tmp_path)
        np.testing.assert_array_equal(scan.array[0], noise(SHAPE))
        assert f"{name} is missing in 6 slices: default" in scan.provenance.notes


def test_a_missing_sign_is_refused_where_values_could_be_negative(tmp_path: Path) -> None:
    write_series(tmp_path, noise(SHAPE) - 500)
    edit_all(tmp_path, PixelRepresentation=None)
    error = refused(tmp_path)
    assert error.reason == "missing-attribute"
    assert "PixelRepresentation" in error.detail


@pytest.mark.parametrize("digits", [2, 3, 4])
@pytest.mark.parametrize("degrees", [17.2, 30, 45])
def test_directions_of_few_digits(tmp_path: Path, degrees: float, digits: int) -> None:
    """The same rounded directions in every slice are one orientation, and no gantry tilt."""
    angle = np.radians(degrees)
    row, column = np.array([1.0, 0, 0]), np.array([0, np.cos(angle), -np.sin(angle)])
    step = np.round(3 * np.cross(row, column), 3)
    shape = (8, 7, 30)
    rounded = (np.round(row, digits), np.round(column, digits))
    write_series(tmp_path, noise(shape), directions=rounded, step=step)
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.array[0], noise(shape))
    expected = affine_ras((row, column), step=3.0)
    far = np.array([7, 6, 29, 1])
    assert np.linalg.norm((scan.affine - expected) @ far) < 0.2


@pytest.mark.parametrize("text", ["SKELETAL SURVEY 3.0", "Localized prostate", "Vessel LOC map"])
def test_a_word_alone_makes_no_localizer(tmp_path: Path, text: str) -> None:
    write_series(tmp_path / "a", noise((8, 7, 20)), SeriesDescription=text)
    scan = read_scan(tmp_path / "a")
    assert "localizer" not in scan.provenance.description
    write_series(tmp_path / "b", noise((8, 7, 3)), SeriesDescription="Survey")
    assert refused(tmp_path / "b").reason == "localizer"


class TestBeside:
    """What lies in a folder with one series of slices is passed over, and noted."""

    def beside(self, folder: Path, **header: Any) -> situs.Scan:
        write_series(folder, noise(SHAPE), SeriesInstanceUID="1.2.3")
        ds = common(7, 8)
        ds.SeriesInstanceUID, ds.SOPClassUID = "1.2.4", "1.2.840.10008.5.1.4.1.1.7"
        ds.PixelData = bytes(112)
        for key, value in header.items():
            setattr(ds, key, value)
        ds.save_as(folder / "other.dcm", enforce_file_format=True)
        scan = read_scan(folder)
        np.testing.assert_array_equal(scan.array[0], noise(SHAPE))
        return scan

    @pytest.mark.parametrize(
        ("header", "note"),
        [
            ({"Modality": "SEG"}, "1 unsupported-dicom"),
            ({"Modality": "RTDOSE"}, "1 unsupported-dicom"),
            ({"Modality": "OT"}, "1 no-geometry"),
            ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "1 colour-image"),
            (
                {
                    "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
                    "ImagePositionPatient": [0, 0, 0],
                    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
                    "PixelSpacing": [1, 1],
                },
                "1 localizer",
            ),
            ({"Modality": "OT", "SeriesInstanceUID": "1.2.3"}, "pictures in the series"),
            ({"Modality": "SEG", "SeriesInstanceUID": "1.2.3"}, "pictures in the series"),
        ],
    )
    def test_pictures_and_other_series(self, tmp_path: Path, header: Any, note: str) -> None:
        assert note in "; ".join(self.beside(tmp_path, **header).provenance.notes)

    @pytest.mark.parametrize("name", ["dicomdir", "DICOMDIR_", "index.dcm"])
    def test_a_directory_of_a_disc(self, tmp_path: Path, name: str) -> None:
        source = next(SHIPPED.rglob("DICOMDIR"), None)
        if source is None:
            pytest.skip("this wheel of pydicom ships no DICOMDIR")
        write_series(tmp_path, noise(SHAPE))
        shutil.copy(source, tmp_path / name)
        np.testing.assert_array_equal(read_scan(tmp_path).array[0], noise(SHAPE))

    def test_two_series_are_listed(self, tmp_path: Path) -> None:
        write_series(tmp_path / "a", noise(SHAPE), SeriesDescription="t1")
        write_series(tmp_path / "b", noise(SHAPE, 1), SeriesDescription="flair")
        error = refused(tmp_path)
        assert error.reason == "several-series"
        assert "(t1)" in error.detail
        assert "(flair)" in error.detail


class TestValues:
    @pytest.mark.parametrize(
        ("dtype", "offset", "padding"),
        [(np.int16, 0, -2000), (np.uint16, 1024, 63536), (np.uint16, 1024, 0)],
    )
    def test_padding_becomes_air(
        self, tmp_path: Path, dtype: Any, offset: int, padding: int
    ) -> None:
        voxels = noise(SHAPE).astype(int) - 990
        stored = voxels + offset
        stored[:2] = padding
        write_series(
            tmp_path,
            stored.astype(dtype),
            intercepts=[-offset] * 6,
            Modality="CT",
            PixelRepresentation=int(dtype is np.int16),
            PixelPaddingValue=padding,
        )
        scan = read_scan(tmp_path)
        assert (scan.array[0, :2] == -1000).all()
        np.testing.assert_array_equal(scan.array[0, 2:], voxels[2:])

    def test_padding_below_everything_stays_in_mr(self, tmp_path: Path) -> None:
        voxels = noise(SHAPE) + 5
        voxels[:2] = 0
        write_series(tmp_path, voxels, PixelPaddingValue=0)
        np.testing.assert_array_equal(read_scan(tmp_path).array[0], voxels)

    @pytest.mark.parametrize(("intercept", "dtype"), [(0, np.int64), (-(2**31), np.int32)])
    def test_unsigned_32_bits(self, tmp_path: Path, intercept: int, dtype: Any) -> None:
        voxels = np.random.default_rng(0).integers(0, 2**32, SHAPE, np.uint32)
        write_series(
            tmp_path,
            voxels,
            intercepts=[intercept] * 6,
            BitsAllocated=32,
            BitsStored=32,
            HighBit=31,
            PixelRepresentation=0,
        )
        scan = read_scan(tmp_path)
        np.testing.assert_array_equal(scan.array[0], voxels.astype(np.int64) + intercept)
        assert scan.array.dtype == dtype

    def test_a_rescale_that_some_slices_lack_is_refused(self, tmp_path: Path) -> None:
        files = write_series(tmp_path, noise(SHAPE), slopes=[1] * 6, intercepts=[-1024] * 6)
        edit(files[2], RescaleSlope=None, RescaleIntercept=None)
        assert refused(tmp_path).reason == "mixed-rescale"
        edit_all(tmp_path, RescaleSlope=1, RescaleIntercept=0)
        edit(files[2], RescaleSlope=None, RescaleIntercept=None)
        np.testing.assert_array_equal(read_scan(tmp_path).array[0], noise(SHAPE))

    def test_monochrome1_is_as_stored_however_it_is_packed(self, tmp_path: Path) -> None:
        voxels = noise((32, 28, 4))
        write_series(tmp_path / "raw", voxels, PhotometricInterpretation="MONOCHROME1")
        shutil.copytree(tmp_path / "raw", tmp_path / "packed")
        for file in (tmp_path / "packed").iterdir():
            jpeg_lossless(file)
        for kind in ("raw", "packed"):
            np.testing.assert_array_equal(read_scan(tmp_path / kind).array[0], voxels)

    @pytest.mark.parametrize("kind", ["RLE", "jp2klossless", "jpeg_ls_lossless", "bigendian"])
    @pytest.mark.parametrize("grey", ["MONOCHROME1", "MONOCHROME2"])
    def test_every_packing_reads_as_the_plain_file(
        self, tmp_path: Path, kind: str, grey: str
    ) -> None:
        plain = pydicom.dcmread(SHIPPED / "MR_small.dcm").pixel_array.T
        file = tmp_path / "a.dcm"
        shutil.copy(SHIPPED / f"MR_small_{kind}.dcm", file)
        edit(file, PhotometricInterpretation=grey)
        np.testing.assert_array_equal(read_scan(file, planes=True).array[0, ..., 0], plain)


@pytest.mark.parametrize("direction", [1, -1])
def test_a_mosaic_lies_where_nibabel_puts_it(tmp_path: Path, direction: int) -> None:
    """The geometry of a real Siemens header (its pixels are emptied), filled with noise."""
    source = gzip.decompress((NICOM / "siemens_dwi_0.dcm.gz").read_bytes())
    (tmp_path / "a.dcm").write_bytes(source)
    ds = pydicom.dcmread(tmp_path / "a.dcm")
    ds.PixelData = noise((ds.Columns, ds.Rows)).astype(np.uint16).tobytes()
    if direction < 0:
        tag = ds.private_block(0x0029, "SIEMENS CSA HEADER").get_tag(0x10)
        ds[tag].value = _turned(ds[tag].value, dicomwrappers.wrapper_from_data(ds).slice_normal)
    ds.save_as(tmp_path / "a.dcm")
    theirs = dicomwrappers.wrapper_from_data(pydicom.dcmread(tmp_path / "a.dcm"))
    scan = dicom.read(tmp_path / "a.dcm", ReadOptions())
    assert theirs.is_mosaic
    ours = np.diag([-1, -1, 1, 1]) @ scan.affine
    array = theirs.get_data()  # rows and columns the other way round
    corners = np.array(np.meshgrid(*[[0, n - 1] for n in scan.shape])).reshape(3, -1).T
    for i, j, k in corners:
        mm = ours @ [i, j, k, 1]
        row, column, slice_ = np.round(np.linalg.solve(theirs.affine, mm)[:3]).astype(int)
        np.testing.assert_allclose(theirs.affine @ [row, column, slice_, 1], mm, atol=1e-2)
        assert scan.array[0, i, j, k] == array[row, column, slice_]


def _turned(csa: bytes, normal: np.ndarray) -> bytes:
    """A CSA header whose slices are stacked the other way."""
    for value in normal:
        text = f"{value:.8f}".encode()
        other = (text[1:] if text.startswith(b"-") else b"-" + text[:-1]).ljust(len(text), b"\0")
        csa = csa.replace(text, other)
    return csa


def test_mosaics_of_one_series_are_volumes(tmp_path: Path) -> None:
    """Without Siemens' CSA header: the number of slices alone, from its private element."""
    voxels = noise((2, 8, 7, 5))
    made = []
    for v in range(2):
        tiles = np.zeros((24, 21), np.int16)
        for k in range(5):
            tiles[k % 3 * 8 :, k // 3 * 7 :][:8, :7] = voxels[v, ..., k]
        made.append(Plane(tiles, 0, {"AcquisitionNumber": v + 1}))
    write_planes(
        tmp_path,
        made,
        ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"],
        SpacingBetweenSlices=3.0,
    )
    assert refused(tmp_path).reason == "unsupported-dicom"
    for file in tmp_path.iterdir():
        ds = pydicom.dcmread(file)
        ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 5)
        ds.save_as(file)
    scan = read_scan(tmp_path, "all")
    np.testing.assert_array_equal(scan.array, voxels)
    # The picture's centre is the slices' centre: one picture is two slices wider than a slice.
    np.testing.assert_allclose(scan.affine[:3, 3], [10 - 0.6 * 8, 20 - 0.8 * 7, 5])


# What situs makes of the files that pydicom ships, single slices accepted. The reasons are right:
# a file is refused as truncated only where bytes are missing.
READ = {
    "CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm",
    "MR_small_expb.dcm", "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm", "J2K_pixelrep_mismatch.dcm",
    "693_J2KI.dcm", "examples_overlay.dcm", "zipMR.gz",
}  # fmt: skip
TRUNCATED = {"MR_truncated.dcm", "rtplan_truncated.dcm"}
NO_PIXELS = {"UN_sequence.dcm", "no_meta_group_length.dcm", "priv_SQ.dcm"}
NAMELESS = {"empty_charset_LEI.dcm", "no_meta.dcm"}  # they do not say what kind of object they are
DERIVED = ("rtdose", "liver", "badVR")
NO_PLACE = ("JPEG", "JPGExtended", "image_dfl")


def expected_reason(name: str) -> str | None:
    if name in READ:
        return None
    known = {"truncated-file": TRUNCATED, "no-pixels": NO_PIXELS, "unreadable-file": NAMELESS}
    for reason, names in known.items():
        if name in names:
            return reason
    if name.startswith(DERIVED):
        return "unsupported-dicom"
    if name.startswith(NO_PLACE):
        return "no-geometry"
    colour = ("SC_", "examples_", "ExplVR_BigEnd.dcm", "GDCMJ2K")
    return "colour-image" if name.startswith(colour) else "not-an-image"


def test_the_files_that_pydicom_ships() -> None:
    files = sorted(f for f in SHIPPED.glob("*") if f.is_file())
    assert len(files) > 60
    wrong = {}
    for file in files:
        try:
            read_scan(file, planes=True)
            reason = None
        except situs.ScanRefused as error:
            reason = error.reason
        if reason != expected_reason(file.name):
            wrong[file.name] = reason
    assert not wrong


def test_a_linked_folder_is_read_once_and_loops_end(tmp_path: Path) -> None:
    write_series(tmp_path / "real", noise(SHAPE))
    collection = tmp_path / "collection"
    collection.mkdir()
    (collection / "patient").symlink_to(tmp_path / "real")
    (collection / "again").symlink_to(tmp_path / "real")
    (collection / "loop").symlink_to(collection)
    entries = build_catalog(collection, workers=0).entries
    assert [(e.path, e.accepted) for e in entries] == [("again", True)]
    assert read_scan(collection / "patient").shape == SHAPE


def test_patients_with_one_placeholder_are_told_by_their_studies(tmp_path: Path) -> None:
    for p in range(3):
        for series in range(2):
            write_series(
                tmp_path / f"{p}{series}",
                noise(SHAPE, 10 * p + series),
                PatientID="ANONYMOUS",
                StudyInstanceUID=f"1.2.{p}",
            )
    entries = build_catalog(tmp_path, workers=0).entries
    assert len({e.patient for e in entries}) == 3
    assert len({(e.patient, e.study[:0] + e.path[0]) for e in entries}) == 3
    assert all(any("placeholder" in note for note in e.notes) for e in entries)


def test_where_a_header_ends_early_a_stack_never_passes(tmp_path: Path) -> None:
    last = write_series(tmp_path, noise(SHAPE))[-1]
    whole = last.read_bytes()
    rng = random.Random(0)
    for size in [0, 1, 100, 131, 132, 140, *rng.sample(range(140, len(whole)), 60)]:
        last.write_bytes(whole[:size])
        assert refused(tmp_path).reason in {
            "empty-file",
            "truncated-file",
            "no-pixels",
            "no-geometry",
            "unreadable-file",
        }


def test_a_header_that_stops_before_its_rescale_is_refused(tmp_path: Path) -> None:
    stray = bytes.fromhex("feff0de000000000")  # ends a header wherever it stands
    intercept = bytes.fromhex("28005210") + b"DS"
    for file in write_series(tmp_path, noise(SHAPE), slopes=[1] * 6, intercepts=[-1024] * 6):
        before, after = file.read_bytes().split(intercept)
        file.write_bytes(before + stray + intercept + after)
    assert refused(tmp_path).reason in {"no-pixels", "truncated-file"}


def test_a_header_that_goes_on_behind_the_pixels(tmp_path: Path) -> None:
    whole = {file: file.read_bytes() for file in write_series(tmp_path, noise(SHAPE))}
    padding = bytes.fromhex("fcfffcff") + b"OB\0\0" + bytes.fromhex("0400000000000000")
    rows = bytes.fromhex("28001000") + b"US" + bytes.fromhex("02000300")
    cut = bytes.fromhex("fcfffcff") + b"SQ\0\0" + bytes.fromhex("fffffffffeff00e0ffffffff")
    for file, raw in whole.items():
        file.write_bytes(raw + padding)
    np.testing.assert_array_equal(read_scan(tmp_path).array[0], noise(SHAPE))
    for end, reason in ((rows, "unreadable-file"), (cut, "truncated-file")):
        for file, raw in whole.items():
            file.write_bytes(raw + end)
        refused(tmp_path, reason)


def test_large_intercepts_do_not_turn_over(tmp_path: Path) -> None:
    write_series(tmp_path, noise(SHAPE), slopes=[1] * 6, intercepts=[2**31 - 10] * 6)
    array = read_scan(tmp_path).array[0]
    np.testing.assert_array_equal(array, noise(SHAPE).astype(np.int64) + 2**31 - 10)
