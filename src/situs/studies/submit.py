"""Queues jobs on SLURM that carry out a study together, by submitit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from situs.config import load_config
from situs.errors import ConfigError, require
from situs.studies.checks import check_settings
from situs.studies.config import StudyConfig

FOLDER = "slurm"
"""In the study's folder: submitit's scripts and logs."""


def submit(
    config: str | Path,
    jobs: int,
    *,
    overrides: Sequence[str] = (),
    parameters: Sequence[str] = (),
    cluster: str = "slurm",
) -> list[str]:
    """Queue jobs, each of which is ``situs study … --join`` on a machine of its own.

    They share the study's folder, which all machines must see, and end when nothing is left to do.

    Args:
        config: The study's YAML file.
        jobs: How many.
        overrides: ``key.path=value`` strings for the study.
        parameters: ``name=value`` as submitit takes them: ``timeout_min=600``,
            ``gpus_per_node=1``, ``slurm_partition=gpu``, ``cpus_per_task=8``, ``mem_gb=32``.
        cluster: ``"slurm"``, or submitit's ``"local"``: processes of this machine.

    Returns:
        The names of the queued jobs.

    Raises:
        ConfigError: If the study cannot be carried out, or a parameter is no ``name=value``.
        SitusError: If submitit is not installed.
    """
    require("submitit", "slurm")
    import submitit  # noqa: PLC0415 - optional

    study = load_config(StudyConfig, config, overrides)
    check_settings(study)
    given = {}
    for text in parameters:
        name, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(f"--slurm must look like name=value, got '{text}'")
        given[name] = yaml.safe_load(value)
    executor = submitit.AutoExecutor(folder=study.out.resolve() / FOLDER, cluster=cluster)
    executor.update_parameters(name="situs-study", **given)
    command = [sys.executable, "-m", "situs", "study", str(Path(config).resolve()), "--join"]
    for override in overrides:
        command += ["--set", override]
    queued = [executor.submit(submitit.helpers.CommandFunction(command)) for _ in range(jobs)]
    return [job.job_id for job in queued]
