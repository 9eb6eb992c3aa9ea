"""Hold a study, and whatever other folder situs writes, against what was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from situs.config import read_whole_yaml
from situs.errors import Fault, SitusError
from situs.files import read_json
from situs.places import spelled, url_of
from situs.scans.aliases import MAPPING
from situs.store import Store
from situs.store.check import check_store
from situs.studies.config import DECIDES
from situs.studies.jobs import COST, JOB, RESULT, RUN
from situs.tables import read_csv
from situs.training.check import check_run, check_weights, tried
from situs.transfer.check import check_predictions, check_result
from situs.transfer.folder import BEGUN
from situs.transfer.predict import RECORD
from situs.transfer.result import RESULT as RESULT_OF_FINETUNING
from situs.weights.weights import CARD

Progress = Callable[[int, int], None]

STUDY = "study.yaml"
_AGAIN = "delete it: 'situs study' makes it anew"
_TABLE = "'situs study --only-report' writes it anew"
_CACHES = ("cases.json", "cases-unlabelled.json", "unlabelled.json")


def check_folder(path: Path, progress: Progress | None = None) -> list[Fault]:
    """What is damaged or missing in a folder that situs wrote, of whichever kind it is.

    Args:
        path: A store, a run, a result, predictions, a study, or weights.
        progress: Told how many of how many scans of a store, or jobs of a study, are done.

    Raises:
        SitusError: If it is none of these.
    """
    if Store.is_store(path):
        return check_store(path, progress)
    if (path / "run.json").is_file():
        return check_run(path, progress)
    if (path / STUDY).is_file():
        return check_study(path, progress)
    if any((path / name).is_file() for name in (RESULT_OF_FINETUNING, BEGUN)):
        return check_result(path)
    if (path / RECORD).is_file():
        return check_predictions(path)
    if (path / CARD).is_file():
        return check_weights(path)
    if url_of(path) is None and not path.exists():
        raise SitusError(f"{spelled(path)} does not exist")
    raise SitusError(
        f"{spelled(path)} is nothing that can be checked: no store.json, run.json, {STUDY}, "
        f"{RESULT_OF_FINETUNING}, {BEGUN}, {RECORD} or {CARD}"
    )


def check_study(path: Path, progress: Progress | None = None) -> list[Fault]:
    """What is damaged or missing in a study: its own files, and the folders of its jobs.

    Args:
        path: Its folder.
        progress: Told how many of how many jobs are done.
    """
    faults = [*tried(path / STUDY, lambda: read_whole_yaml(path / STUDY, "bootstrap"))]
    for name in (*_CACHES, "split.json", DECIDES):
        remedy = _TABLE if name == "split.json" else _AGAIN
        faults += _document(path / name, remedy)
    for table in sorted(path.glob("*.csv")):
        faults += tried(table, lambda table=table: _table(table))  # type: ignore[misc]
    jobs = sorted(job for job in (path / "jobs").glob("*") if job.is_dir())
    for number, job in enumerate(jobs, 1):
        faults += _job(job)
        if progress is not None:
            progress(number, len(jobs))
    return faults


def _job(folder: Path) -> list[Fault]:
    """A job's own files, and what it made; one that was never begun holds nothing yet."""
    faults = _document(folder / RESULT, f"{_AGAIN}; the job is done again")
    faults += _document(folder / JOB, _AGAIN) + _document(folder / COST, _AGAIN)
    made = folder / RUN
    try:
        return faults + (check_folder(made) if made.is_dir() else [])
    except SitusError as error:
        # A job that was killed in its first moments begins again; a finished one must hold its run.
        lost = Fault(str(made), f"{error}. Delete the folder {folder}: the job is done again")
        return faults + ([lost] if (folder / RESULT).is_file() else [])


def _document(file: Path, remedy: str) -> list[Fault]:
    return [*tried(file, lambda: read_json(file, remedy))] if file.is_file() else []


def _table(file: Path) -> None:
    content = file.read_bytes()
    if content.strip() or not content:  # one of no rows is a line break
        read_csv(file, _TABLE, "id" if file.name == MAPPING else "arm")
