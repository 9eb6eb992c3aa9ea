"""Write what options of the command line need of the models that they are settings of.

Run by ``make options``; ``tests/cli/test_options.py`` says when it is due.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import situs.cli.settings as cli
from situs import backbones, methods
from situs.backbones.presets import PRESETS
from situs.settings import described, flow

FILE = Path(cli.__file__).with_suffix(".json")
_QUOTE = '"'
_TYPES = {bool: "flag", int: "whole number", float: "number", str: "text", Path: "path"}


NAMED: dict[str, tuple[Callable[[], list[str]], str]] = {
    "method": (methods.available, "situs.methods"),
    "backbone.name": (lambda: [*backbones.available(), *PRESETS], "situs.backbones"),
}


def written() -> str:
    """The file's text, as it has to be."""
    table = {verb: of_verb(*chosen) for verb, chosen in cli.MODELS.items()}
    return json.dumps(table, indent=2, ensure_ascii=False) + "\n"


def of_verb(model: str, settings: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Setting → type, choices, default and help of its option."""
    module, name = model.split(":")
    options = {setting: cli.option(setting) for setting in settings}
    return {
        setting: of_setting(getattr(import_module(module), name), setting, options)
        for setting in settings
    }


def known(setting: str) -> dict[str, str]:
    """What completion offers where a registry has the names, and the group that adds to them."""
    if setting not in NAMED:
        return {}
    names, group = NAMED[setting]
    own = [name for name in names() if name not in entry_points(group=group).names]
    return {"known": "|".join(own), "group": group}


def of_setting(model: type[BaseModel], setting: str, options: dict[str, str]) -> dict[str, str]:
    """What one option needs; in its help, settings are called by their options."""
    *parents, last = setting.split(".")
    for parent in parents:
        model = next(
            part for part in parts(model.model_fields[parent].annotation) if is_model(part)
        )
    field = model.model_fields[last]
    said = described(model, lambda code: f"`{options.get(code, code.strip(_QUOTE))}`")[last]
    found = {"type": "text", "help": said} | of_type(field) | known(setting)
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    if default is not None and default is not False:
        found["default"] = flow(default)
    return found


def of_type(field: FieldInfo) -> dict[str, str]:
    """The first simple thing that a setting may be; of several paths, all."""
    kinds = parts(field.annotation)
    if tuple[Path, ...] in kinds:
        return {"type": "paths"}
    if all(get_origin(kind) is Literal for kind in kinds):
        return {"choices": "|".join(str(value) for kind in kinds for value in get_args(kind))}
    return next(({"type": _TYPES[kind]} for kind in kinds if kind in _TYPES), {})


def parts(annotation: Any) -> list[Any]:
    """The members of a union, without limits and None."""
    if get_origin(annotation) is Annotated:
        return parts(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [part for member in get_args(annotation) for part in parts(member)]
    return [] if annotation is NoneType else [annotation]


def is_model(kind: Any) -> bool:
    """Whether settings lie in it."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")
