"""What is wrong with a configuration is said in the words of the interface, not of a library."""

from __future__ import annotations

from typing import Any

import pytest

from situs.config import Config, validate
from situs.errors import ConfigError, speaking
from situs.pretraining.config import PretrainConfig
from situs.store import Preprocessing
from situs.study.config import StudyConfig, Tuning
from situs.transfer.config import FinetuneConfig
from situs.transfer.probe import ProbeSettings


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
        "'spacing' must be 'median' or 'native', or must be a list of 3 or more"
    ]
    # Two forms that a value may take are one line, without the library's names for them.
    assert said(Preprocessing, {"spacing": "coarse"}) == [
        "'spacing' must be 'median' or 'native', or must be a list, got 'coarse'"
    ]
    assert said(FinetuneConfig, {"data": "x", "out": "y", "patience": 3, "train": 2}) == [
        "'patience' needs validation cases; give 'validation'"
    ]
    assert said(FinetuneConfig, {"out": "y"}) == ["'data' is missing"]
