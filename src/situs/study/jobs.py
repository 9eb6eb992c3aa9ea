"""A job: one folder, named by the content of what it is asked to do."""

from __future__ import annotations

import json
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from situs.errors import SitusError
from situs.files import read_json, sha256, write_json

RESULT, JOB, LOG, RUN, COST = "result.json", "job.json", "log.txt", "run", "cost.json"

# How a job is carried out, not what it computes: another value must not cost a second run.
_FREE = {"out", "threads", "workers", "save_predictions", "save_model"}


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


class JobFolders:
    """Where the jobs of a study stand.

    A folder is found again by its key, whatever the job was called when it was made: arms that
    share a pretraining share its folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        present = sorted(root.iterdir()) if root.is_dir() else []
        self._folders = {_identity(path.name): path for path in present if path.is_dir()}
        self._results: dict[str, dict[str, Any]] = {}

    def folder(self, job: Job) -> Path:
        """The folder of ``job``."""
        return self._folders.setdefault(_identity(job.name), self.root / job.name)

    def result(self, job: Job) -> dict[str, Any] | None:
        """What a finished job left, with its ``folder``; None while it is not done."""
        known = self._results.get(job.name)
        if known is None:
            file = self.folder(job) / RESULT
            if not file.is_file():
                return None
            try:
                known = read_json(file, "the job is done again, and the file kept as .damaged")
            except SitusError as error:
                warnings.warn(str(error), stacklevel=2)
                with suppress(FileNotFoundError):  # another process may do so as well
                    file.rename(file.with_suffix(".json.damaged"))
                return None
            known["folder"] = str(file.parent)
            self._results[job.name] = known
        return known

    def write(self, job: Job) -> Path:
        """Make the folder with everything that a worker must know."""
        folder = self.folder(job)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(
            folder / JOB,
            {
                "kind": job.kind,
                "title": job.title,
                "key": job.key,
                "config": job.config,
                "identity": job.identity,
                "about": job.about,
            },
        )
        return folder


def _identity(name: str) -> tuple[str, str]:
    """Kind and key from the name of a folder."""
    return name.split("-", 1)[0], name.rsplit("-", 1)[-1]
