"""`views: patch`: arms of a study see the fine-tuning patch's size while they are pretrained."""

from __future__ import annotations

from typing import Any

import pytest

from situs.config import validate
from situs.errors import ConfigError
from situs.report.study.wording import unlike_views
from situs.studies import StudyConfig
from situs.studies.checks import check_settings

FINETUNE = {"patch_size": [32, 16, 16]}


def study(**changes: Any) -> StudyConfig:
    values = {
        "data": "d",
        "out": "o",
        "views": "patch",
        "finetune": FINETUNE,
        "backbone": {"options": {"channels": [4, 8]}},
        "arms": [
            "none",
            "mae",
            {"method": "simclr", "options": {"view_size": [8, 8, 8]}},
            "dino",
            {"method": "spatial+mae", "options": {"mae": {"mask_ratio": 0.5}}},
            {"name": "flat", "method": "mae", "finetune": {"patch_size": [64, 64]}},
        ],
    }
    return validate(StudyConfig, {**values, **changes})


def test_views_are_of_the_patch_where_the_method_can_choose() -> None:
    given = study()
    options = {arm.title: given.options_of(arm) for arm in given.arms}
    assert options["mae"] == {"view_size": (32, 16, 16)}
    assert options["simclr"] == {"view_size": [8, 8, 8]}
    assert options["dino"] == {"global_size": (32, 16, 16), "local_size": (16, 8, 8)}
    assert options["spatial+mae"] == {"mae": {"view_size": (32, 16, 16), "mask_ratio": 0.5}}
    assert given.backbone_of(given.arms[-1]).spatial_dims == 2
    check_settings(given)
    assert given.own_views() == [("simclr", "simclr"), ("spatial+mae", "spatial")]
    assert all("not of the fine-tuning patch's size" in line for line in unlike_views(given))


def test_they_are_their_own_by_default_and_a_patch_must_be_given() -> None:
    given = study(views="own")
    assert all(given.options_of(arm) == arm.options for arm in given.arms)
    assert unlike_views(given) == []
    with pytest.raises(ConfigError, match="needs a 'patch_size' in 'finetune'; arm 'none'"):
        study(finetune={})
