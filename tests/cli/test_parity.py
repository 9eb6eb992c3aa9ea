"""Every verb, its function and its configuration agree: names, types and defaults."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
import typer
from pydantic import BaseModel
from typer.main import get_command
from typer.testing import CliRunner

from situs import backbones, methods
from situs.backbones.presets import PRESETS
from situs.cli import app

SHOWN = {"json", "quiet", "rows"}  # how a verb shows what it did


@dataclass(frozen=True)
class Verb:
    """What a verb hands its options to.

    Attributes:
        calls: Functions, ``module:name``; an option is an argument of one of them.
        models: Configurations, ``module:name``; an option may be a setting of one instead.
        named: Option → what it is called there; dotted below a setting.
        parsed: Options whose text becomes something of another type.
        own: Options that neither function nor configuration has, with what they do.
        unasked: Arguments that the command line has no option for, with the reason.
    """

    calls: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    named: dict[str, str] = field(default_factory=dict)
    parsed: frozenset[str] = frozenset()
    own: dict[str, str] = field(default_factory=dict)
    unasked: dict[str, str] = field(default_factory=dict)


BAR = {"progress": "the verb draws its own bar"}
FILE = {"config": "a file of settings", "settings": "--set: any setting"}
FOLDER = {"folder": "out"}

VERBS = {
    "scan": Verb(
        ("situs.catalog.catalog:build_catalog",),
        own={"catalog": "saves the catalog"},
        unasked=BAR
        | {"skip": "what the verb itself writes", "limit_s": "guards against files that hang"},
    ),
    "prepare": Verb(
        ("situs.store:prepare",),
        ("situs.store:Preprocessing",),
        {"store": "out"},
        frozenset({"spacing"}),
        FILE,
        BAR | {"preprocessing": "made of --config, --set and --spacing"},
    ),
    "upload": Verb(("situs.store.upload:upload",), unasked=BAR),
    "pretrain": Verb(
        ("situs.pretraining.pretrain:pretrain", "situs.pretraining.like_plan:like_plan"),
        ("situs.pretraining.config:PretrainConfig",),
        {"backbone": "backbone.name", "like_plan": "path", "settings": "overrides"},
        own={
            "resume": "mode",
            "overwrite": "mode",
            "report": "writes the report at the end",
        },
        unasked={"mode": "--resume, --overwrite", "values": "what has been given so far"},
    ),
    "finetune": Verb(
        ("situs.transfer:finetune",),
        ("situs.transfer:FinetuneConfig",),
        {"labels": "train", "test_data": "dataset.test", "backbone": "backbone.name"}
        | {"settings": "overrides"},
        frozenset({"resume"}),
        unasked={"cohort": "an opened data set, shared by the runs of a study"},
    ),
    "predict": Verb(
        ("situs.transfer.predict:predict",),
        named=FOLDER,
        parsed=frozenset({"settings", "shard"}),
        own={"ensemble": "further models beside the first"},
        unasked=BAR,
    ),
    "probe": Verb(
        ("situs.transfer.probe:probe",),
        ("situs.transfer.probe:ProbeSettings",),
        {"labels": "train", "voxels": "voxels_per_class"},
        frozenset({"settings"}),
        unasked={
            "cohort": "an opened data set",
            "changes": "controls of a study: scans changed before they are seen",
        },
    ),
    "study": Verb(
        ("situs.report.study:study", "situs.studies.submit:submit"),
        named={"settings": "overrides", "submit": "jobs", "slurm": "parameters"},
        own={"dry_run": "lists the jobs"},
        unasked={
            "report": "the verb prints events itself",
            "worker": "another program that does jobs",
            "cluster": "submitit's, for tests without SLURM",
        },
    ),
    "audit": Verb(("situs.pretraining.audit:audit",)),
    "embed": Verb(
        ("situs.transfer.embed:embed", "situs.report.embedding:write_page"),
        named={"table": "out", "grid": "grid_mm"},
        own={"page": "whether a page is written"},
        unasked=BAR | {"table": "the one that was just written"},
    ),
    "plan": Verb(
        ("situs.planning:plan",),
        named={"target": "roles"},
        own={"file": "writes the planes"},
        unasked=BAR,
    ),
    "studies": Verb(
        ("situs.planning:open_catalog", "situs.catalog.studies:load_rules"),
        named={"rules": "name"},
        unasked=BAR,
    ),
    "demo": Verb(("situs.demo:run_demo",), named=FOLDER),
    "demo-studies": Verb(("situs.demo.studies:make_demo_studies",)),
    "export": Verb(("situs.export:export",), named={"run": "source", "folder": "out"}),
    "import": Verb(
        ("situs.weights.foreign:import_weights",),
        named=FOLDER,
        own={"spacing": "of the preprocessing", "ct_window": "of the preprocessing"},
        unasked={"preprocessing": "--spacing, --ct-window"},
    ),
    "observe": Verb(
        ("situs.report.report:write_report",),
        named={"run": "run_folder", "out_path": "out", "transfer": "transfers"},
    ),
    "compare": Verb(("situs.report.compare:write_comparison",), named={"out_path": "out"}),
    "serve": Verb(("situs.report.serve:make_server",), named={"folder": "root"}),
    "check": Verb(("situs.studies.check:check_folder",), named={"paths": "path"}, unasked=BAR),
    "replay": Verb(("situs.training.offending:load_offending",)),
    "config": Verb(("situs.methods:method_class",), named={"method": "name"}),
    "doctor": Verb(),
    "methods": Verb(),
    "backbones": Verb(),
}


def named(path: str) -> Any:
    module, name = path.split(":")
    return getattr(import_module(module), name)


def kinds(hint: Any) -> set[type]:
    """What a value may be: of a sequence its items; paths and text are typed alike."""
    if get_origin(hint) is Literal:
        return {kind for value in get_args(hint) for kind in kinds(type(value))}
    if get_origin(hint) is Annotated:
        return kinds(get_args(hint)[0])
    if get_origin(hint) is Callable:
        return set()
    inside = [part for part in get_args(hint) if part is not Ellipsis]
    if inside:
        return {kind for part in inside for kind in kinds(part)}
    if isinstance(hint, type) and issubclass(hint, Path):
        return {str}
    return set() if hint is NoneType else {hint}


def arguments(verb: Verb) -> Iterator[tuple[str, set[type], Any]]:
    """Name, kinds and default of everything that the verb's functions take."""
    for call in map(named, verb.calls):
        for name, parameter in inspect.signature(call).parameters.items():
            try:
                hint = get_type_hints(_only(call, name), include_extras=True)[name]
            except NameError:  # imported for type checkers alone
                hint = Any
            yield name, kinds(hint), parameter.default


