from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from situs.catalog.catalog import build_catalog
from situs.catalog.stacks import Stack
from situs.catalog.studies import available_rules, by_role, load_rules, recognise
from situs.catalog.study_table import study_table
from situs.errors import ConfigError
from situs.views import ArraySource


def stack(
    axis: int, slices: int, words: str = "", tilt: float = 0.0, thickness: float = 5.0
) -> ArraySource:
    shape, spacing = [24, 24, 24], [1.0, 1.0, 1.0]
    shape[axis], spacing[axis] = slices, thickness
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz"[axis - 1], tilt, degrees=True).as_matrix() * spacing
    return ArraySource(np.zeros((1, *shape), np.float32), affine, description=words)


def test_ready_rules_can_be_read() -> None:
    assert available_rules() == ["heart", "knee", "orthogonal"]
    assert list(load_rules("heart").roles) == ["sax", "2ch", "3ch", "4ch"]
    with pytest.raises(ConfigError, match="did you mean 'heart'"):
        load_rules("hart")


def test_heart_views_are_told_by_words_and_slice_count() -> None:
    rules = load_rules("heart")
    assert recognise(stack(2, 10, "cine sax"), rules).role == "sax"
    assert recognise(stack(2, 1, "cine 4ch"), rules).role == "4ch"
    single = recognise(stack(2, 1, "sax"), rules)
    assert not single.role
    assert "1 slices are fewer than 3" in single.reason
    assert "excluded" in recognise(stack(2, 10, "sax localizer"), rules).reason


def test_knee_stacks_are_told_by_orientation() -> None:
    rules = load_rules("knee")
    for axis, role in enumerate(("sagittal", "coronal", "axial")):
        seen = recognise(stack(axis, 20, tilt=18), rules)
        assert seen.role == role
        assert seen.tilt_deg == pytest.approx(18)
        assert seen.axis == axis


def test_volumes_are_no_stacks() -> None:
    seen = recognise(stack(2, 24, thickness=1.0), load_rules("orthogonal"))
    assert not seen.role
    assert "isotropic" in seen.reason


def test_roles_group_a_study_and_frames_share_one() -> None:
    study = [stack(2, 9, "sax"), stack(2, 9, "sax"), stack(1, 1, "2ch"), stack(0, 9, "t1")]
    found = by_role(study, load_rules("heart"))
    assert {role: len(members) for role, members in found.items()} == {"sax": 2, "2ch": 1}


def test_the_middle_plane_lies_halfway() -> None:
    plane = Stack.of(stack(2, 10, thickness=4.0)).middle_plane
    assert plane.origin_mm.tolist() == [0, 0, 18]
    assert plane.normal_mm[2] ** 2 == pytest.approx(1)


def test_own_rules_come_from_a_file_and_typos_are_named(tmp_path: Path) -> None:
    file = tmp_path / "spine.yaml"
    file.write_text("roles:\n  disc:\n    pattern: t2\n    orientation: axial\n")
    assert recognise(stack(2, 9, "t2 ax"), load_rules(str(file))).role == "disc"
    file.write_text("roles:\n  slices:\n    pattern: ax\n")
    own = load_rules(str(file.rename(tmp_path / "whole.yaml")))
    assert recognise(stack(2, 9, "t1 ax"), own).role == "slices"
    assert not recognise(stack(2, 9, "t1 sax"), own).role, "words are whole"
    bad = tmp_path / "bad.yaml"
    bad.write_text("roles:\n  disc:\n    patern: '('\n")
    with pytest.raises(ConfigError, match=r"roles\.disc\.patern"):
        load_rules(str(bad))
    bad.write_text("roles:\n  disc:\n    pattern: '('\n")
    with pytest.raises(ConfigError, match="no regular expression"):
        load_rules(str(bad))


def test_the_table_of_a_real_study_says_what_was_recognised(shared_data: Path) -> None:
    catalog = build_catalog(shared_data / "dicom" / "study-003", workers=0)
    rows = study_table(catalog.accepted, load_rules("orthogonal"))
    stacks = [r for r in rows if r.recognised.role]
    assert len({r.study for r in stacks}) == 1
    assert [r.recognised.role for r in stacks] == ["axial"] * 4
    assert {r.slices for r in stacks} == {22}
    assert {round(r.recognised.tilt_deg, 1) for r in stacks} == {10.8}
    rest = [r for r in rows if not r.recognised.role]
    assert all("isotropic" in r.recognised.reason for r in rest)
