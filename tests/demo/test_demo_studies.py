from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from situs.catalog.catalog import build_catalog
from situs.catalog.stacks import Stack
from situs.catalog.studies import load_rules
from situs.catalog.study_table import study_table
from situs.demo.studies import heart, write_demo_studies
from situs.geometry import Plane, intersect
from situs.methods.planes.scoring import constant_lines, line_errors
from situs.store import Preprocessing, prepare
from situs.views import ArraySource
from situs.views.planes import cut_planes


@pytest.fixture(scope="module")
def source() -> ArraySource:
    shape = (40, 48, 36)
    mm = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    body = 8 * (np.linalg.norm(mm, axis=0) < 0.8) + mm[0] + 2 * mm[1] + 3 * mm[2]
    return ArraySource(body[None].astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0]), key="body")


@pytest.fixture(scope="module")
def studies(source: ArraySource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("studies")
    pydicom.config.settings.writing_validation_mode = pydicom.config.RAISE
    try:
        write_demo_studies([source, source], out, "heart")
        write_demo_studies([source], out, "knee")
    finally:
        pydicom.config.settings.writing_validation_mode = None
    return out


def test_files_are_read_alike_by_another_reader(studies: Path, source: ArraySource) -> None:
    series = heart(source, np.random.default_rng([0, 0]))[0]
    reader = SimpleITK.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(str(studies / "heart-000" / "01"))
    first = [n for n in names if pydicom.dcmread(n).TemporalPositionIdentifier == 1]
    positions = sorted(
        (SimpleITK.ReadImage(n).GetOrigin() for n in first), key=lambda p: np.dot(p, [0, 0, 1])
    )
    expected = sorted(
        ((p.origin_mm * [-1, -1, 1]).tolist() for p in series.planes), key=lambda p: p[2]
    )
    assert np.allclose(positions, expected, atol=1e-6)
    image = SimpleITK.ReadImage(first[0])
    direction = np.array(image.GetDirection()).reshape(3, 3)
    assert np.allclose(direction[:, 0] * [-1, -1, 1], series.planes[0].row_mm, atol=1e-6)
    assert np.allclose(image.GetSpacing()[:2], series.planes[0].spacing, atol=1e-6)


def test_pixels_are_the_cut_through_the_volume(studies: Path, source: ArraySource) -> None:
    for file in sorted((studies / "knee-000" / "02").glob("*.dcm"))[:3]:
        dataset = pydicom.dcmread(file)
        plane = Plane.from_dicom(dataset)
        expected = cut_planes(source, [plane])[0, 0]
        shown = dataset.pixel_array.astype(float)
        inside = (shown > 100) & (shown < 3900)  # neither clipped nor noise alone
        assert np.corrcoef(shown[inside], expected[inside])[0, 1] > 0.99


def test_the_study_table_recognises_all_roles_and_frames(studies: Path) -> None:
    catalog = build_catalog(studies, workers=0, planes=True, volumes="each")
    assert not catalog.refused
    entries = [e for e in catalog.accepted if e.path.startswith("heart")]
    rows = study_table(entries, load_rules("heart"))
    assert len({r.study for r in rows}) == 2
    assert sorted(r.recognised.role for r in rows) == sorted(["sax", "2ch", "3ch", "4ch"] * 2)
    assert {r.frames for r in rows} == {2}
    assert {r.recognised.role: r.slices for r in rows} == {"sax": 9, "2ch": 1, "3ch": 1, "4ch": 1}
    knees = [e for e in catalog.accepted if e.path.startswith("knee")]
    seen = [r.recognised.role for r in study_table(knees, load_rules("knee"))]
    assert sorted(seen) == ["axial", "coronal", "sagittal"]


def test_stored_studies_keep_their_planes(
    studies: Path, source: ArraySource, tmp_path: Path
) -> None:
    catalog = build_catalog(studies / "heart-000", workers=0, planes=True, volumes="each")
    store = prepare(catalog, tmp_path / "store", Preprocessing(spacing="native"), workers=0)
    (study,) = store.studies()
    assert len(study) == 8  # four views of two frames
    truth = heart(source, np.random.default_rng([0, 0]))
    four = next(s for s in study if "4ch" in s.description)
    plane, expected = Stack.of(four).middle_plane, truth[1].planes[0]
    assert abs(plane.normal_mm @ expected.normal_mm) == pytest.approx(1, abs=1e-6)
    assert abs(expected.distance_mm(plane.origin_mm)) < 1e-3


def test_the_same_seed_writes_the_same_bytes(source: ArraySource, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        write_demo_studies([source], tmp_path / name, "knee", seed=3)
        files.append(sorted((tmp_path / name).rglob("*.dcm")))
    assert len(files[0]) == 33
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))


def test_planes_vary_little_and_fields_of_view_a_lot(source: ArraySource) -> None:
    """What is left to tell from the images: no line lies at one place of its images."""
    studies = [heart(source, np.random.default_rng([1, i])) for i in range(12)]
    middle = [[s.planes[len(s.planes) // 2] for s in study] for study in studies]
    normals = np.array([[p.normal_mm for p in planes] for planes in middle])
    mean = normals.mean(0) / np.linalg.norm(normals.mean(0), axis=-1, keepdims=True)
    tilt = np.degrees(np.arccos(np.clip((normals * mean).sum(-1), -1, 1)))
    assert 0.5 < np.median(tilt) < 6
    # Lines in the images of the study's 4-chamber view: its three other planes.
    lines = np.array([intersect([planes[1]], [planes[0], *planes[2:]])[0][0] for planes in middle])
    views = np.ones(len(lines), dtype=int)
    visible = np.ones(lines.shape[:2], dtype=bool)
    shape, pixel = middle[0][1].shape, np.full(len(lines), middle[0][1].spacing[0])
    constant = constant_lines(lines, visible, shape, views)
    errors = line_errors(constant, lines, visible, shape, pixel)
    assert (errors.angle_deg.mean(0) > 5).all()
    assert (errors.distance_mm.mean(0) > 4).all()