def _only(call: Any, name: str) -> Any:
    """Something that has one annotation of a function, to be read by itself."""
    alone = type("Alone", (), {})
    alone.__annotations__ = {name: call.__annotations__[name]}
    alone.__module__ = call.__module__
    return alone


def setting(verb: Verb, path: str) -> tuple[set[type], Any] | None:
    """Kinds and default of a setting of the verb's configurations."""
    for model in map(named, verb.models):
        inside: type[BaseModel] = model
        *parts, last = path.split(".")
        for part in parts:
            hint = inside.model_fields[part].annotation
            models = [h for h in (hint, *get_args(hint)) if inspect.isclass(h)]
            inside = next(h for h in models if issubclass(h, BaseModel))
        if last in inside.model_fields:
            found = inside.model_fields[last]
            return kinds(found.annotation), found.get_default(call_default_factory=True)
    return None


def options(verb: str) -> dict[str, tuple[set[type], Any]]:
    """Kinds and default of every option and argument of the command line."""
    command = get_command(app).commands[verb]  # type: ignore[attr-defined]
    called = inspect.unwrap(command.callback)
    hints = get_type_hints(called, include_extras=True)
    return {
        name: (
            kinds(hints[name]),
            None if parameter.default is inspect._empty else parameter.default,
        )
        for name, parameter in inspect.signature(called).parameters.items()
        if hints[name] is not typer.Context
    }


