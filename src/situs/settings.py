"""Every setting of a configuration with its default and what it means, as commented YAML."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.*(?:\n {5,}\S.*)*)", re.MULTILINE)
_CODE = re.compile(r"``(.*?)``")
_WIDTH = 96
# Settings are written as YAML, which has its own words for these, and no roles of Sphinx.
_WORDS = {"None": "null", "True": "true", "False": "false"}
_PYTHON = re.compile(rf"\b({'|'.join(_WORDS)})\b|:\w+:`~?([^`]*)`")


def described(
    model: type[BaseModel], spoken: Callable[[str], str] = lambda code: code
) -> dict[str, str]:
    """Field → what it means: its own description, else that of the docstring's ``Attributes``.

    Args:
        model: Its base classes are asked as well.
        spoken: What stands for words in code font, such as another setting's name.
    """
    said: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        _, _, attributes = (inspect.getdoc(cls) or "").partition("Attributes:\n")
        for name, text in _ATTRIBUTE.findall(attributes):
            said[name] = _CODE.sub(lambda code: spoken(code[1]), " ".join(text.split()))
    for name, field in model.model_fields.items():
        if field.description:
            said[name] = field.description
    return {name: _in_yaml(said[name]) for name in model.model_fields if name in said}


def _in_yaml(text: str) -> str:
    """A meaning in the words of who writes YAML."""
    return _PYTHON.sub(lambda found: found[2] or _WORDS[found[1]], text)


def commented_yaml(
    model: type[BaseModel],
    given: Mapping[str, Any],
    parts: Mapping[str, type[BaseModel]] | None = None,
) -> str:
    """All settings of ``model`` in the order of their declaration, each under its description.

    Args:
        model: Whose settings.
        given: Values that stand instead of defaults, by field.
        parts: Field → the model that says what a free mapping may hold.

    Returns:
        YAML. A setting without a default and not ``given`` is left empty.
    """
    return "\n".join(_lines(model, given, parts or {}, "")) + "\n"


def _lines(
    model: type[BaseModel],
    given: Mapping[str, Any],
    parts: Mapping[str, type[BaseModel]],
    indent: str,
) -> list[str]:
    said = described(model)
    lines: list[str] = []
    for name, field in model.model_fields.items():
        if text := said.get(name):
            lines += textwrap.wrap(
                text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
            )
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        inner = parts.get(name) or (type(default) if isinstance(default, BaseModel) else None)
        if name in given or inner is None:
            value = given.get(name, default)
            required = name not in given and field.is_required()
            lines.append(f"{indent}{name}:" + ("  # required" if required else f" {flow(value)}"))
        else:
            lines += [f"{indent}{name}:", *_lines(inner, {}, {}, indent + "  ")]
    return lines


def flow(value: Any) -> str:
    """A value as YAML in one line, as ``--set`` takes it."""
    text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | None) else str(value)
