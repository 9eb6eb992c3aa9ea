"""Whose the slices of a series are, and in which frame: never two patients in one volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import Plane, noise, write_frames, write_planes

import situs
from situs.catalog.catalog import build_catalog
from situs.scans.read import read_scan

SHAPE = (4, 5, 6)
AFFINE = np.array([[-0.6, 0, 0, 10], [0, -0.8, 0, 20], [0, 0, 3, 5], [0, 0, 0, 1.0]])
TWO_PATIENTS = [{"PatientID": "A", "StudyInstanceUID": "1.2.1"}]
TWO_PATIENTS += [{"PatientID": "B", "StudyInstanceUID": "1.2.2"}]


def stack(voxels: np.ndarray, *told: dict[str, Any]) -> list[Plane]:
    """Slices of one volume; what is told of the first half, the second half, …"""
    return [
        Plane(voxels[..., k], k, told[k * len(told) // voxels.shape[2]] if told else {})
        for k in range(voxels.shape[2])
    ]


def refused(path: Path, **options: object) -> tuple[str, str]:
    with pytest.raises(situs.ScanRefused) as caught:
        read_scan(path, **options)  # type: ignore[arg-type]
    return caught.value.reason, caught.value.detail


@pytest.mark.parametrize("whole", [False, True], ids=["halves", "whole volumes"])
@pytest.mark.parametrize(
    ("told", "what"),
    [
        (TWO_PATIENTS, "2 patients"),
        ([{"PatientID": "A"}, {"PatientID": "B"}], "2 patients"),
        ([{"StudyInstanceUID": "1.2.1"}, {"StudyInstanceUID": "1.2.2"}], "2 studies"),
    ],
)
def test_one_series_identifier_for_several_patients_or_studies(
    tmp_path: Path, told: list[dict[str, Any]], what: str, whole: bool
) -> None:
    planes = stack(noise(SHAPE), *told)
    if whole:
        planes = [*stack(noise(SHAPE), told[0]), *stack(noise(SHAPE, 1), told[1])]
    write_planes(tmp_path, planes)
    assert refused(tmp_path, volume="all") == (
        "mixed-patients",
        f"slices of {what} share a series identifier",
    )
    [entry] = build_catalog(tmp_path, workers=0).entries
    assert entry.reason == "mixed-patients"


def test_patients_of_one_series_identifier_are_apart_by_their_folders(tmp_path: Path) -> None:
    for number, told in enumerate(TWO_PATIENTS):
        write_planes(tmp_path / f"p{number}", stack(noise(SHAPE, number), told))
    entries = build_catalog(tmp_path, workers=0).entries
    assert [(e.path, e.accepted) for e in entries] == [("p0", True), ("p1", True)]
    assert len({e.patient for e in entries}) == len({e.key for e in entries}) == 2


def test_a_patient_who_is_not_named_in_some_slices_is_one(tmp_path: Path) -> None:
    write_planes(tmp_path, stack(noise(SHAPE), {"PatientID": "A"}, {"PatientID": ""}))
    np.testing.assert_array_equal(read_scan(tmp_path).array[0], noise(SHAPE))


def test_a_volume_lies_in_one_frame_of_reference(tmp_path: Path) -> None:
    frames = [{"FrameOfReferenceUID": f"1.9.{k}"} for k in range(6)]
    write_planes(tmp_path / "two", stack(noise(SHAPE), *frames[:2]))
    assert refused(tmp_path / "two")[0] == "mixed-frames"
    # A frame for each file was made up by whoever renamed the files one by one.
    write_planes(tmp_path / "each", stack(noise(SHAPE), *frames))
    np.testing.assert_array_equal(read_scan(tmp_path / "each").array[0], noise(SHAPE))
    planes = stack(noise(SHAPE))
    for name, other in (("one", frames[0]), ("halves", frames[1])):
        write_frames(tmp_path / name / "a.dcm", planes[:3], **frames[0])
        write_frames(tmp_path / name / "b.dcm", planes[3:], **other)
    np.testing.assert_array_equal(read_scan(tmp_path / "one").array[0], noise(SHAPE))
    assert refused(tmp_path / "halves")[0] == "mixed-frames"


def test_every_frame_of_an_object_must_have_a_place(tmp_path: Path) -> None:
    """Frames behind the last that is described would be lost without a word."""
    write_frames(tmp_path / "a.dcm", stack(noise(SHAPE)))
    ds = pydicom.dcmread(tmp_path / "a.dcm")
    ds.PerFrameFunctionalGroupsSequence.pop()
    ds.save_as(tmp_path / "a.dcm")
    reason, detail = refused(tmp_path / "a.dcm")
    assert reason == "no-geometry"
    assert "5 of 6 frames" in detail


def test_rescaling_of_an_object_that_has_no_group_for_it(tmp_path: Path) -> None:
    """Some writers leave slope and intercept where single-frame objects have them."""
    write_frames(tmp_path / "a.dcm", stack(noise(SHAPE)), RescaleSlope=2, RescaleIntercept=-10)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.dcm").array[0], noise(SHAPE) * 2.0 - 10)


def test_moments_of_a_tracer_go_on_behind_midnight(tmp_path: Path) -> None:
    """FrameReferenceTime counts from the series' start; times of day begin anew."""
    moments = [{"FrameReferenceTime": 0, "AcquisitionTime": "235950"}]
    moments += [{"FrameReferenceTime": 20000, "AcquisitionTime": "000010"}]
    write_planes(tmp_path, [p for v in range(2) for p in stack(noise(SHAPE, v), moments[v])][::-1])
    scan = read_scan(tmp_path, "all")
    np.testing.assert_array_equal(scan.array, np.stack([noise(SHAPE), noise(SHAPE, 1)]))


def test_positions_that_wander_by_their_rounding_are_no_tilt(tmp_path: Path) -> None:
    """Less than a tenth of a pixel from first to last: nothing is resampled."""
    wander = [{"ImagePositionPatient": [-10 + 0.05 * (k % 2), -20, 5 + 3 * k]} for k in range(6)]
    write_planes(tmp_path, stack(noise(SHAPE), *wander))
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.array[0], noise(SHAPE))
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-9)


def test_a_slope_of_0_is_named(tmp_path: Path) -> None:
    write_planes(tmp_path, stack(noise(SHAPE)), RescaleSlope=0, RescaleIntercept=0)
    reason, detail = refused(tmp_path)
    assert reason == "unreadable-file"
    assert "RescaleSlope is 0" in detail


def test_a_damaged_slice_is_named_by_its_number(tmp_path: Path) -> None:
    """Among hundreds of files it must be found, and names of files are not for pages."""
    write_planes(tmp_path, stack(noise(SHAPE)))
    third = tmp_path / "0002.dcm"
    whole = third.read_bytes()
    third.write_bytes(whole[: len(whole) - 10])
    reason, detail = refused(tmp_path)
    assert (reason, "file 3 of 6 by name" in detail) == ("truncated-file", True)
    third.write_bytes(whole[:200])
    reason, detail = refused(tmp_path)
    assert (reason, "file 3 of 6 by name" in detail) == ("truncated-file", True)
