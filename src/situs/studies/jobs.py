"""A job: one folder, named by the content of what it is asked to do."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from situs.errors import SitusError
from situs.files import sha256, write_json
from situs.training.record import Part, read_record

RESULT, JOB, LOG, RUN, COST = "result.json", "job.json", "log.txt", "run", "cost.json"
FAILED = "failed"
"""Empty; beside the log of a job that failed, until it is tried again."""

_AGAIN = "the job is done again, and the file kept as .damaged"

# How a job is carried out, not what it computes: another value must not cost a second run.
_FREE = {"out", "threads", "workers", "save_predictions", "save_model", "compression"}


@dataclass(frozen=True)
class Job:
    """One unit of work of a study.

    Attributes:
        kind: ``"store"``, ``"pretrain"``, ``"tune"`` or ``"finetune"``.
        title: Words for people, also the beginning of the folder's name.
        config: What situs is called with, without ``out``.
        identity: What the result depends on besides ``config``: the data's fingerprint, the keys
            of jobs it builds upon. Paths of such jobs inside ``config`` are replaced by their
            keys before hashing, so that a study folder can be moved.
        needs: Keys of jobs that must be done first.
        about: Arm, label count, seed and the like, for the tables.
    """

    kind: str
    title: str
    config: dict[str, Any]
    identity: dict[str, Any]
    needs: tuple[str, ...] = ()
    about: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"Job('{self.title}', {self.kind}, {self.key})"

    @cached_property
    def key(self) -> str:
        """Hash of everything that decides the result."""
        config = {k: v for k, v in self.config.items() if k not in _FREE and k not in self.identity}
        text = json.dumps(
            {"kind": self.kind, "config": config, "identity": self.identity},
            sort_keys=True,
            default=str,
        )
        return sha256(text, digits=12)

    @cached_property
    def name(self) -> str:
        """Of its folder."""
        slug = re.sub(r"[^A-Za-z0-9.+]+", "-", self.title).strip("-")
        return f"{self.kind}-{slug}-{self.key}"


class JobRecord(Part):
    """What a worker is told: ``job.json``.

    Attributes:
        kind: See :class:`Job`, as for the others.
        title: For people.
        key: That its folder is found by.
        config: What situs is called with, without ``out``.
        identity: What the result depends on besides.
        about: For the tables.
    """

    kind: str
    title: str
    key: str
    config: dict[str, Any]
    identity: dict[str, Any] = Field(default_factory=dict)
    about: dict[str, Any] | None = None


class JobResult(Part):
    """What a finished job left: ``result.json`` of its folder.

    Attributes:
        folder: Where it stands.
        scores: Of the run: means of a fine-tuning, or what a pretraining observed.
        cases: Rows of a fine-tuning's ``cases.csv``.
        explained: What controls say of a pretraining's scores, in words.
        rules: How a store was prepared; None of other jobs.
        refusals: Scans that a store could not use, and why.
        diverged: Whether the loss became infinite, or that of the pretraining which a trial or
            fine-tuning was to begin with.
        seconds: Wall time.
        cpu_seconds: Of all processes.
        peak_memory_mib: Of the largest process.
        gpu_memory_mib: None without a GPU.
        energy_kj: Of the processor packages; None where the machine does not tell.
        situs: Version that did it.
    """

    folder: Path = Path()
    scores: dict[str, float | None] = Field(default_factory=dict)
    cases: tuple[dict[str, str], ...] = ()
    explained: tuple[str, ...] = ()
    rules: dict[str, Any] | None = None
    refusals: tuple[str, ...] = ()
    diverged: bool = False
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_memory_mib: float | None = None
    gpu_memory_mib: float | None = None
    energy_kj: float | None = None
    situs: str = "unknown"


class JobFolders:
    """Where the jobs of a study stand.

    A folder is found again by its key, whatever the job was called when it was made: arms that
    share a pretraining share its folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        present = sorted(root.iterdir()) if root.is_dir() else []
        self._folders = {_identity(path.name): path for path in present if path.is_dir()}
        self._results: dict[str, JobResult] = {}
        self._unnoted: set[str] = set()

    def __repr__(self) -> str:
        return f"JobFolders('{self.root}', {len(self._folders)} folders)"

    def folder(self, job: Job) -> Path:
        """The folder of ``job``."""
        return self._folders.setdefault(_identity(job.name), self.root / job.name)

    def result(self, job: Job) -> JobResult | None:
        """What a finished job left; None while it is not done."""
        known = self._results.get(job.name)
        if known is None:
            file = self.folder(job) / RESULT
            if not file.is_file():
                return None
            try:
                known = read_record(JobResult, file, _AGAIN, folder=file.parent)
            except SitusError as error:
                warnings.warn(str(error), stacklevel=2)
                with suppress(FileNotFoundError):  # another process may do so as well
                    file.rename(file.with_suffix(".json.damaged"))
                return None
            self._results[job.name] = known
        return known

    def finished(self, kind: str) -> int:
        """Number of finished jobs of a kind, whatever they were asked to do."""
        return sum(
            (folder / RESULT).is_file()
            for (its_kind, _), folder in self._folders.items()
            if its_kind == kind
        )

    def note_failed(self, job: Job) -> None:
        """Keep that a job failed, for reports of later, until it is tried again."""
        try:
            (self.folder(job) / FAILED).touch()
        except OSError:  # of a full disk the job died, and others may still end
            self._unnoted.add(job.key)

    def failed(self, jobs: Iterable[Job]) -> list[str]:
        """Folders of those that failed when they were last tried."""
        undone = [(job.key, self.folder(job)) for job in jobs if self.result(job) is None]
        return [
            folder.name
            for key, folder in undone
            if key in self._unnoted or (folder / FAILED).exists()
        ]

    def write(self, job: Job) -> Path:
        """Make the folder with everything that a worker must know."""
        folder = self.folder(job)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILED).unlink(missing_ok=True)
        self._unnoted.discard(job.key)
        told = JobRecord.model_validate(job, from_attributes=True)
        write_json(folder / JOB, told.model_dump(mode="json"))
        return folder


def _identity(name: str) -> tuple[str, str]:
    """Kind and key from the name of a folder."""
    return name.split("-", 1)[0], name.rsplit("-", 1)[-1]
