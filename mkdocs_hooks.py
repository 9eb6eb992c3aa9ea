"""Pages of the documentation that are written from the code: settings and commands.

mkdocs calls :func:`on_files` while it builds; ``tests/docs/test_reference_pages.py`` holds the
pages together with the models and the command line.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

from situs.settings import described, flow

_ROLE = re.compile(r":(?:class|func|meth|attr|data|mod|exc):<code>~?([^<]+)</code>")
_WORDS: dict[Any, str] = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    Path: "path",
    Any: "any value",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the written pages."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Show Sphinx's roles, which the docstrings use, as plain code."""
    return _ROLE.sub(r"<code>\1</code>", html)


def pages() -> dict[str, str]:
    """Path of each written page → its text."""
    return {"reference/settings.md": settings_page(), "reference/commands.md": commands_page()}


def settings_page() -> str:
    """Every setting of every configuration: name, what it may be, default, meaning."""
    from situs.methods import available, method_class  # noqa: PLC0415 - imports torch
    from situs.pretraining.config import PretrainConfig  # noqa: PLC0415
    from situs.studies.config import Arm, StudyConfig  # noqa: PLC0415
    from situs.transfer.config import FinetuneConfig  # noqa: PLC0415

    text = [
        "# Settings",
        "Every setting of every command, as it stands in a YAML file for `--config`, or one by one "
        "as `--set name=value`. `situs config METHOD` prints those of a pretraining as a file to "
        "fill in. Unknown names are errors that say the nearest known one. This page is written "
        "from the configuration models when the documentation is built.",
        "## Pretraining",
        table(PretrainConfig),
    ]
    for name in available():
        method = method_class(name)
        text += [f"### Options of {name}", f"{method.title}. `--set options.NAME=…`"]
        text += [table(method.Config)]
    text += ["## Fine-tuning", table(FinetuneConfig)]
    text += ["## Study", table(StudyConfig), "### An arm of a study", table(Arm)]
    return "\n\n".join(text) + "\n"


def table(model: type[BaseModel]) -> str:
    """A Markdown table of a model's settings, those of its parts under dotted names."""
    rows = ["| setting | may be | default | meaning |", "| --- | --- | --- | --- |"]
    for name, allowed, default, meaning in settings(model):
        cells = (f"`{name}`", allowed, f"`{default}`" if default else "required", meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    # On a phone a row becomes a paragraph (docs/pages.css).
    return '<div class="stacked settings" markdown>\n\n' + "\n".join(rows) + "\n\n</div>"


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Dotted name, type, default as YAML (empty where required) and meaning of each setting."""
    said = described(model)
    for name, field in model.model_fields.items():
        required = field.is_required()
        default = None if required else field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from settings(type(default), f"{prefix}{name}.")
            continue
        shown = "" if required else flow(default)
        yield f"{prefix}{name}", kind(field.annotation), shown, said.get(name, "")


def kind(annotation: Any) -> str:
    """An annotation in words: choices as they are typed, without limits and modules."""
    origin, inside = get_origin(annotation), get_args(annotation)
    words = _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))
    if origin is Annotated:
        words = kind(inside[0])
    elif origin is Literal:
        words = " or ".join(map(str, inside))
    elif origin in (Union, UnionType):
        words = " or ".join("null" if part is NoneType else kind(part) for part in inside)
    elif origin is list or (origin is tuple and inside[-1] is Ellipsis):
        words = f"list of {kind(inside[0])}"
    elif origin is tuple:
        parts = [kind(part) for part in inside]
        words = f"{len(parts)} × {parts[0]}" if len(set(parts)) == 1 else ", ".join(parts)
    elif origin is dict:
        words = f"name: {kind(inside[1])}"
    return words


def commands_page() -> str:
    """Every verb with its arguments and options, in the order and panels of ``situs --help``."""
    from typer.main import get_command  # noqa: PLC0415

    from situs.cli import PANELS, app  # noqa: PLC0415
    from situs.cli.exits import table as exits  # noqa: PLC0415

    verbs: Mapping[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    text = [
        "# Commands",
        "What `situs VERB --help` says, on one page; it is written from the command line when the "
        "documentation is built.",
    ]
    for panel, names in PANELS.items():
        text.append(f"## {panel}")
        for name in names:
            if name in verbs:
                text += [f"### situs {name}", inspect.cleandoc(verbs[name].help or "")]
                text.append(_options(verbs[name]))
    return "\n\n".join([*text, "## Exit codes", exits()]) + "\n"


def _options(verb: Any) -> str:
    rows = ["| option | default | meaning |", "| --- | --- | --- |"]
    for parameter in verb.params:
        names = [n for n in (*parameter.opts, *parameter.secondary_opts) if n != "--help"]
        if parameter.param_type_name == "argument":
            names = [(parameter.metavar or parameter.name or "").upper()]
        default = parameter.default if parameter.default not in (None, False, "", ()) else ""
        said = getattr(parameter, "show_default", None)  # of a setting: the model's
        default = said if isinstance(said, str) else default
        default = "required" if parameter.required else f"`{default}`" if default else ""
        meaning = getattr(parameter, "help", "") or ""
        if parameter.param_type_name == "option" and "|" in (parameter.metavar or ""):
            meaning = f"{parameter.metavar.replace('|', ', ')}. {meaning}"
        meaning = meaning.replace("|", "\\|")
        if names:
            rows.append(f"| {', '.join(f'`{n}`' for n in names)} | {default} | {meaning} |")
    return "\n".join(rows)
