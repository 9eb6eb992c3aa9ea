"""Studies whose short-axis slices come as one series each, as most heart examinations do."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import numpy as np
import pytest
from dicom_files import noise, write_series
from pydicom.uid import generate_uid
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from situs.catalog.stacks import assembled, stacks_of
from situs.catalog.studies import by_role, load_rules, recognise_study
from situs.cli import app
from situs.methods.planes import PlanesConfig
from situs.methods.planes.views import at_phase, known_stacks, sample_study
from situs.planning import prepared_studies
from situs.store import Preprocessing
from situs.views import ArraySource

# Of a heart whose apex points to the left, the front and the feet.
LONG_AXIS = np.array([-0.5, 0.6, -0.62]) / np.linalg.norm([-0.5, 0.6, -0.62])
GAP = 9.0
FRAMES = 3


def turned(angle_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, RAS, of a long-axis view turned about the long axis from the 4ch view."""
    across = np.cross(LONG_AXIS, [1.0, 0, 0])
    normal = Rotation.from_rotvec(np.radians(angle_deg) * LONG_AXIS).apply(across)
    normal /= np.linalg.norm(normal)
    return LONG_AXIS, np.cross(normal, LONG_AXIS)


def short_axis() -> tuple[np.ndarray, np.ndarray]:
    row = np.cross(LONG_AXIS, [0.0, 0, 1])
    row /= np.linalg.norm(row)
    return row, np.cross(LONG_AXIS, row)


