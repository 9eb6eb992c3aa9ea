"""Where the metrics of a run go besides its own files: Lightning's loggers, none by default."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from situs.errors import require

Name = Literal["wandb", "mlflow"]

# Neither reports to its makers how it is used.
_UNLESS_SET = {
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # a folder needs no server and no data base
}


def loggers(names: Sequence[Name], run: Path) -> list[Logger]:
    """TensorBoard, and what was asked for, each writing below the run folder.

    Nothing leaves the machine unless its owner says so: Weights & Biases is offline unless
    ``WANDB_MODE=online``, and MLflow writes to a folder unless ``MLFLOW_TRACKING_URI`` is set.

    Args:
        names: Which ones.
        run: The run folder; its name is the run's name there.

    Raises:
        SitusError: If one is not installed; names the extra.
    """
    made: list[Logger] = [TensorBoardLogger(run, name="", version="tensorboard")]
    for name, value in _UNLESS_SET.items():
        os.environ.setdefault(name, value)
    for name in names:
        require(name, name)
        made.append(_wandb(run) if name == "wandb" else _mlflow(run))
    return made


def finish(made: Iterable[Logger]) -> None:
    """End what a training began, so that the next one in this process does not go on in it."""
    for logger in made:
        if isinstance(logger, WandbLogger) and logger._experiment is not None:
            logger._experiment.finish()


def _wandb(run: Path) -> Logger:
    online = os.environ.get("WANDB_MODE") == "online"
    os.environ.setdefault("WANDB_SILENT", "true")
    return WandbLogger(name=run.name, project="situs", save_dir=run, offline=not online)


def _mlflow(run: Path) -> Logger:
    address = os.environ.get("MLFLOW_TRACKING_URI") or (run.resolve() / "mlflow").as_uri()
    return MLFlowLogger(experiment_name="situs", run_name=run.name, tracking_uri=address)
