"""DICOM: geometry against SimpleITK, and every hazard that a series can hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from campaign_dicom import pack
from dicom_files import (
    AXIAL,
    OBLIQUE,
    SAGITTAL,
    affine_ras,
    big_endian,
    common,
    edit,
    jpeg_lossless,
    noise,
    stream_of_few_bits,
    write_enhanced,
    write_series,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from refusing import refused
from scipy import ndimage
from scipy.spatial.transform import Rotation

import situs
from situs.scans.read import read_scan

SHAPE = (8, 7, 6)  # columns, rows, slices


def read_with_simpleitk(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def assert_like_simpleitk(folder: Path) -> None:
    """Every voxel of ours lies, within 1e-3 mm, where SimpleITK has one of the same value."""
    scan, image = read_scan(folder), read_with_simpleitk(folder)
    corners = np.array(np.meshgrid(*[[0, n - 1] for n in scan.shape])).reshape(3, -1).T
    theirs_mm = [image.TransformIndexToPhysicalPoint(c) for c in corners.tolist()]
    ours_mm = corners @ scan.affine[:3, :3].T + scan.affine[:3, 3]
    assert np.abs(np.array(theirs_mm) * [-1, -1, 1] - ours_mm).max() < 1e-3
    np.testing.assert_allclose(scan.array[0], sitk.GetArrayFromImage(image).T)


@pytest.mark.parametrize(
    "series",
    ["11-T1post-18670", "11_HCropVolume", "26401-T1prereg-52906", "36468-FLAIRreg-58706"],
)
def test_real_study_lies_where_simpleitk_puts_it(shared_data: Path, series: str) -> None:
    assert_like_simpleitk(shared_data / "dicom" / "study-003" / series)


def test_real_study_is_one_frame_of_reference(shared_data: Path) -> None:
    folders = sorted((shared_data / "dicom" / "study-003").iterdir())
    scans = [read_scan(f) for f in folders]
    assert len({s.provenance.study for s in scans}) == 1
    assert len({s.provenance.series for s in scans}) == len(scans)
    assert [s.provenance.description for s in scans] == [
        "t1 post ax",
        "",
        "t1 pre ax",
        "flair ax",
        "t2 ax",
    ]
    error = refused(folders[0].parent, "several-series")
    assert scans[0].provenance.series in error.detail
    chosen = read_scan(folders[0].parent, series=scans[0].provenance.series)
    np.testing.assert_array_equal(chosen.array, scans[0].array)


@settings(max_examples=10, deadline=None)
@given(
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)),
    st.floats(0.5, 9),
    st.randoms(use_true_random=False),
)
def test_any_orientation_in_any_order(tmp_path_factory, angles, spacing, step, random) -> None:
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    directions = (rotation[:, 0], rotation[:, 1])
    voxels = noise(SHAPE)
    names = [f"{i}.dcm" for i in range(SHAPE[2])]
    numbers = list(range(SHAPE[2]))
    random.shuffle(names)
    random.shuffle(numbers)
    folder = tmp_path_factory.mktemp("series")
    write_series(
        folder,
        voxels,
        directions=directions,
        spacing=spacing,
        step=step,
        names=names,
        numbers=numbers,
    )
    scan = read_scan(folder)
    np.testing.assert_array_equal(scan.array[0], voxels)
    expected = affine_ras(directions, spacing=spacing, step=step)
    np.testing.assert_allclose(scan.affine, expected, atol=1e-5)
    assert_like_simpleitk(folder)


def test_order_is_by_position_only(tmp_path: Path) -> None:
    voxels = noise(SHAPE)
    write_series(
        tmp_path, voxels, names=[f"IM{9 - k}" for k in range(6)], numbers=[*range(6, 0, -1)]
    )
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.array[0], voxels)
    np.testing.assert_allclose(scan.affine, affine_ras(), atol=1e-5)
    assert scan.modality == "MR"
    assert "sorted 6 slices by position" in scan.provenance.notes


def test_each_slice_has_its_own_rescaling(tmp_path: Path) -> None:
    voxels, slopes = noise(SHAPE), [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    write_series(tmp_path, voxels, slopes=slopes, intercepts=[-k for k in range(6)])
    expected = voxels * np.array(slopes) - np.arange(6)
    np.testing.assert_allclose(read_scan(tmp_path).array[0], expected, rtol=1e-6)


def test_hounsfield_units_stay_whole_numbers(tmp_path: Path) -> None:
    write_series(tmp_path, noise(SHAPE), slopes=[1] * 6, intercepts=[-1024] * 6, Modality="CT")
    scan = read_scan(tmp_path)
    assert scan.modality == "CT"
    assert scan.array.dtype == np.int16
    np.testing.assert_array_equal(scan.array[0], noise(SHAPE) - 1024)


def test_enhanced_frames_are_ordered_by_position(tmp_path: Path) -> None:
    voxels, slopes = noise(SHAPE), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    file = tmp_path / "enhanced.dcm"
    write_enhanced(file, voxels, order=[3, 0, 5, 1, 4, 2], slopes=slopes)
    scan = read_scan(file)
    np.testing.assert_allclose(scan.array[0], voxels * np.array(slopes))
    np.testing.assert_allclose(scan.affine, affine_ras(), atol=1e-6)


def test_enhanced_time_frames_are_volumes(tmp_path: Path) -> None:
    voxels = noise((8, 7, 12))
    write_enhanced(tmp_path / "e.dcm", voxels, times=2, order=[*range(11, -1, -1)])
    assert "2 volumes" in refused(tmp_path, "four-dimensional").detail
    np.testing.assert_array_equal(read_scan(tmp_path, 1).array[0], voxels[..., 6:])
    np.testing.assert_array_equal(
        read_scan(tmp_path, "all").array, np.stack([voxels[..., :6], voxels[..., 6:]])
    )


def test_cine_phases_are_volumes(tmp_path: Path) -> None:
    phases = [noise(SHAPE, seed) for seed in range(3)]
    uids = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2", "FrameOfReferenceUID": "1.9"}
    for phase, time in ((0, 400.0), (1, 0.0), (2, 200.0)):
        write_series(tmp_path / str(phase), phases[phase], TriggerTime=time, **uids)
    refused(tmp_path, "four-dimensional")
    scan = read_scan(tmp_path, "all")
    np.testing.assert_array_equal(scan.array, np.stack([phases[1], phases[2], phases[0]]))


def test_copies_of_slices_are_left_out(tmp_path: Path) -> None:
    files = write_series(tmp_path, noise(SHAPE))
    shutil.copy(files[2], tmp_path / "same-instance.dcm")
    shutil.copy(files[3], tmp_path / "same-pixels.dcm")
    edit(tmp_path / "same-pixels.dcm", SOPInstanceUID="1.2.3.4")
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.array[0], noise(SHAPE))
    assert "left out 2 copies of slices" in scan.provenance.notes


def test_a_still_scene_keeps_its_phases(tmp_path: Path) -> None:
    """Two phases that agree in some slices are two phases, not copies."""
    phases = [noise(SHAPE), noise(SHAPE)]
    phases[1][..., 4] += 1
    uids = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2"}
    for number, phase in enumerate(phases):
        write_series(tmp_path / str(number), phase, TriggerTime=float(number), **uids)
    np.testing.assert_array_equal(read_scan(tmp_path, "all").array, np.stack(phases))


def test_a_scout_in_the_series_is_left_out(tmp_path: Path) -> None:
    uids = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2"}
    scout = {"directions": SAGITTAL, "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write_series(tmp_path / "0", noise((8, 7, 1)), **scout, **uids)
    write_series(tmp_path / "1", noise(SHAPE), **uids)
    scan = read_scan(tmp_path)
    assert scan.shape == SHAPE
    assert "left out 1 localizer slices" in scan.provenance.notes


@pytest.mark.parametrize("degrees", [15, -15])
def test_a_tilted_gantry_is_straightened(tmp_path: Path, degrees: float) -> None:
    """A smooth world sampled by a tilted stack reads the same at every straightened voxel."""

    def world(points_mm: np.ndarray) -> np.ndarray:
        x, y, z = points_mm
        return 1000 + 3 * x + 5 * y + 20 * np.sin(z / 9) + 0.02 * x * y

    tilt = np.tan(np.radians(degrees))
    step, spacing = np.array([0, 2.0 * tilt, 2.0]), (1.1, 0.9)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in (24, 30, 12)], indexing="ij"))
    origin = np.array([-10.0, -20, 5])
    lps = origin[:, None, None, None] + np.einsum(
        "ad,dijk->aijk", np.stack([[0.9, 0, 0], [0, 1.1, 0], step], axis=1), index
    )
    stored = np.round(world(lps) * 10).astype(np.int16)
    write_series(
        tmp_path,
        stored,
        directions=AXIAL,
        origin=origin,
        spacing=spacing,
        step=step,
        slopes=[0.1] * 12,
        intercepts=[0] * 12,
    )
    scan = read_scan(tmp_path)
    assert any("15.0°" in note for note in scan.provenance.notes)
    axes = scan.affine[:3, :3] / np.array(scan.spacing)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    assert scan.shape[1] > 30
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in scan.shape], indexing="ij"))
    ras = np.einsum("ad,dijk->aijk", scan.affine[:3, :3], grid) + scan.affine[:3, 3].reshape(
        3, 1, 1, 1
    )
    expected = world(ras * np.array([-1, -1, 1]).reshape(3, 1, 1, 1))
    fill = scan.array[0].min()
    inside = ndimage.binary_erosion(scan.array[0] > fill + 1, np.ones((3, 3, 1)))
    assert inside.mean() > 0.5
    assert np.abs(scan.array[0] - expected)[inside].max() < 0.5


class TestRefusals:
    def test_missing_slice(self, tmp_path: Path) -> None:
        write_series(tmp_path, noise(SHAPE))[3].unlink()
        assert "1 missing after slice 3" in refused(tmp_path, "missing-slice").detail

    def test_irregular_spacing(self, tmp_path: Path) -> None:
        files = write_series(tmp_path, noise(SHAPE), directions=AXIAL, origin=(0, 0, 0))
        edit(files[5], ImagePositionPatient=[0, 0, 16.3])
        assert "gaps from 3 to 4.3" in refused(tmp_path, "irregular-spacing").detail
        edit(files[5], ImagePositionPatient=[0, 0, 15.0])
        edit(files[2], ImagePositionPatient=[0, 2.0, 6.0])
        assert "off a line" in refused(tmp_path, "irregular-spacing").detail

    def test_mixed_orientation_and_localizer(self, tmp_path: Path) -> None:
        uids = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2"}
        write_series(tmp_path / "a", noise(SHAPE), directions=AXIAL, **uids)
        write_series(tmp_path / "b", noise(SHAPE, 1), directions=SAGITTAL, **uids)
        refused(tmp_path, "mixed-orientation")
        for file in tmp_path.rglob("*.dcm"):
            edit(file, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        refused(tmp_path, "localizer")

    def test_mixed_size(self, tmp_path: Path) -> None:
        files = write_series(tmp_path, noise(SHAPE))
        edit(files[1], PixelSpacing=["0.8", "0.7"])
        refused(tmp_path, "mixed-size")
        edit(files[1], PixelSpacing=["0.8", "0.6"], Rows=4, Columns=14)
        refused(tmp_path, "mixed-size")

    def test_uneven_duplicates(self, tmp_path: Path) -> None:
        files = write_series(tmp_path, noise(SHAPE))
        edit(files[1], ImagePositionPatient=pydicom.dcmread(files[0]).ImagePositionPatient)
        refused(tmp_path, "duplicate-slices")

    def test_geometry_that_is_absent_or_no_rotation(self, tmp_path: Path) -> None:
        files = write_series(tmp_path, noise(SHAPE))
        edit(files[4], ImagePositionPatient=None)
        assert "1 of 6" in refused(tmp_path, "no-geometry").detail
        for file in write_series(tmp_path, noise(SHAPE)):
            edit(file, ImageOrientationPatient=[1, 0, 0, 1, 0, 0])
        refused(tmp_path, "bad-orientation")
        for file in write_series(tmp_path, noise(SHAPE)):
            edit(file, PixelSpacing=["0", "1"])
        refused(tmp_path, "bad-spacing")

    def test_one_slice(self, tmp_path: Path) -> None:
        files = write_series(tmp_path, noise(SHAPE))
        refused(files[0], "one-voxel-thick")
        scan = read_scan(files[0], planes=True)
        assert scan.shape == (8, 7, 1)
        np.testing.assert_allclose(scan.affine, affine_ras(), atol=1e-5)

    def test_other_objects(self, tmp_path: Path) -> None:
        write_series(tmp_path / "rgb", noise(SHAPE), PhotometricInterpretation="PALETTE COLOR")
        refused(tmp_path / "rgb", "colour-image")
        write_series(tmp_path / "seg", noise(SHAPE), Modality="SEG")
        refused(tmp_path / "seg", "unsupported-dicom")
        write_series(tmp_path / "mosaic", noise(SHAPE), ImageType=["ORIGINAL", "PRIMARY", "MOSAIC"])
        refused(tmp_path / "mosaic", "unsupported-dicom")

    def test_documents_beside_a_series_are_passed_over(self, tmp_path: Path) -> None:
        write_series(tmp_path, noise(SHAPE))
        report = common(1, 1, "1.2.840.10008.5.1.4.1.1.88.11")
        del report.Rows
        report.Modality = "SR"
        report.save_as(tmp_path / "report.dcm", enforce_file_format=True)
        (tmp_path / "notes.txt").write_text("nothing")
        scan = read_scan(tmp_path)
        assert "passed over 2 files without an image" in scan.provenance.notes

    @pytest.mark.parametrize("share", [0.0, 0.25, 0.6, 0.95])
    def test_truncated_slice(self, tmp_path: Path, share: float) -> None:
        """Wherever the file ends, a stack never passes as whole without its last slice."""
        last = write_series(tmp_path, noise(SHAPE))[-1]
        last.write_bytes(last.read_bytes()[: int(share * last.stat().st_size)])
        with pytest.raises(situs.ScanRefused) as caught:
            read_scan(tmp_path)
        assert caught.value.reason in ("truncated-file", "empty-file", "no-pixels")

    def test_headers_that_promise_too_much(self, tmp_path: Path) -> None:
        for file in write_series(tmp_path, noise(SHAPE)):
            edit(file, Rows=65000, Columns=65000)
        refused(tmp_path, "too-large")


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_compressed_pixels_decode(tmp_path: Path, kind: str) -> None:
    """Lossless JPEG, which pydicom has no decoder of its own for, written by GDCM."""
    voxels = noise((32, 28, 4))
    if kind == "classic":
        write_series(tmp_path / "plain", voxels, slopes=[2] * 4, intercepts=[-7] * 4)
    else:
        write_enhanced(tmp_path / "plain" / "e.dcm", voxels, slopes=[1, 2, 3, 4])
    expected = read_scan(tmp_path / "plain")
    packed = tmp_path / "packed"
    shutil.copytree(tmp_path / "plain", packed)
    for file in packed.iterdir():
        jpeg_lossless(file)
    scan = read_scan(packed)
    np.testing.assert_array_equal(scan.array, expected.array)
    np.testing.assert_allclose(scan.affine, expected.affine)


@pytest.mark.parametrize("packing", ["JPEG lossless", "JPEG 2000", "JPEG-LS", "RLE"])
@pytest.mark.parametrize("signed", [True, False])
def test_compressed_values_fit_the_stored_bits_or_are_refused(
    tmp_path: Path, packing: str, signed: bool
) -> None:
    """Whether a decoder cuts values to BitsStored or not, a wrong header gives no wrong volume."""
    voxels = noise((34, 33, 4)) - (500 if signed and packing != "JPEG-LS" else 0)
    for bits in (1, 7, 9, 10, 12):
        folder = tmp_path / str(bits)
        for file in write_series(folder, voxels, PixelRepresentation=int(signed)):
            pack(file, packing)
            edit(file, BitsStored=bits, HighBit=bits - 1)
        if bits < 10:
            assert "BitsStored" in refused(folder, "unreadable-file").detail
        else:
            np.testing.assert_array_equal(read_scan(folder).array[0], voxels)


@pytest.mark.parametrize("packing", ["JPEG lossless", "JPEG-LS", "JPEG 2000"])
def test_a_sign_that_a_stream_of_few_bits_may_hold(tmp_path: Path, packing: str) -> None:
    """Of a stream without sign the highest bit is one only where BitsStored says as many."""
    for bits, low in ((10, -500), (12, -500), (16, -500), (12, -1), (12, 0)):
        voxels = noise((34, 33, 4)) // 2 + low
        folder = tmp_path / f"{bits} {low}"
        said = {"BitsStored": 10, "HighBit": 9, "PixelRepresentation": 0}
        for file in write_series(folder, voxels & 1023, **said):
            pack(file, packing) if packing == "JPEG-LS" else stream_of_few_bits(file, packing, 10)
            edit(file, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=1)
        if bits == 10 or low == 0:
            np.testing.assert_array_equal(read_scan(folder).array[0], voxels)
        else:
            assert "negative" in refused(folder, "unreadable-file").detail


@pytest.mark.parametrize(("low", "bits"), [(-500, 10), (-500, 12), (0, 10), (300, 11), (300, 10)])
def test_the_sign_that_a_stream_names(tmp_path: Path, low: int, bits: int) -> None:
    """JPEG 2000 names one: the header must, too, and of enough bits."""
    voxels = noise((34, 33, 4)) // 2 + low
    for signed in (True, False):
        folder = tmp_path / str(signed)
        for file in write_series(folder, voxels):
            stream_of_few_bits(file, "JPEG 2000", 11 if low == 300 else 10, signed=True)
            edit(file, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=int(signed))
        if signed and (low, bits) != (300, 10):
            np.testing.assert_array_equal(read_scan(folder).array[0], voxels)
            theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(sorted(folder.iterdir())[0])))
            np.testing.assert_array_equal(theirs[0].T, voxels[..., 0])
        else:
            detail = refused(folder, "unreadable-file").detail
            assert "BitsStored" in detail or "PixelRepresentation" in detail


@pytest.mark.parametrize("signed", [True, False])
def test_bits_above_the_stored_ones_are_an_overlay_or_refused(tmp_path: Path, signed: bool) -> None:
    """Other readers cut them, of an overlay or of values that need them, without a word."""
    voxels = noise((34, 33, 4)) - (500 if signed else 0)
    overlay = (np.indices(voxels.shape).sum(0) % 5 == 0).astype(np.int16) << 13
    said = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": int(signed)}
    for place in (13, 14, 0, [13, 14], None):
        folder = tmp_path / str(place)
        files = write_series(folder, voxels & 4095 | overlay, **said)
        for file in files if place is not None else ():
            ds = pydicom.dcmread(file)
            ds.add_new(0x60020102, "US", place)
            ds.save_as(file)
        if place == 13:
            np.testing.assert_array_equal(read_scan(folder).array[0], voxels)
            for file in files:
                big_endian(file)
            np.testing.assert_array_equal(read_scan(folder).array[0], voxels)
        else:
            assert "no overlay" in refused(folder, "unreadable-file").detail
    theirs = pydicom.dcmread(files[0]).pixel_array
    np.testing.assert_array_equal(theirs.T, voxels[..., 0])


def test_an_overlay_below_values_that_are_left_aligned(tmp_path: Path) -> None:
    voxels = noise((34, 33, 4)) - 500
    overlay = (np.indices(voxels.shape).sum(0) % 5 == 0).astype(np.int16) << 3
    said = {"BitsStored": 12, "HighBit": 15, "PixelRepresentation": 1}
    for file in write_series(tmp_path, voxels << 4 | overlay, **said):
        ds = pydicom.dcmread(file)
        ds.add_new(0x60000102, "US", 3)
        ds.save_as(file)
    np.testing.assert_array_equal(read_scan(tmp_path).array[0], voxels)


def test_oblique_is_what_the_fixture_says() -> None:
    """Guards the other tests: their directions are unit vectors at right angles."""
    row, column = np.array(OBLIQUE)
    np.testing.assert_allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-6)
