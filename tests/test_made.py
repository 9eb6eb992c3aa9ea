"""One thing given where another is wanted: the error says what it is, before anything is read."""

from __future__ import annotations

import codecs
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from collections_made import write_collection
from command_line import here

from situs.cli.exits import Exit
from situs.datasets.dataset import DatasetError, open_dataset
from situs.scans.discovery import common_root, discover
from situs.store import Preprocessing, prepare


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled collection, a store, and folders that look like a run and a result."""
    place = tmp_path_factory.mktemp("made")
    write_collection(place / "data", cases=3)
    prepare([place / "data" / "images"], place / "store", Preprocessing(), workers=0)
    for name, file, content in (
        ("run", "run.json", '{"situs_version": "0.1.0", "status": "finished", "method": "mae"}'),
        ("result", "result.json", '{"task": "segmentation", "init": "none"}'),
        ("begun", "begun.json", '{"split": {}}'),
    ):
        (place / name).mkdir()
        (place / name / file).write_text(content)
    with zipfile.ZipFile(place / "data.zip", "w") as archive:
        archive.writestr("data/images/a.nii.gz", b"")
    (place / "tabs.yaml").write_text("finetune:\n\tlr: 0.1\n")
    (place / "list.yaml").write_text("- none\n")
    (place / "latin.yaml").write_bytes("# Größe\n".encode("latin-1"))
    return place


STORE = "store is a store of 'situs prepare'"
CALLS = {
    "scan store": f"{STORE}; give the folder of the scans themselves",
    "prepare store --out NEW": f"{STORE}; give the folder of the scans themselves",
    "prepare run --out NEW": "run is a run of 'situs pretrain'",
    "observe store": "it has no run.json; it is a store of 'situs prepare'",
    "observe result": "it is a result of 'situs finetune', which the report of a run shows: situs "
    "observe RUN --transfer result",
    "observe absent": "absent does not exist",
    "compare result begun": "it is a result of 'situs finetune'",
    "check absent": "absent does not exist",
    "pretrain --resume absent": "absent does not exist",
    "pretrain --resume result": "it is a result of 'situs finetune'",
    "finetune --resume absent": "absent does not exist",
    "finetune --resume run": "it has no begun.json; it is a run of 'situs pretrain'",
    "finetune --resume data": "data holds no fine-tuning that can be resumed",
    "finetune --data store --out NEW": "column 'image'; it is a store of 'situs prepare'",
    "finetune --data data.zip --out NEW": "it is an archive: unpack it, and give the folder",
    "finetune --data absent --out NEW": "absent does not exist",
    "finetune --data data --init store --out NEW": "it is a store of 'situs prepare'. Give a run",
    "predict store data/images --out NEW": "store has no weights",
    "pretrain --data store --out store": "--out: store is a store of 'situs prepare'; choose",
    "pretrain --data store --out result --overwrite": "result is a result of 'situs finetune'",
    "scan data --out NEW.csv": "a catalog is a FILE.parquet or FILE.json, or a folder of both",
    "study data": "configuration file not found: data is a folder",
    "study tabs.yaml": "(a tab; YAML is indented by spaces) that cannot start any token in line 2",
    "study list.yaml": "list.yaml must hold settings, a line 'name: value' each, got a list",
    "study latin.yaml": "latin.yaml is no text in UTF-8",
    "embed run data/images --out NEW.csv": "--out: NEW.csv is written as Parquet; call it NEW.parq",
}


@pytest.mark.parametrize("call", CALLS)
def test_what_was_given_instead_is_named(
    call: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    said = here(Exit.REFUSED, *call.split())
    assert CALLS[call] in said
    assert said.count("error:") == 1
    assert not Path("NEW").exists()


def test_what_situs_made_among_scans_is_passed_over(place: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    shutil.copytree(place / "data" / "images", scans)
    for name in ("store", "run", "result"):
        shutil.copytree(place / name, scans / "mine" / name)
    (scans / "other").mkdir()
    (scans / "other" / "run.json").write_text("[1]")  # its name alone is anybody's
    found = discover([scans], common_root([scans]), workers=0, skip=[scans / "mine" / "run"])
    assert len(found.candidates) == 3
    assert set(found.passed_over) == {"mine/store", "mine/result"}, "nor is what was to be skipped"
    assert [refusal.path.name for refusal in found.refused] == ["run.json"]


def test_a_folder_that_is_somebody_elses_alone_ends_no_search() -> None:
    """As ``lost+found`` on a disk of scans."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        place, closed = Path(name), Path(name) / "closed"
        place.chmod(0o755)
        (place / "a.nii").touch()
        closed.mkdir(mode=0)
        try:
            if user == 0:  # who may look into everything
                os.seteuid(65534)
            with pytest.raises(PermissionError):
                os.stat(closed / "store.json")
            found = discover([place], place, workers=0)
        finally:
            os.seteuid(user)
            closed.chmod(0o700)
    assert [candidate.path for candidate in found.candidates] == ["a.nii"]


def test_an_archive_is_to_be_unpacked(place: Path) -> None:
    (refused,) = discover([place / "data.zip"], place, workers=0).refused
    assert "archive: unpack it" in str(refused)


def _excel(text: str) -> bytes:
    return codecs.BOM_UTF8 + text.replace(",", ";").replace("\n", "\r\n").encode()


WRITTEN: dict[str, Callable[[str], bytes]] = {
    "plain": str.encode,
    "with a byte order mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "semicolons": lambda text: text.replace(",", ";").encode(),
    "tabs": lambda text: text.replace(",", "\t").encode(),
    "line ends of Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "German Excel": _excel,
    "capitals": lambda text: text.replace("image,label", "Image,LABEL").encode(),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_tables_as_spreadsheets_write_them(how: str, place: Path) -> None:
    rows = [f"data/images/case-{i}.nii.gz,data/labels/case-{i}.nii.gz,p{i % 2}" for i in range(3)]
    file = place / f"{how}.csv"
    file.write_bytes(WRITTEN[how]("\n".join(["image,label,patient", *rows]) + "\n"))
    cases = open_dataset(file).cases
    assert [case.name for case in cases] == ["case-0", "case-1", "case-2"]
    assert [case.label for case in cases] == [
        place / f"data/labels/case-{i}.nii.gz" for i in range(3)
    ]
    assert len({case.group for case in cases}) == 2


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "its first line must name a column 'image', got an empty file"),
        (b"a.nii,b.nii\n", "its first line must name a column 'image', got a.nii, b.nii"),
        ("image,label\n".encode("utf-16"), "is not UTF-8 text; save it as 'CSV UTF-8'"),
    ],
)
def test_tables_that_are_none_say_what_is_missing(
    content: bytes, wanted: str, tmp_path: Path
) -> None:
    (tmp_path / "cases.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=wanted):
        open_dataset(tmp_path / "cases.csv")
