"""``run.json`` as a typed record: what a run is, where it stands, and how it ended."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    """Keeps what a later version may have added, and says nothing of what nobody wrote."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Hardware(_Part):
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


class About(_Part):
    """What a method said of itself when the run began."""

    title: str = ""
    paper: str = ""
    formulas: dict[str, str] = Field(default_factory=dict)


class Resumed(_Part):
    """A later part of a run."""

    started: str = ""
    situs_version: str = ""
    hardware: Hardware = Hardware()


class RunRecord(_Part):
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

    def document(self) -> dict[str, Any]:
        """What ``run.json`` holds: what was said, and nothing that was not."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True)
