"""Strict configuration: unknown keys are errors that name the nearest known one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from situs.errors import ConfigError, setting


class Config(BaseModel):
    """Base of every configuration in situs: frozen, and strict about unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=False, allow_inf_nan=False
    )

    @field_validator("*", mode="after")
    @classmethod
    def _home(cls, value: Any) -> Any:
        """A path that begins with ``~`` lies at home, in a YAML file as in a shell."""
        if isinstance(value, tuple) and any(isinstance(item, Path) for item in value):
            return tuple(cls._home(item) for item in value)
        return value.expanduser() if isinstance(value, Path) else value


C = TypeVar("C", bound=Config)

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What numpy, torch and Lightning all take for a seed."""

Precision = Annotated[
    Literal["auto", "32", "bf16-mixed", "16-mixed"],
    # A YAML file says 32, a number.
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
]
Accelerator = Literal["auto", "cpu", "gpu"]


def _whole_network(strategy: Any) -> Any:
    if isinstance(strategy, str) and strategy not in ("auto", "ddp"):
        raise ValueError(
            "must be auto or ddp: each device holds a whole network; splitting one over devices "
            "(FSDP, DeepSpeed, tensor parallelism) is not supported"
        )
    return strategy


Strategy = Annotated[Literal["auto", "ddp"], BeforeValidator(_whole_network)]


def load_config(
    model: type[C],
    source: Mapping[str, Any] | str | Path | C,
    overrides: Sequence[str] = (),
) -> C:
    """Build a configuration from a mapping, a YAML file or an instance.

    Args:
        model: The pydantic model to fill.
        source: A mapping, the path of a YAML file, or an instance of ``model``.
        overrides: ``key.path=value`` strings; values are read as YAML. In a path a number is the
            place in a list, counted from 0.

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


def validate(model: type[C], values: Mapping[str, Any], within: str = "") -> C:
    """Validate ``values`` against ``model``; raise one readable :class:`ConfigError`.

    Args:
        model: The pydantic model to fill.
        values: By key.
        within: Dotted key that the values stand under, so that an error names all of it.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(_explain(model, error, f"{within}." if within else "")) from None


def renamed(values: Any, names: Mapping[str, str]) -> Any:
    """Settings under today's names; files of before may have others.

    Args:
        values: As given; what is no mapping is left alone.
        names: Old name → today's.
    """
    if not isinstance(values, Mapping):
        return values
    return {
        names[key] if names.get(key, key) not in values else key: value
        for key, value in values.items()
    }


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
        what = " is a folder" if path.is_dir() else ""
        raise ConfigError(f"configuration file not found: {path}{what}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except RecursionError:
        raise ConfigError(f"{path} is not valid YAML: it is nested too deep") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no text in UTF-8; save it so if it is a text") from None
    except yaml.YAMLError as error:
        said = _in_a_line(error).replace(
            "'\\t' that", "'\\t' (a tab; YAML is indented by spaces) that"
        )
        raise ConfigError(f"{path} is not valid YAML: {said}") from None
    if not isinstance(values, dict):
        got = "a list" if isinstance(values, list) else f"'{str(values)[:40]}'"
        raise ConfigError(f"{path} must hold settings, a line 'name: value' each, got {got}")
    return values


def read_whole_yaml(path: Path, late: str) -> dict[str, Any]:
    """The mapping of a YAML file that situs wrote, of which nothing may be missing.

    A truncated file can be YAML as well: a setting that stands near its end must be there.

    Args:
        path: Of the file.
        late: The setting.

    Raises:
        ConfigError: As :func:`read_yaml`, or without the setting.
    """
    values = read_yaml(path)
    if late not in values:
        raise ConfigError(f"{path} is truncated (no '{late}'); restore it from a copy")
    return values


def placed(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others in their place.

    Args:
        values: Nested; not changed.
        given: By dotted name; a number is the place in a list, counted from 0.

    Raises:
        ConfigError: If a name leads through a value that holds no settings, or beyond a list.
    """
    both = _copied(values)
    for key, value in given.items():
        _place(both, key, value)
    return both


