"""Options that are settings say what the models say, and what was typed arrives there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import option_settings
import pytest
from typer.testing import CliRunner

import situs.pretraining.pretrain
import situs.transfer
from situs.cli import app
from situs.cli.settings import MODELS


def test_the_file_of_options_is_what_the_models_say() -> None:
    assert option_settings.FILE.read_text("utf-8") == option_settings.written(), "make options"


@pytest.mark.parametrize("verb", MODELS)
def test_help_shows_meaning_choices_and_default(verb: str) -> None:
    shown = " ".join(
        CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "400"}).stdout.split()
    )
    for said in json.loads(option_settings.FILE.read_text("utf-8"))[verb].values():
        assert said["help"].replace("`", "") in shown
        assert said.get("choices", "") in shown
        assert "default" not in said or f"[default: ({said['default']})]" in shown


class _Arrived(Exception):
    """Ends a verb where its function would begin to work."""


def arrived(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, argv: list[str]
) -> tuple[Any, dict[str, Any]]:
    """What a verb hands to its function."""
    taken: list[tuple[Any, dict[str, Any]]] = []

    def take(config: Any, **others: Any) -> None:
        taken.append((config, others))
        raise _Arrived

    monkeypatch.setattr(module, name, take)
    result = CliRunner().invoke(app, argv)
    assert isinstance(result.exception, _Arrived), result.output
    return taken[0]


def test_an_option_stands_in_place_of_the_file_and_leaves_what_stands_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        "data: labelled\nout: result\nsteps: 7\nfreeze_encoder: true\ninit: runs/first\n"
        "dataset: {patient: '^(p)'}\ncompile: true\nbatch_size: 3\n"
    )
    argv = ["finetune", "--config", str(file), "--labels", "5", "--steps", "9"]
    argv += ["--test-data", "others", "--no-compile", "--out", str(tmp_path / "new")]
    config, _ = arrived(monkeypatch, situs.transfer, "finetune", argv)
    assert (config.train, config.steps, config.batch_size) == (5, 9, 3)
    assert (config.dataset.patient, config.dataset.test) == ("^(p)", Path("others"))
    assert config.freeze_encoder
    assert not config.compile
    assert config.out == tmp_path / "new"


def test_a_network_of_an_option_goes_where_the_file_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("backbone: null\n")
    argv = ["pretrain", "--config", str(file), "--backbone", "vit", "--data", "a", "--data", "b"]
    argv += ["--out", str(tmp_path / "run"), "--method", "sal"]
    values, others = arrived(monkeypatch, situs.pretraining.pretrain, "pretrain", argv)
    assert values["backbone"] == {"name": "vit"}
    assert values["data"] == [Path("a"), Path("b")]
    assert (values["method"], others["mode"]) == ("sal", "new")
