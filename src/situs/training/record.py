"""``run.json``, ``data.json`` and ``result.json`` as typed records.

What a run is, where it stands and how it ended, which scans it saw, and what a fine-tuning reached.
What an early version did not write is empty; what a later one wrote besides is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from situs.errors import RunError
from situs.files import read_json


class Part(BaseModel):
    """A record or a part of one.

    Keeps what a later version may have added, and says nothing of what nobody wrote.
    """

    model_config = ConfigDict(extra="allow", frozen=True)


R = TypeVar("R", bound=Part)


def read_record(model: type[R], file: Path, remedy: str, **known: Any) -> R:
    """A record of situs's own, read from its file.

    Args:
        model: What it is.
        file: JSON.
        remedy: What to do if it is damaged.
        known: Fields that the file does not hold.

    Raises:
        FileNotFoundError: If there is no file.
        RunError: If a field is not what it should be; says which.
        SitusError: If the file is no JSON object.
    """
    return checked(model, {**read_json(file, remedy), **known}, file, remedy)


def checked(model: type[R], entries: Mapping[str, Any], file: Path, remedy: str) -> R:
    """A record of what ``file`` holds, or is going to hold.

    Raises:
        RunError: If a field is not what it should be; says which.
    """
    try:
        return model.model_validate(entries)
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise RunError(
            f"{file} is damaged ('{field}' is not what it should be); {remedy}"
        ) from None


class Hardware(Part):
    """What a run, or a part of it, was computed on.

    Attributes:
        machine: Its architecture.
        cores: Of its processors.
        threads: That torch took.
        gpus: Their names.
        torch: Its version.
    """

    machine: str = ""
    cores: int | None = None
    threads: int | None = None
    gpus: tuple[str, ...] = ()
    torch: str = ""


class About(Part):
    """What a method said of itself when the run began."""

    title: str = ""
    paper: str = ""
    formulas: dict[str, str] = Field(default_factory=dict)


class Resumed(Part):
    """A later part of a run."""

    started: str = ""
    situs_version: str = ""
    hardware: Hardware = Hardware()


class RunRecord(Part):
    """What a run's folder says of the run; what an early version did not write is None or empty.

    Version and hardware are those of the beginning; ``resumed`` has those of later parts.

    Attributes:
        situs_version: That began it.
        method: Short name, or names joined by ``+``.
        method_info: Of each part of a composition, by name.
        backbone: Its configuration.
        data_fingerprint: Of the store.
        seed: Of everything random.
        scans: In the store.
        training_items: Scans, or studies, that are trained on.
        held_out_items: Likewise held out.
        held_out_is_training: Whether too few were there to hold any out.
        hardware: At the beginning.
        status: ``"running"``, ``"finished"`` or ``"stopped"``.
        started: Local time, ISO 8601.
        slurm_job: Identifier of the job, under SLURM.
        init: The weights that it began with, as :class:`situs.weights.Beginning` writes them.
        resumed: One a later part.
        ended: ``"finished"``, ``"failed"``, ``"out of memory"``, ``"interrupted"`` or
            ``"terminated"``.
        stopped_by: Error or signal.
        step: Optimiser steps that were done.
        wall_seconds: Of training, over all parts.
        data_wait_share: Of that time, 0 to 1, for which the network waited for data.
        peak_memory_mib: Of the GPU where there is one, else of the first process.
        left_out: Scans, or studies, whose files became unreadable while it trained.
        held_out_left_out: Likewise of those that are only observed.
        requeued: Whether SLURM was asked to go on with it.
    """

    situs_version: str | None = None
    method: str | None = None
    method_info: dict[str, About] = Field(default_factory=dict)
    backbone: dict[str, Any] = Field(default_factory=dict)
    data_fingerprint: str | None = None
    seed: int | None = None
    scans: int | None = None
    training_items: int | None = None
    held_out_items: int | None = None
    held_out_is_training: bool = False
    hardware: Hardware = Hardware()
    status: str = "unknown"
    started: str = ""
    slurm_job: str | None = None
    init: dict[str, Any] | None = None
    resumed: tuple[Resumed, ...] = ()
    ended: str | None = None
    stopped_by: str | None = None
    step: int | None = None
    wall_seconds: float | None = None
    data_wait_share: float | None = None
    peak_memory_mib: int | None = None
    left_out: int | None = None
    held_out_left_out: int | None = None
    requeued: bool = False

    def __repr__(self) -> str:
        return f"RunRecord({self.method or 'unknown method'}, {self.status}, step {self.step or 0})"

    def document(self) -> dict[str, Any]:
        """What ``run.json`` holds: what was said, and nothing that was not."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True)


class ScanRow(Part):
    """A scan of a run: what the store recorded, and whether the run held it out.

    Attributes:
        key: Name in the store.
        source: File or folder, relative to the root of its catalog.
        origin: Hash of the scan's voxels and affine before preprocessing.
        modality: ``"MR"``, ``"CT"``, … or ``"unknown"``.
        shape: Voxels along each axis.
        spacing: Millimetres.
        description: Role words of the series.
        held_out: Whether it is only observed.
    """

    key: str = ""
    source: str = ""
    origin: str = ""
    modality: str = ""
    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    description: str = ""
    held_out: bool = False


class RefusedRow(Part):
    """A scan that a store refused.

    Attributes:
        source: File or folder, relative to the root of its catalog.
        reason: Stable code.
        detail: What was wrong, in words.
    """

    source: str = Field(
        "", validation_alias=AliasChoices("name", "source", "path", "key", "series")
    )
    reason: str = ""
    detail: str = Field("", validation_alias=AliasChoices("detail", "message"))


class DataRecord(Part):
    """The scans of a run, and what was refused: ``data.json``."""

    records: tuple[ScanRow, ...] = ()
    refused: tuple[RefusedRow, ...] = ()


class ResultRecord(Part):
    """A finished fine-tuning: ``result.json``.

    Attributes:
        task: ``"segmentation"`` or ``"classification"``.
        init: The weights it began with, or ``"none"``.
        method: Pretext task of those weights, or ``"none"``.
        scores: Means over test cases and classes; None where undefined.
        classes: The same for every class.
        split: ``train``, ``validation`` and ``test`` → names of cases.
        ledger: What was loaded, as :class:`situs.weights.Ledger` writes it; None for random
            initialisation.
        best_step: Whose weights were tested.
        validation_score: Theirs; None without validation cases.
        seconds: ``prepare``, ``train`` and ``test``.
        parameters: Numbers in the network, and how many of them were trained.
        situs_version: That wrote it.
    """

    task: str = "segmentation"
    init: str = "none"
    method: str = "none"
    scores: dict[str, float | None] = Field(default_factory=dict)
    classes: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    split: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    ledger: Any = None
    best_step: int | None = None
    validation_score: float | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    parameters: dict[str, int] = Field(default_factory=dict)
    situs_version: str | None = None

    @property
    def scratch(self) -> bool:
        """Whether it began with random weights."""
        return self.init == "none"

    def cases_of(self, part: str) -> tuple[str, ...]:
        """Names of the cases of ``train``, ``validation`` or ``test``."""
        return self.split.get(part, ())
