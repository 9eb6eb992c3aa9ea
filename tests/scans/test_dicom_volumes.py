"""Which slices of a DICOM series make which volume, whatever the order they come in."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import Plane, noise, write_frames, write_planes
from hypothesis import given, settings
from hypothesis import strategies as st

import situs
from situs.catalog.catalog import build_catalog
from situs.scans.read import read_scan

COLUMNS, ROWS, PLACES = 4, 5, 6
Told = Callable[[int, int, random.Random], dict[str, Any]]

# What a header says of volume v and place k, for each way to tell three volumes apart.
CLASSIC: dict[str, Told] = {
    "temporal position": lambda v, k, r: {"TemporalPositionIdentifier": v + 1},
    "echo": lambda v, k, r: {"EchoTime": 10.0 * (v + 1), "TriggerTime": r.uniform(300, 900)},
    "b-value": lambda v, k, r: {"DiffusionBValue": 500.0 * v, "TriggerTime": r.uniform(300, 900)},
    "gradient": lambda v, k, r: {
        "DiffusionBValue": 1000.0,
        "DiffusionGradientOrientation": np.eye(3)[v].tolist(),
        "AcquisitionTime": f"12{v:02d}{k:02d}",
    },
    "phase": lambda v, k, r: {"TriggerTime": 40.0 * v},
    "phase of an uneven heart": lambda v, k, r: {
        "TriggerTime": (0.8 + 0.3 * k / PLACES) * 300 * v,
        "InstanceNumber": 3 * k + v + 1,
    },
    "time": lambda v, k, r: {"AcquisitionTime": f"12{v:02d}{k:02d}.5"},
    "instance number": lambda v, k, r: {"InstanceNumber": v * PLACES + k + 1},
    "echo number": lambda v, k, r: {"EchoNumbers": v + 1},
    "energy": lambda v, k, r: {"KVP": 80 + 30 * v},
    "kernel": lambda v, k, r: {"ConvolutionKernel": ["B30f", "B50f", "B70f"][v]},
    "phase of the heart": lambda v, k, r: {"NominalPercentageOfCardiacPhase": 30 * v},
    "contrast": lambda v, k, r: {"ContrastBolusAgent": ["", "Gd 1", "Gd 2"][v]},
    "magnitude and phase": lambda v, k, r: {"ImageType": ["ORIGINAL", "PRIMARY", "IMP"[v]]},
}
ENHANCED: dict[str, Told] = {
    "index": lambda v, k, r: {"FrameContentSequence.DimensionIndexValues": [1, k + 1, v + 1]},
    "temporal position": lambda v, k, r: {"FrameContentSequence.TemporalPositionIndex": v + 1},
    "echo": lambda v, k, r: {"MREchoSequence.EffectiveEchoTime": 10.0 * (v + 1)},
    "b-value": lambda v, k, r: {
        "MRDiffusionSequence.DiffusionBValue": 500.0 * v,
        "CardiacSynchronizationSequence.NominalCardiacTriggerDelayTime": r.uniform(300, 900),
    },
    "energy": lambda v, k, r: {"CTXRayDetailsSequence.KVP": 80 + 30 * v},
    "gradient": lambda v, k, r: {
        "FrameContentSequence.FrameAcquisitionDateTime": f"2020010112{v:02d}{k:02d}",
        "MRDiffusionSequence.DiffusionGradientDirectionSequence.DiffusionGradientOrientation": (
            np.eye(3)[v].tolist()
        ),
    },
    "phase": lambda v, k, r: {
        "CardiacSynchronizationSequence.NominalCardiacTriggerDelayTime": 40.0 * v
    },
}


def volumes(count: int, seed: int = 0) -> np.ndarray:
    """``(count, columns, rows, slices)``; no two slices alike."""
    return noise((count, COLUMNS, ROWS, PLACES), seed)


def planes(voxels: np.ndarray, told: Told, rng: random.Random) -> list[Plane]:
    """All slices of all volumes, shuffled."""
    made = [
        Plane(voxels[v, ..., k], k, told(v, k, rng))
        for v in range(len(voxels))
        for k in range(PLACES)
    ]
    rng.shuffle(made)
    return made


@pytest.mark.slow
def test_one_answer_for_any_order_of_files_and_frames(tmp_path_factory: Any) -> None:
    """Whatever tells volumes apart: classic, one object, or several objects in one series."""
    voxels = volumes(3)
    expected = np.diag([-0.6, -0.8, 3.0, 1.0])
    expected[:3, 3] = 10, 20, 5

    @settings(max_examples=60, deadline=None)
    @given(
        st.sampled_from(
            [("classic", name) for name in CLASSIC]
            + [(form, name) for form in ("object", "objects") for name in ENHANCED]
        ),
        st.integers(0, 10**6),
    )
    def check(case: tuple[str, str], seed: int) -> None:
        form, name = case
        folder, rng = tmp_path_factory.mktemp("series"), random.Random(seed)
        if form == "classic":
            write_planes(folder, planes(voxels, CLASSIC[name], rng))
        else:
            frames = planes(voxels, ENHANCED[name], rng)
            cut = rng.randrange(1, len(frames)) if form == "objects" else len(frames)
            for number, part in enumerate((frames[:cut], frames[cut:])):
                if part:
                    write_frames(folder / f"{number}.dcm", part)
        scan = read_scan(folder, "all")
        np.testing.assert_array_equal(scan.array, voxels)
        np.testing.assert_allclose(scan.affine, expected, atol=1e-9)
        shutil.rmtree(folder)

    check()


def test_objects_without_a_word_on_their_frames_are_volumes_in_order_of_time(
    tmp_path: Path,
) -> None:
    voxels = volumes(2)
    for v, name in ((0, "z.dcm"), (1, "a.dcm")):
        frames = planes(voxels[v : v + 1], lambda v, k, r: {}, random.Random(v))
        write_frames(tmp_path / name, frames, AcquisitionDateTime=f"2020010112000{v}")
    np.testing.assert_array_equal(read_scan(tmp_path, "all").array, voxels)


@pytest.mark.parametrize(
    ("vendor", "creator", "tag", "value"),
    [
        ("SIEMENS", "SIEMENS MR HEADER", (0x0019, 0x0C, "IS"), lambda b: b),
        (
            "GE MEDICAL SYSTEMS",
            "GEMS_PARM_01",
            (0x0043, 0x39, "IS"),
            lambda b: [b + 10**9, 8, 0, 0],
        ),
        ("Philips", "Philips Imaging DD 001", (0x2001, 0x03, "FL"), float),
    ],
)
def test_b_values_before_the_standard(
    tmp_path: Path, vendor: str, creator: str, tag: tuple[int, int, str], value: Any
) -> None:
    voxels, rng = volumes(2), random.Random(5)
    write_planes(
        tmp_path,
        planes(voxels, lambda v, k, r: {"TriggerTime": r.uniform(300, 900)}, rng),
        Manufacturer=vendor,
    )
    import pydicom  # noqa: PLC0415

    for file in tmp_path.iterdir():
        ds = pydicom.dcmread(file)
        second = any((voxels[1, ..., k] == ds.pixel_array.T).all() for k in range(PLACES))
        group, element, vr = tag
        block = ds.private_block(group, creator, create=True)
        block.add_new(element, vr, value(800 if second else 0))
        ds.save_as(file)
    np.testing.assert_array_equal(read_scan(tmp_path, "all").array, voxels)


class TestAcquisitions:
    def write(self, folder: Path, offsets: tuple[float, ...], *, every: float = 1, **header: Any):
        """One acquisition for each offset, in steps of 3 mm."""
        voxels = volumes(len(offsets))
        write_planes(
            folder,
            [
                Plane(voxels[a, ..., k], offset + every * k, {"AcquisitionNumber": a + 1})
                for a, offset in enumerate(offsets)
                for k in range(PLACES)
            ],
            **header,
        )
        return voxels

    def test_complete_stacks_half_a_slice_apart_are_two_volumes(self, tmp_path: Path) -> None:
        voxels = self.write(tmp_path, (0, 0.5))
        with pytest.raises(situs.ScanRefused, match="2 volumes, told apart by acquisition"):
            read_scan(tmp_path)
        with pytest.raises(situs.ScanRefused, match="grids of their own"):
            read_scan(tmp_path, "all")
        for number, height in ((0, 5.0), (1, 6.5)):
            scan = read_scan(tmp_path, number)
            np.testing.assert_array_equal(scan.array[0], voxels[number])
            assert scan.affine[2, 3] == pytest.approx(height)
        entries = build_catalog(tmp_path, workers=0, volumes="each").entries
        assert [(e.volume, e.shape, e.affine[11]) for e in entries] == [
            (0, (4, 5, 6), pytest.approx(5.0)),
            (1, (4, 5, 6), pytest.approx(6.5)),
        ]

    def test_slices_that_fill_each_others_gaps_are_one_stack(self, tmp_path: Path) -> None:
        voxels = self.write(tmp_path, (0, 1), every=2)
        scan = read_scan(tmp_path)
        joined = voxels.transpose(1, 2, 3, 0).reshape(COLUMNS, ROWS, 2 * PLACES)
        np.testing.assert_array_equal(scan.array[0], joined)
        assert "joined 2 acquisitions into one stack" in scan.provenance.notes

    def test_the_header_s_spacing_decides_before_the_thickness(self, tmp_path: Path) -> None:
        self.write(tmp_path, (0, 0.5), SpacingBetweenSlices=1.5)
        assert read_scan(tmp_path).shape == (COLUMNS, ROWS, 2 * PLACES)

    def test_refused_where_it_cannot_be_known(self, tmp_path: Path) -> None:
        self.write(tmp_path, (0, 2), every=4, SliceThickness=3)
        assert read_scan_refused(tmp_path) == "mixed-acquisitions"

    def test_one_after_the_other_is_one_stack(self, tmp_path: Path) -> None:
        self.write(tmp_path, (0, PLACES))
        assert read_scan(tmp_path).shape == (COLUMNS, ROWS, 2 * PLACES)

    def test_an_overlap_or_a_gap_is_refused(self, tmp_path: Path) -> None:
        self.write(tmp_path / "overlap", (0, PLACES - 2))
        with pytest.raises(situs.ScanRefused, match="acquisitions 1, 2") as caught:
            read_scan(tmp_path / "overlap")
        assert caught.value.reason == "duplicate-slices"
        self.write(tmp_path / "gap", (0, PLACES + 1))
        assert read_scan_refused(tmp_path / "gap") == "missing-slice"


def read_scan_refused(path: Path, **options: Any) -> str:
    with pytest.raises(situs.ScanRefused) as caught:
        read_scan(path, **options)
    return caught.value.reason


def test_equal_identifiers_with_other_pixels_are_no_copies(tmp_path: Path) -> None:
    voxels = volumes(2)
    told: Told = lambda v, k, r: {"EchoTime": 10.0 * (v + 1)}  # noqa: E731
    write_planes(tmp_path, planes(voxels, told, random.Random(0)), SOPInstanceUID="1.2.3.4")
    np.testing.assert_array_equal(read_scan(tmp_path, "all").array, voxels)


def test_a_series_sent_twice_is_read_once(tmp_path: Path) -> None:
    voxels = volumes(1)
    for time in range(2):
        told: Told = lambda v, k, r, t=time: {"AcquisitionTime": f"12000{t}"}  # noqa: E731
        write_planes(tmp_path / str(time), planes(voxels, told, random.Random(time)))
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.array, voxels)
    assert "left out 6 copies of slices" in scan.provenance.notes


def test_refused_where_nothing_tells_volumes_apart(tmp_path: Path) -> None:
    write_planes(tmp_path / "silent", planes(volumes(2), lambda v, k, r: {}, random.Random(0)))
    assert read_scan_refused(tmp_path / "silent") == "duplicate-slices"
    told: Told = lambda v, k, r: {"InstanceNumber": r.randrange(10**6)}  # noqa: E731
    write_planes(tmp_path / "random", planes(volumes(2), told, random.Random(1)))
    assert read_scan_refused(tmp_path / "random") == "duplicate-slices"


@pytest.mark.parametrize("step", [0.001, 0.009, 0.018, 0.08, 8.0])
def test_places_are_told_in_proportion_to_the_step(tmp_path: Path, step: float) -> None:
    """A micro-CT's slices lie closer than the rounding of a clinical header."""
    voxels = volumes(2)
    told: Told = lambda v, k, r: {"EchoTime": 10.0 * (v + 1)}  # noqa: E731
    made = planes(voxels, told, random.Random(0))
    write_planes(tmp_path, made, step=step, PixelSpacing=[step, step])
    scan = read_scan(tmp_path, "all")
    np.testing.assert_array_equal(scan.array, voxels)
    assert scan.spacing == pytest.approx((step, step, step), rel=1e-6)


def test_positions_rounded_to_two_decimals_are_one_place(tmp_path: Path) -> None:
    voxels = volumes(2)
    write_planes(
        tmp_path,
        [
            Plane(voxels[v, ..., k], k + 0.004 * (v - k % 2), {"EchoTime": 10.0 * (v + 1)})
            for v in range(2)
            for k in range(PLACES)
        ],
    )
    np.testing.assert_array_equal(read_scan(tmp_path, "all").array, voxels)


def test_volumes_that_moved_in_their_plane_are_no_channels(tmp_path: Path) -> None:
    voxels = volumes(2)
    for v in range(2):
        told: Told = lambda _, k, r, v=v: {  # noqa: E731
            "EchoTime": 10.0 * (v + 1),
            "ImagePositionPatient": [-10 + 9 * v, -20, 5 + 3 * k],
        }
        write_planes(tmp_path / str(v), planes(voxels[v : v + 1], told, random.Random(0)))
    assert read_scan_refused(tmp_path, volume="all") == "four-dimensional"
    assert read_scan(tmp_path, 1).affine[0, 3] == pytest.approx(1.0)
