"""Files appear whole or not at all; no name from outside leaves its folder."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from situs.catalog.catalog import Catalog
from situs.datasets.dataset import DatasetOptions, open_dataset
from situs.datasets.layouts import bids
from situs.datasets.layouts.common import read_json as read_dataset_json
from situs.errors import SitusError
from situs.files import (
    file_inside,
    file_sha256,
    keep_file,
    remembered,
    remove_leftovers,
    sha256,
    write_file,
    write_files,
    write_json,
    writing,
    writing_folder,
)
from situs.tables import read_csv, write_csv
from situs.weights.nnunet_plans import NnunetPlan
from situs.weights.weights import load_card

_KILLED = """
import os, signal, sys
from situs.files import writing
with writing(sys.argv[1]) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"old": 1})

    def fill(part: Path) -> None:
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="full"), writing(file) as part:
        fill(part)
    with pytest.raises(OSError, match="full"), writing_folder(tmp_path / "b") as folder:
        fill(folder / "x")
    assert json.loads(file.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_file(file, "old")
    subprocess.run([sys.executable, "-c", _KILLED, str(file)], check=False)
    assert file.read_text() == "old"
    (left,) = (f for f in tmp_path.iterdir() if f != file)
    remove_leftovers(tmp_path)
    assert left.exists()  # may still be written to
    os.utime(left, (0, 0))
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_access_follows_the_umask_whatever_the_writer_does(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        write_csv(tmp_path / "a.csv", [{"x": 1}])
        with writing(tmp_path / "b") as part:
            private = part.with_suffix(".own")
            os.close(os.open(private, os.O_CREAT | os.O_WRONLY, 0o600))
            private.replace(part)
        (tmp_path / "part").touch(0o600)
        keep_file(tmp_path / "part", tmp_path / "c")
        with writing_folder(tmp_path / "d"):
            pass
    finally:
        os.umask(before)
    modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in tmp_path.iterdir()}
    assert modes == {"a.csv": mode, "b": mode, "c": mode, "d": 0o777 & ~umask}


def test_everything_is_flushed_before_the_first_file_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def flushed(handle: int) -> None:
        fsync(handle)
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")

    def named(self: Path, target: Path) -> Path:
        events.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", named)
    write_files(tmp_path / "w", {"weights": b"\0\1", "card": "{}"})
    assert events == ["file", "file", "weights", "card", "folder"]
    assert (tmp_path / "w" / "weights").read_bytes() == b"\0\1"


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    write_file(tmp_path / "out" / "same", "old")
    with writing_folder(tmp_path / "out") as part:
        write_file(part / "same", "new")
        assert (tmp_path / "out" / "same").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out" / "same").read_text() == "new"
    with pytest.raises(SitusError, match="same"), writing_folder(tmp_path / "out") as part:
        write_file(part / "other", "")
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out" / "same").read_text() == "new"


def test_checksums(tmp_path: Path) -> None:
    write_file(tmp_path / "a", "Größe")
    wanted = hashlib.sha256("Größe".encode()).hexdigest()
    assert sha256("Grö", "ße".encode()) == file_sha256(tmp_path / "a") == wanted
    assert file_sha256(tmp_path / "a", 12) == sha256("Größe", digits=12) == wanted[:12]
    assert file_sha256(tmp_path / "absent") == ""


@pytest.mark.parametrize("name", ["case_01", "sub-01_T1w", "Herz, Übung (2)", "a.b.c", "1.2.840.5"])
def test_harmless_names_stay(name: str) -> None:
    assert file_inside(Path("out"), name) == Path("out") / name
    assert file_inside(Path("out"), name, ".nii.gz") == Path("out") / f"{name}.nii.gz"


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../../etc/passwd", "/etc/passwd", "C:\\x", "..\\x", "a/b", "a\0b", "~"),
        *(
            "-rf",
            ".hidden",
            "nul",
            "COM1.txt",
            "x\n",
            "a.",
            "a ",
            "\u202egpj",
            "x" * 300,
            "ü" * 200,
        ),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".nii.gz"])
