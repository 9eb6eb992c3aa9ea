"""A block that is not run cannot rot unseen: its commands are taken by the programs they call.

``situs`` itself is called where nothing lies that the command speaks of, and that alone it must
complain of: options and settings are held against models before data are looked for, which is
tried with one that does not exist.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from pages import PAGES, ROOT, Block, blocks
from typer.testing import CliRunner

from situs.cli import app
from situs.errors import SitusError

NOT_RUN = [block for page in PAGES for block in blocks(page) if block.reason]

_ABSENT = re.compile(
    r"is not there|missing-file|has no run\.json|does not exist|not a file|not found"
    r"|store .* is unfinished"
)
_SHELL = {"cd", "git", "source"}


class _Taken(Exception):
    """A parser of another program took its arguments."""


def _situs(words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    said = " ".join(f"{result.output} {result.exception or ''}".split())
    typed = shlex.join(["situs", *words])
    if words == ["doctor"]:
        assert result.exit_code == 0, said
        return
    if "--submit" in words:  # what is queued is held against nothing before it is queued
        pytest.importorskip("submitit")
        assert "srun" in said, f"{typed}\n{said}"
        return
    assert isinstance(result.exception, SitusError) or result.exit_code == 2, f"{typed}\n{said}"
    assert _ABSENT.search(said), f"{typed}\n{said}"
    if "--set" in words:
        wrong = CliRunner().invoke(app, [*words, "--set", "no_such=1"])
        assert "no_such" in f"{wrong.output} {wrong.exception}", f"{typed}: checks no settings"


def _python(words: list[str], patch: pytest.MonkeyPatch) -> None:
    assert words[:1] == ["-m"], words
    if words[1] == "venv":
        return
    _parsed(importlib.import_module(words[1]).main, words[1:], patch)


def _parsed(main: Callable[[], object], words: list[str], patch: pytest.MonkeyPatch) -> None:
    """Hold words against the parser that a program makes for itself, and go no further."""
    parse = argparse.ArgumentParser.parse_known_args

    def parsed(self: argparse.ArgumentParser, *given: Any) -> None:
        _, unknown = parse(self, *given)
        assert not unknown
        raise _Taken

    with patch.context() as here:
        here.setattr("sys.argv", words)
        here.setattr(argparse.ArgumentParser, "parse_known_args", parsed)
        with pytest.raises(_Taken):
            main()


def _pip(words: list[str]) -> None:
    assert words[0] == "install", words
    for word in words[1:]:
        if word not in ("-e", "-c"):
            place = ROOT / word
            assert place.is_file() or (place / "pyproject.toml").is_file(), word


def _taken(words: list[str], patch: pytest.MonkeyPatch) -> None:
    program, *rest = words
    installed = entry_points(group="console_scripts")
    if program == "situs":
        _situs(rest)
    elif program in ("python", "python3"):
        _python(rest, patch)
    elif program == "pip":
        _pip(rest)
    elif program == "make":
        subprocess.run([program, "-n", *rest], cwd=ROOT, check=True, capture_output=True)
    elif program == "srun":
        _taken(rest, patch)
    elif program == "torchrun":
        from torch.distributed.run import get_args_parser  # noqa: PLC0415 - seconds

        asked = get_args_parser().parse_args(rest)
        assert asked.module
        _taken([asked.training_script, *asked.training_script_args], patch)
    elif program.startswith("nnUNetv2_"):
        pytest.importorskip("nnunetv2")
        (entry,) = installed.select(name=program)
        _parsed(entry.load(), [program, *(word.replace("NNN", "001") for word in rest)], patch)
    else:
        assert program in _SHELL, f"nothing here knows {program}"


def _install(project: Path, site: Path) -> None:
    """What ``pip install -e`` leaves: where the modules lie, and the entry points."""
    declared = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = []
    for group, names in declared["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in names.items())]
    info = site / f"{declared['name'].replace('-', '_')}-{declared['version']}.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {declared['name']}\nVersion: {declared['version']}\n",
        encoding="utf-8",
    )


def _named_files(folder: Path) -> None:
    """The YAML files that pages show."""
    for page in PAGES:
        for block in blocks(page):
            if block.language == "yaml":
                (folder / block.text.split()[1]).write_text(block.text, encoding="utf-8")


@pytest.mark.parametrize("block", NOT_RUN, ids=lambda block: block.place)
def test_what_is_not_run_is_taken_by_the_programs(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert block.language == "sh", "code that cannot be run can only be a program's"
    assert len(block.reason.split()) > 1
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    _named_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # no SLURM
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.syspath_prepend(ROOT / "examples/rotation")
    _install(ROOT / "examples/rotation", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    commands = block.commands()
    assert commands
    for words in commands:
        _taken(words, monkeypatch)
