"""Carrying an encoder over to tasks with few labels."""

from __future__ import annotations

from situs.splits.split import Split
from situs.transfer.cases import Cohort, PreparedCase
from situs.transfer.config import Augmentation, FinetuneConfig
from situs.transfer.finetune import finetune
from situs.transfer.model import Model, Task
from situs.transfer.result import Result
from situs.transfer.splits import choose

__all__ = [
    "Augmentation",
    "Cohort",
    "FinetuneConfig",
    "Model",
    "PreparedCase",
    "Result",
    "Split",
    "Task",
    "choose",
    "finetune",
]