def test_harmful_names_are_mapped(tmp_path: Path, name: str, suffix: str) -> None:
    file = file_inside(tmp_path, name, suffix)
    write_file(file, "x")
    assert file.parent == tmp_path
    assert os.listdir(tmp_path) == [file.name]
    assert file.name.endswith(suffix)
    assert len(file.name.encode()) <= 200
    assert file.name.isprintable()
    assert file.name != name + suffix


def test_a_mapped_name_keeps_the_suffix_that_readers_go_by() -> None:
    assert file_inside("o", "../scan.nii.gz").name.endswith(".nii.gz")
    assert file_inside("o", "x" * 300 + ".csv").name.endswith(".csv")


@given(st.lists(st.text(max_size=300), min_size=2, max_size=2, unique=True))
def test_any_two_names_get_two_files_in_the_folder(names: list[str]) -> None:
    files = [file_inside("/data/out", name) for name in names]
    assert all(file.parent == Path("/data/out") and file.resolve() == file for file in files)
    assert files[0] != files[1]


@given(st.lists(st.text(max_size=8).filter(lambda t: "\x00" not in t), min_size=1, max_size=4))
def test_a_table_is_read_as_it_was_written_and_no_spreadsheet_runs_it(texts: list[str]) -> None:
    texts += ["=HYPERLINK(0)", "+1+1", "-x", "@SUM(A1)", "'=marked", "-2.5", "\t=1"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.csv"
        write_csv(file, [{"case": text, "=head": 1} for text in texts])
        rows = read_csv(file, "", "case")
        assert [row["case"] for row in rows] == texts
        assert {row["=head"] for row in rows} == {"1"}
        with file.open(newline="", encoding="utf-8") as stream:
            seen = [text for text, *_ in csv.reader(stream)]
        assert [text for text in seen if text.startswith(("=", "+", "-", "@", "\t", "\r"))] == [
            text for text in texts if text.startswith(("+", "-", "\t", "\r")) and is_number(text)
        ]


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"{", b"\xff"])
def test_json_of_others_that_is_none_is_an_error_with_the_file(
    tmp_path: Path, content: bytes
) -> None:
    """Wherever a file comes from outside; the interpreter's own error says nothing of it."""
    readers: dict[str, Callable[[Path], object]] = {
        "dataset.json": read_dataset_json,
        "plans.json": lambda file: NnunetPlan.read(file, "3d_fullres"),
        "card.json": lambda file: load_card(file.parent),
        "catalog.json": Catalog.load,
    }
    for name, read in readers.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SitusError, match=re.escape(name)):
            read(tmp_path / name)
    assert remembered(tmp_path / "card.json") == remembered(tmp_path / "absent.json") == {}


def test_a_table_with_an_endless_field_is_an_error_with_the_file(tmp_path: Path) -> None:
    endless = "image,label\n" + "x" * 200_000 + ",y\n"
    (tmp_path / "cases.csv").write_text(endless)
    with pytest.raises(SitusError, match=r"cases\.csv is damaged \(Error\); copy it"):
        read_csv(tmp_path / "cases.csv", "copy it", "image")
    with pytest.raises(SitusError, match=r"cases\.csv cannot be read as CSV: field larger"):
        open_dataset(tmp_path / "cases.csv", DatasetOptions())
    (tmp_path / "sub-1_dseg.tsv").write_text("index\tname\n1\t" + "x" * 200_000 + "\n")
    with pytest.raises(SitusError, match=r"dseg\.tsv cannot be read as a table: field larger"):
        bids._rows(tmp_path / "sub-1_dseg.tsv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(SitusError, match="no column 'image'"):
        read_csv(tmp_path / "empty.csv", "copy it", "image")
