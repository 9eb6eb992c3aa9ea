"""Seeds are refused by name where a library below would refuse them with an error of its own."""

from __future__ import annotations

from typing import Any

import pytest

from situs.config import Config, validate
from situs.errors import ConfigError
from situs.pretraining.config import PretrainConfig
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
    assert f"{named}: Input should be less than 4294967296" in problems(2**32)
    assert f"{named}: Input should be greater than or equal to 0" in problems(-1)
    assert f"{named}: Input" not in problems(2**32 - 1)
