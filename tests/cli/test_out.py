"""No verb works for what it could not write: ``--out`` is looked at before anything else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.main import get_command

from situs import cli

# What each verb with an --out needs besides; the names of things that need not be there.
VERBS = {
    "scan": ["x"],
    "prepare": ["x"],
    "pretrain": ["--data", "x"],
    "observe": ["x"],
    "compare": ["x", "y"],
    "finetune": ["--data", "x"],
    "predict": ["x", "y"],
    "plan": ["x"],
    "export": ["x", "--to", "monai"],
    "import": ["x"],
    "embed": ["x", "y"],
    "demo": [],
}
ALWAYS_A_FILE = {"plan", "embed"}


def said(typed: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line in which a command refuses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["situs", *typed])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1, message
    return message


def test_every_verb_with_an_out_is_walked() -> None:
    verbs = get_command(cli.app).commands  # type: ignore[attr-defined]
    with_out = {name for name, verb in verbs.items() for p in verb.params if "--out" in p.opts}
    assert with_out == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_an_out_that_cannot_be_written_is_refused_at_once(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept")

    def refused(out: Path | str) -> str:
        return said([verb, *VERBS[verb], "--out", str(out)], capsys)

    assert "error: --out: " in refused(tmp_path / "file" / "below")
    if verb not in ALWAYS_A_FILE:
        assert "is a file; give a folder" in refused(tmp_path / "file")
    if Path("/proc/self").exists():  # a folder in which nobody can make a file, root included
        assert "nothing can be written in /proc" in refused("/proc/situs")
    assert (tmp_path / "file").read_text() == "kept"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_folders_and_files_that_are_named_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept")
    told = said(["demo-studies", str(tmp_path / "file")], capsys)
    assert told.startswith("error: folder: ")
    assert told.endswith("is a file; give a folder\n")
    assert "is a folder" in said(["plan", "x", "--out", str(tmp_path)], capsys)
    (tmp_path / "page.html").mkdir()
    assert "is a folder" in said(["observe", "x", "--out", str(tmp_path / "page.html")], capsys)
    (tmp_path / "c.yaml").write_text(f"data: {tmp_path}\nout: {tmp_path / 'file'}\n")
    for verb in ("pretrain", "finetune"):
        assert "is a file" in said([verb, "--config", str(tmp_path / "c.yaml")], capsys)


@pytest.mark.parametrize("verb", ["scan", "studies"])
def test_paths_that_are_not_there_are_no_scans_that_were_refused(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    told = said([verb, str(gone)], capsys)
    assert told == f"error: {gone} does not exist\n"
