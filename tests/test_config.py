"""What is wrong with a configuration is said in the words of the interface, not of a library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from situs.config import Config, load_config, placed, validate
from situs.errors import ConfigError, speaking
from situs.pretraining.config import PretrainConfig
from situs.store import Preprocessing
from situs.studies.config import StudyConfig, Tuning
from situs.transfer.config import FinetuneConfig
from situs.transfer.probe import ProbeSettings


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_are_finite(value: float) -> None:
    with pytest.raises(ConfigError, match=r"'optimiser\.lr' must be a finite number"):
        validate(PretrainConfig, {"optimiser": {"lr": value}})


@pytest.mark.parametrize(
    ("model", "key", "several"),
    [
        (PretrainConfig, "seed", False),
        (FinetuneConfig, "seed", False),
        (ProbeSettings, "seed", False),
        (Tuning, "seeds", True),
        (StudyConfig, "seeds", True),
        (StudyConfig, "split_seed", False),
    ],
)
def test_seeds_are_what_every_library_takes(model: type[Config], key: str, several: bool) -> None:
    def problems(seed: int) -> str:
        values: dict[str, Any] = {key: [seed] if several else seed, "nothing": 0}
        with pytest.raises(ConfigError) as caught:
            validate(model, values)
        return str(caught.value)

    named = f"'{key}.0'" if several else f"'{key}'"
    assert f"{named} must be less than 4294967296" in problems(2**32)
    assert f"{named} must be greater than or equal to 0" in problems(-1)
    assert f"{named} must" not in problems(2**32 - 1)


def test_problems_are_said_in_plain_words_and_in_those_of_the_interface() -> None:
    values = {"data": "x", "out": "y", "steps": "many", "freeze_encoder": "perhaps", "trian": 3}

    def said(model: type[Config], values: dict[str, Any]) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            validate(model, values)
        return str(caught.value).split("\n  ")[1:]

    assert said(FinetuneConfig, values) == [
        "unknown key 'trian' (did you mean 'train'?)",
        "'steps' must be a whole number, got 'many'",
        "'freeze_encoder' must be true or false, got 'perhaps'",
    ]
    with speaking({"steps": "--steps", "train": "--labels", "settings": "--set"}):
        assert said(FinetuneConfig, values)[1:] == [
            "--steps must be a whole number, got 'many'",
            "--set freeze_encoder must be true or false, got 'perhaps'",
        ]
        (line,) = said(FinetuneConfig, {"data": "x", "out": "y", "train": "five"})
        assert line.startswith("--labels must be a whole number, or must be a number")
    with pytest.raises(ConfigError, match=r"'options\.spacing' must be"):
        validate(Preprocessing, {"spacing": "coarse"}, "options")
    assert said(Preprocessing, {"spacing": [1, 2]}) == [
        "'spacing' must be median, native, or mm: one number or three, as [1,1,2], got [1, 2]"
    ]
    assert said(Preprocessing, {"spacing": "coarse"}) == [
        "'spacing' must be median, native, or mm: one number or three, as [1,1,2], got 'coarse'"
    ]
    assert said(FinetuneConfig, {"data": "x", "out": "y", "patience": 3, "train": 2}) == [
        "'patience' needs validation cases; give 'validation'"
    ]
    assert said(FinetuneConfig, {"out": "y"}) == ["'data' is missing"]


STUDY = """
data: d
out: o
backbone: &net {name: cnn, options: {channels: [8, 16]}}
arms:
  - none
  - &mae {name: mae, method: mae, options: {mae: {view_size: [8, 8, 8]}}, labels: [2, 4]}
  - {<<: *mae, name: twin}
  - {name: other, method: mae, options: {mae: &views {view_size: [4, 4, 4]}, simclr: *views}}
"""


def test_a_number_in_a_path_is_a_place_in_a_list_and_anchors_change_alone(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    study = load_config(
        StudyConfig,
        file,
        [
            "arms.1.options.mae.view_size=[16, 16, 16]",
            "arms.1.labels.0=1",
            "labels=[1, 2, 4]",
            "arms.3.options.mae.view_size.2=9",
            "backbone.options.channels.1=32",
        ],
    )
    _, mae, twin, other = study.arms
    assert mae.options == {"mae": {"view_size": [16, 16, 16]}}
    assert mae.labels == (1, 4)
    assert twin.options == {"mae": {"view_size": [8, 8, 8]}}, "what shares the anchor stays"
    assert twin.labels == (2, 4)
    assert other.options == {"mae": {"view_size": [4, 4, 9]}, "simclr": {"view_size": [4, 4, 4]}}
    assert study.backbone.options == {"channels": [8, 32]}
    again = load_config(StudyConfig, study, ["arms.2.name=last"])
    assert [arm.title for arm in again.arms] == ["none", "mae", "last", "other"]
    assert study.arms[2].title == "twin"
    given = {"a": [{"b": 1}]}
    assert placed(given, {"a.0.b": 2}) == {"a": [{"b": 2}]}
    assert given == {"a": [{"b": 1}]}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("arms.4.labels=[2]", "'arms' is a list of 4, counted from 0; '4' is none of them"),
        ("arms.mae.labels=[2]", "'arms' is a list of 4, counted from 0; 'mae' is none of them"),
        ("arms.-1=none", "'arms' is a list of 4, counted from 0; '-1' is none of them"),
        ("arms.1.labels.2=8", "'arms.1.labels' is a list of 2, counted from 0; '2' is none"),
        ("arms.0.labels=[2]", "'0' is a value, got 'none', not a group of keys"),
        ("out.x=1", "'out' is a value, got 'o', not a group of keys"),
    ],
)
def test_a_path_beyond_a_list_or_through_a_value_is_refused(
    override: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    with pytest.raises(ConfigError) as caught, speaking({"settings": "--set"}):
        load_config(StudyConfig, file, [override])
    assert str(caught.value).startswith(f"--set {override.partition('=')[0]}: {message}")
