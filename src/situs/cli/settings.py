"""Options that are settings: what they take, mean and default to is what the models say.

Importing the models takes seconds, and ``situs --help`` has none. What options need of them is kept
in ``settings.json``; ``make options`` writes it, and a test holds it to the models.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from situs.cli.console import out_folder
from situs.errors import ConfigError

_WHERE = ("devices", "num_nodes", "strategy", "accelerator", "precision", "compile")
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "prepare": ("situs.store:Preprocessing", ("spacing",)),
    "pretrain": (
        "situs.pretraining.config:PretrainConfig",
        ("method", "data", "out", "backbone.name", "steps", "batch_size", "seed", *_WHERE),
    ),
    "finetune": (
        "situs.transfer:FinetuneConfig",
        (
            *("data", "init", "out", "task", "train", "validation", "test", "dataset.test"),
            *("steps", "batch_size", "lr", "backbone.name", "freeze_encoder", "allow_partial"),
            *("seed", *_WHERE, "overwrite"),
        ),
    ),
    "probe": (
        "situs.transfer.probe:ProbeSettings",
        ("train", "test", "voxels_per_class", "seed"),
    ),
}
"""Verb → its model, and the settings that have an option of their own; ``--set`` takes all."""

CALLED = {
    "train": "labels",
    "dataset.test": "test_data",
    "backbone.name": "backbone",
    "voxels_per_class": "voxels",
}
"""Settings whose option has another name."""

Given = Mapping[str, Any]
"""The settings that were given as options, by their dotted name."""

ConfigFile = Annotated[Path | None, typer.Option("--config", help="A YAML file with settings.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting by its dotted key; may be repeated.",
    ),
]

_TYPES: dict[str, Any] = {
    "flag": bool,
    "whole number": int,
    "number": float,
    "text": str,
    "path": Path,
    "paths": list[Path],
}


def option(setting: str) -> str:
    """The option that a setting has.

    Args:
        setting: Its dotted name.
    """
    return f"--{CALLED.get(setting, setting).replace('_', '-')}"


def completes(*words: str, group: str = "") -> Callable[[str], list[str]]:
    """What a shell's completion offers for an option, without importing anything heavy.

    Args:
        words: That the option takes; also as the last part of a sum, ``spatial+mae``.
        group: Of entry points, by which other packages add theirs.
    """

    def offered(incomplete: str) -> list[str]:
        parts, plus, last = incomplete.rpartition("+")
        known = [*words, *(entry_points(group=group).names if group else ())]
        return [f"{parts}{plus}{word}" for word in known if word.startswith(last)]

    return offered


def completes_as(verb: str, setting: str) -> Callable[[str], list[str]]:
    """What completion offers for a setting, also where another verb asks for one."""
    described = _described()[verb][setting]
    words = described.get("known", described.get("choices", ""))
    return completes(*filter(None, words.split("|")), group=described.get("group", ""))


@cache
def _described() -> dict[str, dict[str, dict[str, str]]]:
    found: dict[str, dict[str, dict[str, str]]] = json.loads(
        Path(__file__).with_name("settings.json").read_text("utf-8")
    )
    return found


def takes_settings(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a verb have the options of :data:`MODELS` before its own.

    Args:
        name: The verb.

    Returns:
        A decorator of a function whose first argument is :data:`Given`.
    """
    described = _described()[name]
    settings = {CALLED.get(setting, setting): setting for setting in described}

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        def called(**values: Any) -> None:
            given = {setting: values.pop(name) for name, setting in settings.items()}
            verb({key: value for key, value in given.items() if value is not None}, **values)

        options = [
            _parameter(called, described[setting], completes_as(name, setting))
            for called, setting in settings.items()
        ]
        _, *own = signature(verb).parameters.values()
        options += [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own]
        called.__name__, called.__doc__ = verb.__name__, verb.__doc__
        called.__module__ = verb.__module__
        called.__signature__ = Signature(options)  # type: ignore[attr-defined]
        called.__annotations__ = {each.name: each.annotation for each in options}
        return called

    return decorate


def _parameter(
    name: str, described: Mapping[str, str], offered: Callable[[str], list[str]]
) -> Parameter:
    """An option that changes nothing unless it is given: a file of settings may say otherwise."""
    taken = typer.Option(
        *([option(name)] if described["type"] != "flag" else ()),
        help=described["help"],
        metavar=described.get("choices"),
        autocompletion=offered if described["type"] == "text" else None,
        show_default=described.get("default", False),
        callback=out_folder if name == "out" else None,
    )
    kind: Any = _TYPES[described["type"]] | None
    hint = Annotated[kind, taken]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=hint)


def settled(values: Mapping[str, Any], given: Given) -> dict[str, Any]:
    """Settings of a file, with those that were given as options in their place.

    Args:
        values: Nested, as in the file.
        given: By dotted name.

    Raises:
        ConfigError: If data or output folder are named by neither.
    """
    from situs.config import placed

    both = placed(values, given)
    for name in ("data", "out"):
        if both.get(name) is None:  # not there, or left as 'situs config' prints it
            raise ConfigError(f"{option(name)} is missing; it can also stand in the --config file")
    return both
