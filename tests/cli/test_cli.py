"""What the command line says where it is used wrongly: one line, no traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from situs import cli

_DATA = ["--data", "x", "--out", "y"]


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--config", "bad.yaml"], "bad.yaml is not valid YAML: "),
        (["--config", "list.yaml"], "list.yaml must hold a mapping, got list"),
        (["--config", "absent.yaml"], "configuration file not found: absent.yaml"),
        (
            [*_DATA, "--set", "options.view_size=[1,2"],
            "--set options.view_size: '[1,2' is not valid YAML: ",
        ),
    ],
)
def test_yaml_that_cannot_be_read_is_named_in_one_line(
    verb: str,
    options: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bad.yaml").write_text("steps: [1,\nseed: 2")
    (tmp_path / "list.yaml").write_text("- 1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["situs", verb, *options])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {said}")
    assert message.count("\n") == 1
