"""Left-right flips, and classes that must not be mirrored."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from situs.config import validate
from situs.errors import ConfigError
from situs.transfer import Augmentation, Cohort, Model, finetune
from situs.transfer.laterality import sided, with_flips


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["background", "left kidney", "Right-Kidney", "liver"], ["left kidney", "Right-Kidney"]),
        (["kidneyLeft", "ctx-rh-insula"], ["kidneyLeft", "ctx-rh-insula"]),
        (["LKidney", "RKidney", "Rib"], ["LKidney", "RKidney"]),
        (["lung_L", "lung_R", "colon_R"], ["lung_L", "lung_R"]),
        (["leftover", "bright", "L", "vertebra L1", "RV", "LV"], []),
    ],
)
def test_names_with_a_side(names: list[str], expected: list[str]) -> None:
    assert sided(names) == expected


def flips(augmentation: Augmentation, classes=("0", "liver"), cases=("a", "b"), method="none"):
    settled, why = with_flips(augmentation, classes, cases, method)
    return settled.flips, why


def test_flips_are_settled_by_classes_cases_and_the_pretext_task() -> None:
    default, sides = Augmentation(), ["0", "left kidney"]
    assert flips(default) == ((0,), "left-right flips: no class, case or pretext task has a side")
    assert flips(default, sides)[0] == ()
    assert flips(Augmentation(flip_axes=(1,)), sides)[0] == (1,)
    with pytest.raises(ConfigError, match=r"flip_axes.*1 class has a side \('left kidney'\)"):
        flips(Augmentation(flip_axes=(0, 1)), sides)
    axes, why = flips(default, cases=["knee-01-left", "knee-02-right"])
    assert axes == ()
    assert "2 cases have a side ('knee-01-left'" in why
    for method, positional in {
        "spatial": True, "planes": True, "sal": True, "s2dc": True, "mae+voco": True,
        "mae": False, "simclr": False, "none": False, "elsewhere": False,
    }.items():  # fmt: skip
        axes, why = flips(default, method=method)
        assert axes == (() if positional else (0,))
        assert ("used position" in why) == positional
    # Whoever asks for them gets them.
    assert flips(Augmentation(flip_axes=(0,)), method="spatial")[0] == (0,)


def test_flips_left_open_before_are_left_open() -> None:
    assert validate(Augmentation, {"flip_axes": None}).flip_axes == "auto"


@pytest.mark.parametrize("name", ["left body", "body"])
def test_training_and_test_flips_follow(
    collection: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    cohort = Cohort.open(collection)
    classes = {0: "background", 1: name, 2: "hole"}
    named = Cohort(replace(cohort.dataset, classes=classes), cohort.preprocessing)
    settings = {
        "data": collection,
        "out": tmp_path / "out",
        "backbone": {"name": "cnn", "options": {"channels": [4, 8]}},
        "train": 1,
        "test": 1,
        "steps": 1,
        "patch_size": [16, 16, 8],
        "test_flips": True,
    }
    with caplog.at_level(logging.INFO, "situs"):
        result = finetune(settings, cohort=named)
    flips = () if name.startswith("left") else (0,)
    assert Model.load(result.folder).task.flip_axes == flips
    written = yaml.safe_load((result.folder / "config.yaml").read_text())
    assert written["augmentation"]["flip_axes"] == list(flips)
    assert ("no left-right flips: 1 class has a side" in caplog.text) == (not flips)