def write_cine(
    folder: Path,
    axes: tuple[np.ndarray, np.ndarray],
    center_mm: np.ndarray,
    words: str,
    uids: dict[str, str],
    frames: int = FRAMES,
) -> None:
    """One slice in some time frames, about ``center_mm`` (RAS)."""
    row, column = axes
    size, spacing = (20, 24), 2.0
    corner = center_mm - spacing / 2 * ((size[0] - 1) * row + (size[1] - 1) * column)
    turn = np.array([-1, -1, 1])
    series = generate_uid()
    for frame in range(frames):
        write_series(
            folder,
            noise((*size, 1), frame),
            directions=(row * turn, column * turn),
            origin=corner * turn,
            spacing=(spacing, spacing),
            names=[f"{frame}.dcm"],
            SeriesInstanceUID=series,
            SeriesDescription=words,
            TriggerTime=40.0 * frame,
            **uids,
        )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five short-axis slices and a repeat of one, both long axes, an outflow view named 4CH."""
    folder = tmp_path_factory.mktemp("heart")
    uids = {"StudyInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    order = [2, 3, 0, 4, 1, 2]
    for number, at in enumerate(order):
        center = at * GAP * LONG_AXIS
        write_cine(folder / f"cine{number}", short_axis(), center, "cine", uids)
    middle = 2 * GAP * LONG_AXIS
    for name, angle, words in (("a", 4, "cine 4ch"), ("b", 60, "cine 4ch"), ("c", 118, "cine 2ch")):
        write_cine(folder / name, turned(angle), middle, words, uids)
    return folder


def test_the_command_puts_short_axis_slices_together(study: Path) -> None:
    result = CliRunner().invoke(app, ["studies", str(study), "--rules", "heart", "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    roles = [row["recognised"]["role"] for row in rows]
    assert sorted(roles) == ["", "", "2ch", "4ch", *["sax"] * 5]
    assert {row["frames"] for row in rows} == {FRAMES}
    whys = {row["recognised"]["role"]: row["recognised"]["reason"] for row in rows}
    assert "5 slices across 2ch and 4ch" in whys["sax"]
    outflow = [r for r in rows if r["words"] == "cine 4ch" and not r["recognised"]["role"]]
    assert len(outflow) == 1
    assert "described as 4ch, but 56° from" in outflow[0]["recognised"]["reason"]


def test_a_refused_cine_says_what_to_type(study: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["prepare", str(study), "--out", str(tmp_path / "store")])
    assert result.exit_code != 0
    told = str(result.exception)
    assert "'situs scan FOLDER --planes --volumes each --out CATALOG' and prepare the" in told
    catalog = ["--planes", "--volumes", "each", "--out", str(tmp_path / "catalog")]
    assert CliRunner().invoke(app, ["scan", str(study), *catalog]).exit_code == 0


def test_a_stack_of_many_series_is_sampled_and_planned_as_one(study: Path) -> None:
    (sources,) = prepared_studies([study], Preprocessing(spacing="native", crop=False))
    roles = by_role(sources, load_rules("heart"))
    assert {role: len(stacks) for role, stacks in roles.items()} == {
        "sax": FRAMES,
        "2ch": FRAMES,
        "4ch": FRAMES,
    }
    stack = roles["sax"][0]
    assert len(stack.slices) == len(stack.series) == 5
    assert stack.places == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=1e-6)
    assert abs(stack.normal_mm @ LONG_AXIS) == pytest.approx(1, abs=1e-6)
    assert abs(float(stack.middle_plane.distance_mm(2 * GAP * LONG_AXIS))) < 1e-4
    config = PlanesConfig(studies="series", rules="heart", size=(32, 32), spacing_mm=2, slices=40)
    sample = sample_study(sources, config, np.random.default_rng(0))
    short = sample["role"].numpy() == config.roles.index("sax")
    assert set(sample["location"].numpy()[short].round(3)) == {0, 0.25, 0.5, 0.75, 1}
    assert sample["located"].numpy()[short].all()
    assert sample["present"].tolist() == [True, True, False, True]
    target = sample["target_mm"][config.roles.index("sax"), 1].numpy()
    assert abs(target @ LONG_AXIS) == pytest.approx(1, abs=1e-6)


def slices_of(
    values: int, at: float, words: str = "", normal: tuple[float, float, float] = (0, 0, 1)
) -> list[ArraySource]:
    """A cine of one slice whose frame number is its value."""
    turn = Rotation.align_vectors([normal], [[0, 0, 1]])[0].as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn * [1, 1, 6]
    affine[:3, 3] = turn @ [-7.5, -7.5, at]
    return [
        ArraySource(np.full((1, 16, 16, 1), v / values, np.float32), affine, description=words)
        for v in range(values)
    ]


def test_frames_are_matched_by_their_share_of_the_cycle() -> None:
    study = [s for at, n in ((0, 4), (8, 4), (16, 8)) for s in slices_of(n, at, "sax")]
    study += slices_of(4, 0, "4ch", (0, 1, 0))
    roles = known_stacks(study, "heart")
    assert known_stacks(study, "heart") is roles
    assert [round(s.phase * 8) for s in roles["sax"]] == list(range(8))
    rng = np.random.default_rng(0)
    for phase in (0.0, 0.3, 0.8):
        values = {
            float(one.series.scan().array.max())
            for stacks in roles.values()
            for one in at_phase(stacks, phase, rng).slices
        }
        assert all(value <= phase < value + 0.25 for value in values), (phase, values)


def test_kept_stacks_let_scans_in_memory_go() -> None:
    study = [s for at in (0, 8, 16) for s in slices_of(1, at, "sax")]
    gone = [weakref.ref(scan) for scan in study]
    config = PlanesConfig(studies="series", rules="heart", size=(16, 16), spacing_mm=1, slices=2)
    sample_study(study, config, np.random.default_rng(0))
    roles = known_stacks(study, "heart")
    study[1] = slices_of(1, 8, "sax")[0]
    assert known_stacks(study, "heart") is not roles  # another study by now
    assert [scan() is None for scan in gone] == [False, True, False]
    del study
    assert all(scan() is None for scan in gone)


def test_only_what_lies_behind_one_another_is_put_together() -> None:
    row = [slices_of(1, at)[0] for at in (0, 7, 14)]
    (stack,) = assembled(stacks_of(row))
    assert stack.places.tolist() == [0, 0.5, 1]
    tilted = slices_of(1, 14, "", (0, 0.1, 1))  # by 6°
    assert not assembled(stacks_of([*row[:2], *tilted]))
    aside = slices_of(1, 14)[0]
    aside.affine[0, 3] += 12
    assert not assembled(stacks_of([*row[:2], aside]))
    assert not assembled(stacks_of([*row[:2], *slices_of(1, 14, "t1")]))
    assert not assembled(stacks_of([*row[:2], *slices_of(1, 7.5)]))  # a repeat


def test_lone_views_keep_their_word_and_planes_alone_make_no_short_axis() -> None:
    rules = load_rules("heart")
    odd = slices_of(1, 0, "4ch", (1, 0, 0))  # lies as no 4ch does, but is the only one
    (one,) = recognise_study(odd, rules)
    assert one[1].role == "4ch"
    row = [slices_of(1, at)[0] for at in (0, 7, 14)]
    assert set(by_role([*row, *odd], rules)) == {"4ch"}  # one plane leaves the axis open
    both = [*odd, *slices_of(1, 0, "2ch", (0, 1, 0))]
    assert set(by_role([*row, *both], rules)) == {"sax", "2ch", "4ch"}
    beside = slices_of(1, 50, "2ch", (0, 1, 0))
    assert len(by_role([*row, *both, *beside], rules)["2ch"]) == 1
    assert len(by_role([*both, *beside], rules)["2ch"]) == 2, "nothing says which"
    localizer = [ArraySource(s.array, s.affine, description="localizer") for s in row]
    assert set(by_role([*localizer, *both], rules)) == {"2ch", "4ch"}


def test_real_hearts_short_axis_is_found(shared_data: Path) -> None:
    folder = shared_data / "studies" / "heart-human"
    result = CliRunner().invoke(app, ["studies", str(folder), "--rules", "heart", "--json"])
    roles = [row["recognised"]["role"] for row in json.loads(result.stdout)]
    # One view described as 4CH lies as none does, one described as 2CH is of the right heart.
    assert sorted(roles) == ["", "", "", "2ch", "4ch", *["sax"] * 6]
