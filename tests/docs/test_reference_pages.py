"""The written pages say what models and command line say: no more, no less, and it holds."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest
from pages import ROOT
from pydantic import BaseModel
from typer.main import get_command

from situs.cli import app
from situs.config import load_config
from situs.methods import available, method_class
from situs.pretraining.config import PretrainConfig
from situs.studies.arms import Arm
from situs.studies.config import StudyConfig
from situs.transfer.config import FinetuneConfig

pytest.importorskip("mkdocs", reason="the pages are built with the extra 'docs'")

GIVEN = {
    PretrainConfig: {"data": "store", "out": "run"},
    FinetuneConfig: {"data": "labelled", "out": "result", "train": 2, "test": 2},
    StudyConfig: {"data": "labelled", "out": "study", "arms": ["none"]},
    Arm: {},
}
MODELS = [*GIVEN, *(method_class(name).Config for name in available())]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mkdocs_hooks", ROOT / "mkdocs_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.__module__}.{model.__name__}")
def test_every_setting_is_explained_and_its_default_can_be_typed(
    hooks: ModuleType, model: type[BaseModel]
) -> None:
    rows = list(hooks.settings(model))
    assert {name.split(".")[0] for name, *_ in rows} == set(model.model_fields)
    assert not [name for name, _, _, meaning in rows if not meaning], "nothing explains them"
    given = GIVEN.get(model, {})
    typed = [f"{name}={default}" for name, _, default, _ in rows if default and name not in given]
    assert load_config(model, given, typed) == load_config(model, given)


def test_the_page_of_settings_has_a_row_for_each(hooks: ModuleType) -> None:
    page = hooks.settings_page()
    shown = re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)
    assert shown == [
        name
        for model in (PretrainConfig, *MODELS[len(GIVEN) :], FinetuneConfig, StudyConfig, Arm)
        for name, *_ in hooks.settings(model)
    ]


@pytest.mark.parametrize(
    ("verb", "model"), [("pretrain", PretrainConfig), ("finetune", FinetuneConfig)]
)
def test_an_option_that_is_a_setting_changes_nothing_unless_it_is_given(
    verb: str, model: type[BaseModel]
) -> None:
    command = get_command(app).commands[verb]  # type: ignore[attr-defined]
    options = {parameter.name: parameter for parameter in command.params}
    both = set(options) & set(model.model_fields)
    assert {"steps", "seed"} <= both
    for name in both - {"overwrite"}:
        assert options[name].default is None, f"{name}: a file's value would be lost"


def test_the_page_of_commands_names_every_verb_and_option(hooks: ModuleType) -> None:
    page = hooks.commands_page()
    verbs = get_command(app).commands  # type: ignore[attr-defined]
    parts = re.split(r"^### situs ", page, flags=re.MULTILINE)[1:]
    assert {part.split()[0] for part in parts} == set(verbs)
    for part in parts:
        for parameter in verbs[part.split()[0]].params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert all(f"`{option}`" in part for option in parameter.opts)