def _place(values: dict[str, Any], key: str, value: Any) -> None:
    """Put a value in its place. What leads there is copied, since anchors of YAML share it."""
    parts = key.split(".")
    within: Any = values
    for number, part in enumerate(parts[:-1]):
        at = _step(within, parts, number)
        node = within.get(at) if isinstance(within, dict) else within[at]
        if not isinstance(node, dict | list | tuple | None):
            raise ConfigError(
                f"{setting(key)}: '{part}' is a value{_shown(node, False)}, not a group of keys"
            )
        within[at] = list(node) if isinstance(node, list | tuple) else dict(node or {})
        within = within[at]
    within[_step(within, parts, len(parts) - 1)] = value


def _step(within: dict[str, Any] | list[Any], parts: Sequence[str], number: int) -> Any:
    """The key of a group, or the place in a list, that a part of a dotted name says."""
    part = parts[number]
    if isinstance(within, dict):
        return part
    if part.isdecimal() and int(part) < len(within):
        return int(part)
    listed = ".".join(parts[:number])
    raise ConfigError(
        f"{setting('.'.join(parts))}: '{listed}' is a list of {len(within)}, counted from 0; "
        f"'{part}' is none of them"
    )


def _set(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set must look like key.path=value, got '{override}'")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: '{text}' is not valid YAML: {_in_a_line(error)}") from None
    _place(values, key, value)


def _in_a_line(error: Exception) -> str:
    """What is wrong and where: parsers quote the text over several lines."""
    mark = getattr(error, "problem_mark", None)
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return f"{getattr(error, 'problem', None) or 'it cannot be read'}{place}"


def _explain(model: type[BaseModel], error: ValidationError, within: str) -> str:
    """Every problem in a line of its own; what a value may be instead is joined by "or"."""
    lines: list[str] = []
    wishes: dict[str, tuple[list[str], str]] = {}
    for problem in error.errors():
        path = _own_path(model, problem["loc"])
        key = within + ".".join(map(str, path))
        if problem["type"] == "extra_forbidden":
            known = _known_keys(model, path[:-1])
            lines.append(f"unknown key '{key}'{_nearest(str(path[-1]), known)}")
        elif not path:
            lines.append(wish(problem))
        elif problem["type"] == "missing" and len(problem["loc"]) == len(path):
            lines.append(f"{setting(key)} is missing")
        else:
            inside = len(problem["loc"]) > len(path)  # in one of the forms that a value may take
            said, _ = wishes.setdefault(key, ([], _shown(problem["input"], inside)))
            said += [wish(problem)] if wish(problem) not in said else []
    lines += [f"{setting(key)} {', or '.join(said)}{got}" for key, (said, got) in wishes.items()]
    return "configuration cannot be used:\n  " + "\n  ".join(lines)


_WISHES = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a group of settings",
    "model_type": "must be a group of settings",
}


def wish(problem: Mapping[str, Any]) -> str:
    """What is wrong with a value, without words of Python or pydantic."""
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if problem["type"] == "missing":  # an item of a list
        return f"must be a list of {int(problem['loc'][-1]) + 1} or more"
    said = _WISHES.get(problem["type"], problem["msg"])
    said = said.replace(" after validation", "").replace("Input should", "must")
    return said.replace("Tuple should", "must").replace("Tuple", "the list")


def _shown(value: Any, inside: bool) -> str:
    """``, got …`` where the value can be said in a few words."""
    if value is None:
        return ", got nothing"
    if inside and isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        return ""
    text = f"'{value}'" if isinstance(value, str | Path) else str(value)
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6).strip()
    return f", got {text}" if len(text) < _LONG else ""


_LONG = 100  # characters of a value that an error quotes


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | None) else str(value)


def _own_path(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The part of pydantic's location that a user wrote: no names of a union's members."""
    known: type[BaseModel] | None = model
    path: list[int | str] = []
    for part in loc:
        if isinstance(part, str) and _MEMBER.search(part):
            break
        if path and known is None and isinstance(part, str) and part in _MEMBERS:
            break
        path.append(part)
        known = _model_of(known, part)
    return tuple(path)


_MEMBER = re.compile(r"[\[(]|^constrained-")  # 'literal[…]', 'function-after[…]', 'tuple[…]'
_MEMBERS = {"int", "float", "str", "bool", "path", "none", "list", "dict"}


def _model_of(model: type[BaseModel] | None, part: int | str) -> type[BaseModel] | None:
    field = model.model_fields.get(str(part)) if model else None
    annotation = field.annotation if field else None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    found: type[BaseModel] | None = model
    for part in path:
        found = _model_of(found, part)
    return list(found.model_fields) if found else []


def _nearest(name: str, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean '{match[0]}'?)" if match else ""
