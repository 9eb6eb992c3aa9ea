"""Consoles and the two flags that most verbs share."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console

out = Console()
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON instead.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only results and errors.")]


def print_json(value: Any) -> None:
    """One JSON document on standard output, without colour or wrapping."""
    typer.echo(json.dumps(value, indent=2, default=str))
