"""The command line, called in the process of a test."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest

from situs.cli import main


def here(code: int, *words: Any) -> str:
    """What ``situs`` says on standard error, where no process of its own is what is tested."""
    said = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stderr(said),
        redirect_stdout(io.StringIO()),
    ):
        patch.setattr("sys.argv", ["situs", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert int(ended.value.code or 0) == code, said.getvalue()
    return said.getvalue()
