"""What docstrings say of errors is complete, and their examples give what they show."""

from __future__ import annotations

import ast
import doctest
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import situs

ROOT = Path(situs.__file__).parent
# Verbs tell errors through exit codes; the readers' errors below are built by helpers.
FILES = [p for p in sorted(ROOT.rglob("*.py")) if p.relative_to(ROOT).parts[0] != "cli"]
EXAMPLES = [p for p in FILES if ">>> " in p.read_text(encoding="utf-8")]


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def built() -> dict[str, str]:
    """Function → the error that it makes for others to raise (``refuse`` → ``ScanRefused``)."""
    return {
        node.name: node.returns.id
        for file in FILES
        for node in ast.walk(tree(file))
        if isinstance(node, ast.FunctionDef)
        and isinstance(node.returns, ast.Name)
        and node.returns.id.endswith(("Error", "Refused"))
    }


def public(module: ast.Module) -> Iterator[ast.FunctionDef]:
    """Functions and methods that others call."""
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    for body in (module.body, *(found.body for found in classes)):
        for node in body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield node


def raised(function: ast.FunctionDef) -> Iterator[str]:
    """Errors that a function raises itself, not in functions inside it."""
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            called = node.exc.func
            name = called.attr if isinstance(called, ast.Attribute) else ast.unparse(called)
            yield built().get(name, name)
        todo += ast.iter_child_nodes(node)


def test_public_functions_say_what_they_raise() -> None:
    unsaid = []
    for file in FILES:
        for node in public(tree(file)):
            docstring = ast.get_docstring(node) or ""
            missing = {e for e in raised(node) if e not in docstring} - {"AssertionError"}
            place = f"{file.relative_to(ROOT)}:{node.lineno} {node.name}"
            unsaid += [f"{place}: {error}" for error in sorted(missing)]
    assert not unsaid


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda p: str(p.relative_to(ROOT)))
def test_examples_in_docstrings_give_what_they_show(file: Path) -> None:
    name = ".".join(("situs", *file.relative_to(ROOT).with_suffix("").parts))
    result = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert not result.failed