def test_every_verb_is_here() -> None:
    assert set(VERBS) == set(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", VERBS)
def test_options_are_arguments_or_settings_of_that_name_type_and_default(name: str) -> None:
    verb = VERBS[name]
    taken = {argument: (types, default) for argument, types, default in arguments(verb)}
    for option, (types, default) in options(name).items():
        there = verb.named.get(option, option)
        if option in verb.own or (option in SHOWN and there not in taken):
            continue
        found = setting(verb, there) or taken.get(there)
        assert found is not None, f"{option}: neither an argument nor a setting"
        if option not in verb.parsed:
            assert types & found[0] or Any in found[0], f"{option}: {types} here, {found[0]} there"
        if found[1] is not inspect._empty and (default is not None or there in taken):
            assert default == found[1] or (default is None and not found[1]), (
                f"{option}: {default} here, {found[1]} there"
            )


@pytest.mark.parametrize("name", VERBS)
def test_every_argument_has_its_option(name: str) -> None:
    verb = VERBS[name]
    there = {verb.named.get(option, option) for option in options(name)}
    missing = {argument for argument, *_ in arguments(verb)} - there - set(verb.unasked)
    assert not missing
    unused = (set(verb.named) | set(verb.own) | verb.parsed) - set(options(name))
    assert not unused, "the table names options that are gone"


def literals(hint: Any) -> set[str]:
    """The words that a hint allows."""
    if get_origin(hint) is Literal:
        return {value for value in get_args(hint) if isinstance(value, str)}
    return {word for part in get_args(hint) for word in literals(part)}


CHOICES: dict[tuple[str, str], Callable[[], Iterable[str]]] = {
    ("import", "layout"): lambda: ["auto", *named("situs.weights.foreign:layouts")()],
    ("export", "to"): named("situs.export:available"),
    ("studies", "rules"): lambda: [
        file.name.removesuffix(".yaml")
        for file in files("situs.catalog.roles").iterdir()
        if file.name.endswith(".yaml")
    ],
}
"""Options whose choices a registry has."""


def choices(name: str) -> dict[str, set[str]]:
    """Option of a verb → the words that it takes, as the registries and the functions say."""
    verb = VERBS[name]
    wanted = {option: set(there()) for (at, option), there in CHOICES.items() if at == name}
    back = {there: option for option, there in verb.named.items()}
    for call in map(named, verb.calls):
        for argument in inspect.signature(call).parameters:
            try:
                hint = get_type_hints(_only(call, argument), include_extras=True)[argument]
            except NameError:  # imported for type checkers alone
                continue
            if words := literals(hint):
                wanted[back.get(argument, argument)] = words
    return wanted


@pytest.mark.parametrize("name", VERBS)
def test_help_names_every_choice_and_completion_offers_it(name: str) -> None:
    wanted = choices(name)
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    for parameter in command.params:
        said = f"{getattr(parameter, 'help', '')} {parameter.metavar or ''}"
        for word in wanted.get(parameter.name or "", ()):
            assert re.search(rf"\b{re.escape(word)}\b", said), f"--{parameter.name}: {word}"
        if wanted.get(parameter.name or ""):
            (option,) = (written for written in parameter.opts if written.startswith("--"))
            assert set(offered(f"situs {name} {option} ")) == wanted[parameter.name or ""], option


def offered(typed: str) -> list[str]:
    """What bash is told when the tabulator key is pressed."""
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    asked = {"_SITUS_COMPLETE": "complete_bash", **words}
    return CliRunner().invoke(app, prog_name="situs", env=asked).stdout.split()


def test_completion_offers_methods_and_networks() -> None:
    assert offered("situs pretrain --method ") == methods.available()
    assert offered("situs config spatial+ma") == ["spatial+mae"]
    networks = [*backbones.available(), *PRESETS]
    assert set(offered("situs finetune --backbone ")) == set(networks)
    assert offered("situs demo --method vo") == ["voco"]
    assert offered("situs pretrain --data ") == [], "a shell completes paths by itself"


@pytest.mark.parametrize("name", [name for name, verb in VERBS.items() if verb.models])
def test_every_setting_can_be_given(name: str) -> None:
    """One by one with ``--set``, and the most used by an option of their own."""
    assert "--set" in {
        text
        for parameter in get_command(app).commands[name].params  # type: ignore[attr-defined]
        for text in parameter.opts
    }
