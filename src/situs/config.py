"""Strict configuration: unknown keys are errors that name the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from situs.errors import ConfigError


class Config(BaseModel):
    """Base of every configuration in situs: frozen, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)


C = TypeVar("C", bound=Config)

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What numpy, torch and Lightning all take for a seed."""


def load_config(
    model: type[C],
    source: Mapping[str, Any] | str | Path | C,
    overrides: Sequence[str] = (),
) -> C:
    """Build a configuration from a mapping, a YAML file or an instance.

    Args:
        model: The pydantic model to fill.
        source: A mapping, the path of a YAML file, or an instance of ``model``.
        overrides: ``key.path=value`` strings; values are read as YAML.

    Raises:
        ConfigError: With every problem in one message, each under its dotted key.
    """
    if isinstance(source, model):
        if not overrides:
            return source
        values: dict[str, Any] = source.model_dump()
    elif isinstance(source, Mapping):
        values = _copied(source)
    else:
        values = read_yaml(Path(str(source)))
    for override in overrides:
        _set(values, override)
    return validate(model, values)


def validate(model: type[C], values: Mapping[str, Any]) -> C:
    """Validate ``values`` against ``model``; raise one readable :class:`ConfigError`."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(_explain(model, error)) from None


def dump_yaml(config: BaseModel) -> str:
    """The resolved configuration as YAML, in declaration order."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def unknown_name(kind: str, name: str, known: Sequence[str]) -> ConfigError:
    """The error for a name that no registry entry has: it lists the known ones."""
    return ConfigError(f"unknown {kind} '{name}'{_nearest(name, known)}; known: {', '.join(known)}")


def _copied(source: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copied(v) if isinstance(v, Mapping) else v for k, v in source.items()}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds, empty for an empty file.

    Raises:
        ConfigError: If there is no such file, or it holds something else; names it.
    """
    if not path.is_file():
        raise ConfigError(f"configuration file not found: {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {_in_a_line(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping, got {type(values).__name__}")
    return values


def _set(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set must look like key.path=value, got '{override}'")
    *parents, leaf = key.split(".")
    for parent in parents:
        node = values.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {key}: '{parent}' is a value, not a group of keys")
        values = node
    try:
        values[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: '{text}' is not valid YAML: {_in_a_line(error)}") from None


def _in_a_line(error: Exception) -> str:
    """What is wrong and where: parsers quote the text over several lines."""
    mark = getattr(error, "problem_mark", None)
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return f"{getattr(error, 'problem', None) or 'it cannot be read'}{place}"


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = _known_keys(model, problem["loc"][:-1])
            lines.append(f"unknown key '{key}'{_nearest(str(problem['loc'][-1]), known)}")
        else:
            lines.append(f"'{key}': {problem['msg']}, got {problem.get('input')!r}")
    return "configuration cannot be used:\n  " + "\n  ".join(lines)


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _nearest(name: str, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean '{match[0]}'?)" if match else ""
