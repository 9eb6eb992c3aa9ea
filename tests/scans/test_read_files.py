"""NIfTI, NRRD and MHA: geometry against independent readers, and every refusal."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from refusing import refused
from scipy.spatial.transform import Rotation

import situs
from situs.scans.read import read_label, read_scan
from situs.scans.refusals import REASONS

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def voxels(shape: tuple[int, ...] = (7, 6, 5), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None, **fields) -> Path:
    """Write with nibabel, then overwrite header fields that nibabel would not write."""
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    nib.save(image, path)
    if fields:
        raw = bytearray(path.read_bytes())
        header = np.frombuffer(raw, nib.nifti1.header_dtype, count=1)
        header.setflags(write=True)
        for name, value in fields.items():
            header[name] = value
        path.write_bytes(raw)
    return path


def itk_affine(image: sitk.Image) -> np.ndarray:
    """RAS affine by asking SimpleITK where voxels lie."""
    origin = np.array(image.TransformIndexToPhysicalPoint((0, 0, 0)))
    affine = np.eye(4)
    for axis in range(3):
        index = [int(a == axis) for a in range(3)]
        affine[:3, axis] = np.array(image.TransformIndexToPhysicalPoint(index)) - origin
    affine[:3, 3] = origin
    return LPS @ affine


def same_voxels_in_mm(scan: situs.Scan, image: sitk.Image, tolerance_mm: float = 1e-3) -> None:
    """Every corner lies where SimpleITK puts it, and the values there are the same."""
    corners = np.array(np.meshgrid(*[[0, n - 1] for n in scan.shape])).reshape(3, -1)
    ours_mm = scan.affine[:3, :3] @ corners + scan.affine[:3, 3:]
    theirs_mm = itk_affine(image)[:3, :3] @ corners + itk_affine(image)[:3, 3:]
    assert np.abs(ours_mm - theirs_mm).max() < tolerance_mm
    every = (slice(None, None, max(1, scan.shape[0] // 40)),) * 3
    np.testing.assert_allclose(scan.array[0][every], sitk.GetArrayFromImage(image).T[every], 1e-6)


@pytest.mark.parametrize("name", ["CT_AVM.nii.gz", "MR_Gd.nii.gz"])
def test_real_nifti_lies_where_simpleitk_puts_it(shared_data: Path, name: str) -> None:
    path = shared_data / "nifti" / name
    same_voxels_in_mm(read_scan(path), sitk.ReadImage(str(path)))


rotations = st.tuples(*[st.floats(-180, 180)] * 3).map(
    lambda a: Rotation.from_euler("xyz", a, degrees=True).as_matrix()
)
lengths = st.tuples(*[st.floats(0.2, 8)] * 3)
places = st.tuples(*[st.floats(-300, 300)] * 3)


@settings(max_examples=15, deadline=None)
@given(rotations, lengths, places, st.sampled_from(["nrrd", "mha", "nii.gz", "nii"]))
def test_geometry_survives_every_format(tmp_path_factory, rotation, spacing, origin, suffix):
    path = tmp_path_factory.mktemp("scan") / f"scan.{suffix}"
    image = sitk.GetImageFromArray(voxels().T)
    image.SetDirection(rotation.reshape(-1).tolist())
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))
    scan = read_scan(path)
    same_voxels_in_mm(scan, image, 1e-2 if "nii" in suffix else 1e-3)  # NIfTI keeps float32
    np.testing.assert_allclose(scan.spacing, spacing, rtol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(3)), st.tuples(*[st.sampled_from([-1, 1])] * 3))
def test_orientation_codes_are_those_of_nibabel(order, signs):
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * signs
    affine[:3, :3] = (
        Rotation.from_euler("xyz", (8, -5, 12), degrees=True).as_matrix() @ affine[:3, :3]
    )
    scan = situs.Scan(np.zeros((1, 2, 2, 2)), affine)
    assert scan.orientation == "".join(nib.aff2axcodes(affine))


def test_sform_wins_and_disagreement_is_noted(tmp_path: Path) -> None:
    sform, qform = np.diag([2.0, 2, 2, 1]), np.diag([2.0, 2, 2, 1])
    sform[:3, 3] = (10, 20, 30)
    image = nib.Nifti1Image(voxels(), sform)
    image.set_sform(sform, code=2)
    image.set_qform(qform, code=1)
    nib.save(image, tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii")
    np.testing.assert_allclose(scan.affine, sform)
    assert "37.4 mm" in scan.provenance.notes[0]
    path = save_nifti(tmp_path / "b.nii", voxels(), sform, pixdim=[1, 1, 1, 1, 1, 1, 1, 1])
    scan = read_scan(path)
    assert scan.spacing == (2, 2, 2)
    assert "1×1×1 mm" in scan.provenance.notes[0]


def test_qform_then_voxel_sizes_alone(tmp_path: Path) -> None:
    qform = np.diag([1.0, 2, 3, 1])
    qform[:3, :3] = Rotation.from_euler("z", 30, degrees=True).as_matrix() @ qform[:3, :3]
    image = nib.Nifti1Image(voxels(), None)
    image.set_qform(qform, code=1)
    image.set_sform(np.eye(4), code=0)
    nib.save(image, tmp_path / "q.nii")
    scan = read_scan(tmp_path / "q.nii")
    np.testing.assert_allclose(scan.affine, qform, atol=1e-5)
    assert scan.provenance.notes == ()
    path = save_nifti(tmp_path / "n.nii", voxels(), sform_code=0, qform_code=0)
    assert "no sform" in read_scan(path).provenance.notes[0]


def test_units_other_than_mm_are_converted(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii", voxels(), np.diag([1e-3, 1e-3, 2e-3, 1]), xyzt_units=1)
    np.testing.assert_allclose(read_scan(path).spacing, (1, 1, 2), rtol=1e-6)


@pytest.mark.parametrize("writer", [nib.Nifti2Image, nib.Nifti1Pair])
def test_nifti2_pairs_and_big_endian(tmp_path: Path, writer) -> None:
    array = voxels()
    nib.save(
        writer(array, np.diag([1.0, 2, 3, 1])),
        tmp_path / "a.nii" if writer is nib.Nifti2Image else tmp_path / "a.img",
    )
    scan = read_scan(next(p for p in tmp_path.iterdir() if p.suffix in (".nii", ".hdr")))
    np.testing.assert_array_equal(scan.array[0], array)
    assert scan.spacing == (1, 2, 3)
    big = nib.Nifti1Image(array, np.eye(4), nib.Nifti1Header(endianness=">"))
    big.to_filename(tmp_path / "big.nii")
    np.testing.assert_array_equal(read_scan(tmp_path / "big.nii").array[0], array)


def test_rescaling_by_the_header(tmp_path: Path) -> None:
    array = np.arange(210, dtype=np.int16).reshape(7, 6, 5)
    image = nib.Nifti1Image(array, np.eye(4))
    image.header.set_slope_inter(2.0, -10.0)
    nib.save(image, tmp_path / "a.nii.gz")
    image = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(read_scan(tmp_path / "a.nii.gz").array[0], image.get_fdata())


def test_fourth_dimension_is_refused_or_chosen(tmp_path: Path) -> None:
    array = voxels((7, 6, 5, 3))
    path = save_nifti(tmp_path / "t.nii.gz", array)
    assert "3 volumes" in refused(path, "four-dimensional").detail
    np.testing.assert_array_equal(read_scan(path, 1).array, array[None, ..., 1])
    np.testing.assert_array_equal(read_scan(path, "all").array, np.moveaxis(array, -1, 0))
    refused(path, "no-such-volume", volume=3)
    flat = save_nifti(tmp_path / "flat.nii", voxels((7, 6, 5, 1)))
    assert read_scan(flat).array.shape == (1, 7, 6, 5)


def test_components_and_fourth_axis_of_nrrd(tmp_path: Path) -> None:
    vector = sitk.GetImageFromArray(voxels((5, 6, 7, 2)), isVector=True)
    sitk.WriteImage(vector, str(tmp_path / "v.nrrd"))
    refused(tmp_path / "v.nrrd", "four-dimensional")
    scan = read_scan(tmp_path / "v.nrrd", 1)
    np.testing.assert_array_equal(scan.array[0], sitk.GetArrayFromImage(vector)[..., 1].T)
    stack = sitk.JoinSeries([sitk.GetImageFromArray(voxels(seed=s).T) for s in range(3)])
    sitk.WriteImage(stack, str(tmp_path / "s.mha"))
    np.testing.assert_array_equal(read_scan(tmp_path / "s.mha", 2).array[0], voxels(seed=2))


def test_ct_is_recognised_only_by_hounsfield_units(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    body = np.where(rng.random((20, 20, 20)) < 0.4, -1000, rng.normal(40, 30, (20, 20, 20)))
    body[0, 0, :5] = 900
    ct = save_nifti(tmp_path / "a.nii", body.astype(np.float32))
    assert read_scan(ct).modality == "CT"
    assert read_scan(ct, modality="mr").modality == "MR"
    assert read_scan(save_nifti(tmp_path / "b.nii", voxels())).modality == "unknown"
    shifted = save_nifti(tmp_path / "c.nii", (body + 1024).astype(np.float32))
    assert read_scan(shifted).modality == "unknown"


def test_labels_may_be_empty_but_must_be_class_numbers(tmp_path: Path) -> None:
    empty = save_nifti(tmp_path / "a.nii", np.zeros((7, 6, 5), np.float32))
    assert read_label(empty).array.dtype == np.int16
    refused(empty, "constant-image")
    for name, array in {"b": voxels() * 0.1 + 0.5, "c": -np.ones((7, 6, 5), np.float32)}.items():
        with pytest.raises(situs.ScanRefused, match="label-values"):
            read_label(save_nifti(tmp_path / f"{name}.nii", array))


class TestRefusals:
    """Each kind of bad file is refused under its own name."""

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        refused(tmp_path / "absent.nii", "missing-file")
        for name in ("a.nii.gz", "a.nrrd", "a.mha", "a.dcm", "a.txt"):
            (tmp_path / name).touch()
            refused(tmp_path / name, "empty-file")
        (tmp_path / "notes.txt").write_text("not a scan")
        refused(tmp_path / "notes.txt", "not-an-image")
        (tmp_path / "folder").mkdir()
        refused(tmp_path / "folder", "not-an-image")
        for name in ("text.nii", "text.nrrd", "text.mha"):
            (tmp_path / name).write_text("this is no header " * 50)
            refused(tmp_path / name, "unreadable-file")

    @pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha"])
    @pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
    def test_truncated(self, tmp_path: Path, suffix: str, share: float) -> None:
        path = tmp_path / f"a.{suffix}"
        sitk.WriteImage(sitk.GetImageFromArray(voxels((30, 30, 30))), str(path), False)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        refused(path, "truncated-file")

    @pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha"])
    def test_damaged_while_compressed(self, tmp_path: Path, suffix: str) -> None:
        """A few bytes changed or lost in the middle: the checksum tells, whatever the values."""
        path = tmp_path / f"a.{suffix}"
        array = np.random.default_rng(0).integers(0, 900, (30, 30, 30)).astype(np.int16)
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path), True)
        raw = path.read_bytes()
        middle = len(raw) // 2
        path.write_bytes(
            raw[:middle] + bytes(b ^ 5 for b in raw[middle : middle + 3]) + raw[middle + 3 :]
        )
        refused(path, "truncated-file")
        path.write_bytes(raw[:-40])
        refused(path, "truncated-file")

    def test_promises_that_no_file_can_keep(self, tmp_path: Path) -> None:
        raw = bytearray(save_nifti(tmp_path / "a.nii", voxels()).read_bytes())
        struct.pack_into("<8h", raw, 40, 3, 32767, 32767, 32767, 1, 1, 1, 1)
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(raw)))
        refused(tmp_path / "a.nii.gz", "absurd-header")
        (tmp_path / "a.nii").write_bytes(raw)
        refused(tmp_path / "a.nii", "truncated-file")
        text = "NRRD0004\ntype: float\ndimension: 3\nsizes: 90000 90000 90000\nencoding: gzip\n"
        text += "endian: little\n"
        text += "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
        (tmp_path / "a.nrrd").write_text(text + "space origin: (0,0,0)\n\nxx")
        refused(tmp_path / "a.nrrd", "absurd-header")
        refused(save_nifti(tmp_path / "b.nii", voxels()), "too-large", max_bytes=500)

    @pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, 1e-30, 1e30])
    def test_spacing(self, tmp_path: Path, value: float) -> None:
        fields = {"pixdim": [1, 1, value, 1, 1, 1, 1, 1], "sform_code": 0}
        refused(save_nifti(tmp_path / "a.nii", voxels(), **fields), "bad-spacing")
        sitk.WriteImage(sitk.GetImageFromArray(voxels().T), str(tmp_path / "a.mha"), False)
        raw = (tmp_path / "a.mha").read_bytes()
        raw = raw.replace(b"ElementSpacing = 1 1 1", f"ElementSpacing = 1 {value} 1".encode())
        (tmp_path / "a.mha").write_bytes(raw)
        refused(tmp_path / "a.mha", "bad-spacing")
        text = "NRRD0004\ntype: float\ndimension: 3\nsizes: 7 6 5\nencoding: raw\n"
        text += f"endian: little\nspacings: 1 {value} {value}\n\n"
        (tmp_path / "a.nrrd").write_bytes(text.encode() + voxels().tobytes())
        assert refused(tmp_path / "a.nrrd", "bad-spacing")

    def test_affines(self, tmp_path: Path) -> None:
        flat = {"srow_x": [1, 1, 0, 0], "srow_y": [1, 1, 0, 0], "srow_z": [0, 0, 1, 0]}
        refused(save_nifti(tmp_path / "a.nii", voxels(), **flat), "singular-affine")
        refused(save_nifti(tmp_path / "b.nii", voxels(), srow_x=[0, 0, 0, 5]), "singular-affine")
        refused(save_nifti(tmp_path / "c.nii", voxels(), srow_x=[np.nan] * 4), "singular-affine")
        sheared = save_nifti(tmp_path / "d.nii", voxels(), srow_x=[1, 0.1, 0, 0])
        assert "5.7" in refused(sheared, "sheared-affine").detail

    def test_intensities(self, tmp_path: Path) -> None:
        for name, value in {"a": np.nan, "b": np.inf, "c": -np.inf}.items():
            array = voxels()
            array[1, 2, 3] = value
            error = refused(save_nifti(tmp_path / f"{name}.nii.gz", array), "non-finite")
            assert "1 of 210" in error.detail
        constant = np.full((7, 6, 5), 3, np.int16)
        refused(save_nifti(tmp_path / "d.nii", constant), "constant-image")

    def test_shapes_and_types(self, tmp_path: Path) -> None:
        thin = save_nifti(tmp_path / "a.nii", voxels((7, 6, 1)))
        refused(thin, "one-voxel-thick")
        assert read_scan(thin, planes=True).shape == (7, 6, 1)
        refused(save_nifti(tmp_path / "b.nii", voxels((7, 6))), "one-voxel-thick")
        refused(save_nifti(tmp_path / "c.nii", voxels().astype(np.complex64)), "unsupported-dtype")
        rgb = np.zeros((7, 6, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        refused(save_nifti(tmp_path / "d.nii", rgb), "colour-image")
        sitk.WriteImage(sitk.GetImageFromArray(voxels()[0]), str(tmp_path / "e.mha"))
        refused(tmp_path / "e.mha", "one-voxel-thick")
        colour = sitk.GetImageFromArray(np.zeros((5, 6, 7, 3), np.uint8), isVector=True)
        sitk.WriteImage(colour, str(tmp_path / "f.nrrd"))
        refused(tmp_path / "f.nrrd", "colour-image")

    @pytest.mark.parametrize(
        "line", ["NDims = 93", "DimSize = 7 6 5 4 3", "Offset = 0", "NDims = 3\nNDims = 93"]
    )
    def test_numbers_that_metaio_would_trust(self, tmp_path: Path, line: str) -> None:
        """ITK overruns a buffer on such headers, so they must not reach it."""
        path = tmp_path / "a.mha"
        sitk.WriteImage(sitk.GetImageFromArray(voxels().T), str(path), False)
        key = line.split(maxsplit=1)[0].encode()
        raw = path.read_bytes().split(b"\n", 12)
        path.write_bytes(b"\n".join(line.encode() if p.startswith(key) else p for p in raw))
        refused(path, "unreadable-file")

    def test_a_header_cannot_point_elsewhere(self, tmp_path: Path) -> None:
        (tmp_path / "secret.raw").write_bytes(voxels().tobytes())
        (tmp_path / "in").mkdir()
        lines = "ObjectType = Image\nNDims = 3\nDimSize = 7 6 5\nElementSpacing = 1 1 1\n"
        lines += "ElementType = MET_FLOAT\nElementDataFile = {}\n"
        (tmp_path / "in" / "a.mhd").write_text(lines.format("../secret.raw"))
        refused(tmp_path / "in" / "a.mhd", "outside-file")
        (tmp_path / "a.mhd").write_text(lines.format("secret.raw"))
        np.testing.assert_array_equal(
            read_scan(tmp_path / "a.mhd").array[0].T.reshape(-1), voxels().reshape(-1)
        )


def test_import_is_light() -> None:
    code = (
        "import situs, sys; situs.read_scan, situs.Scan, situs.ScanRefused;"
        "assert not {'torch', 'nibabel', 'SimpleITK', 'pydicom'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_reason_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scans.md").read_text(encoding="utf-8")
    for code, reason in REASONS.items():
        assert f"| `{code}` | {reason.explanation} | {reason.remedy} |" in page
