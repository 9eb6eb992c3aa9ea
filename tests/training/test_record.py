"""Records of runs and results: those of early versions are read, damaged ones say which field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from situs.errors import RunError
from situs.report.folder import read_transfer
from situs.studies.jobs import Job, JobFolders
from situs.training.record import DataRecord, read_record
from situs.training.run import Run
from situs.transfer import Result


def write(file: Path, document: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))
    return file


def test_what_an_early_version_did_not_write_is_empty_and_what_a_later_one_wrote_is_kept(
    tmp_path: Path,
) -> None:
    write(tmp_path / "run.json", {"method": "spatial", "status": "finished"})
    write(
        tmp_path / "data.json",
        {"records": [{"key": "ab", "novel": 1}], "refused": [{"path": "x.nii", "message": "bad"}]},
    )
    run = Run.open(tmp_path)
    assert run.record.seed is None
    (row,), (refused,) = run.data.records, run.data.refused
    assert (row.key, row.held_out, row.shape) == ("ab", False, None)
    assert row.model_dump()["novel"] == 1
    assert (refused.source, refused.detail, refused.reason) == ("x.nii", "bad", "")
    folder = write(
        tmp_path / "r" / "result.json", {"init": "none", "split": {"train": ["a"]}}
    ).parent
    early = Result.open(folder)
    assert early.scratch
    assert (early.cases_of("train"), early.cases_of("test")) == (("a",), ())
    assert early.situs_version is None, "not the one that reads it"
    assert read_transfer(folder).labelled == 1
    early.save()
    assert Result.open(folder) == early


@pytest.mark.parametrize(
    ("name", "document", "field"),
    [
        ("run.json", {"seed": "many"}, "seed"),
        ("data.json", {"records": [{"shape": [1, 2]}]}, "records.0.shape.2"),
        ("r/result.json", {"split": {"train": 3}}, "split.train"),
    ],
)
def test_a_damaged_record_is_named_with_its_field(
    tmp_path: Path, name: str, document: dict[str, object], field: str
) -> None:
    file = write(tmp_path / name, document)
    read = {
        "run.json": lambda: Run(tmp_path).record,
        "data.json": lambda: Run(tmp_path).data,
        "r/result.json": lambda: Result.open(file.parent),
    }
    with pytest.raises(RunError, match=f"{name} is damaged .'{field}'"):
        read[name]()


def test_a_damaged_result_of_a_study_is_kept_aside_and_its_job_done_again(tmp_path: Path) -> None:
    job = Job("finetune", "one", {}, {})
    folders = JobFolders(tmp_path)
    file = write(folders.write(job) / "result.json", {"cases": [{"case": 3}]})
    with pytest.warns(UserWarning, match=r"cases\.0\.case.*done again"):
        assert folders.result(job) is None
    assert file.with_suffix(".json.damaged").is_file()
    write(file, {"cases": [{"case": "a", "dice": "0.5"}], "seconds": 2.0})
    found = JobFolders(tmp_path).result(job)
    assert found is not None
    assert (found.folder, found.seconds, found.situs) == (file.parent, 2.0, "unknown")


def test_absent_data_are_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_record(DataRecord, tmp_path / "data.json", "restore it")
