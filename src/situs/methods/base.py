"""What a method is: views, heads, losses and an observation, in that order.

A method is stateless: everything that is trained lives in a :class:`Network`, so that the
teacher is simply an average of one, and a composition shares one backbone between methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.config import Config
from situs.observation import Observation
from situs.views.source import Source

Batch = dict[str, Tensor]


class Network(nn.Module):
    """What is trained, and what the teacher averages: one backbone and a method's heads."""

    def __init__(self, backbone: Backbone, heads: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads


@dataclass
class StepResult:
    """What one training step gives.

    Attributes:
        losses: Named scalar terms, weighted in ``total`` (which carries the gradient).
        scores: Cheap detached scalars in physical units for the progress bar.
    """

    losses: dict[str, Tensor]
    scores: dict[str, Tensor] = field(default_factory=dict)


class MethodConfig(Config):
    """Base of every method's configuration."""


class Method(ABC):
    """A pretext task.

    Class attributes:
        name: Registry and CLI name.
        paper: Where it was published.
        spatial_dims: Of the backbone it trains, 2 or 3.
        trains_decoder: Whether the loss reaches the backbone's decoder.
        uses_teacher: Whether :meth:`step` needs an averaged copy of the network.
        least_batch: Samples that one step needs, over all devices; 2 for methods whose samples
            are contrasted with each other.
        uses_position: Whether the task tells one side of the body from the other, so that
            mirrored scans in fine-tuning would undo what it taught.
        item: What :meth:`sample` looks at, one scan or all scans of a study.
        formulas: Term name → its formula in words or LaTeX-like text, for the report.
        terms: Names of the loss terms besides ``total``.
        monitor: Score whose value picks the best checkpoint.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str] = ""
    spatial_dims: int = 3
    trains_decoder: bool = False
    uses_teacher: bool = False
    least_batch: int = 1
    uses_position: ClassVar[bool] = False
    item: Literal["scan", "study"] = "scan"
    formulas: ClassVar[dict[str, str]] = {}
    monitor: ClassVar[str] = ""
    Config: ClassVar[type[MethodConfig]]

    def __init__(self, config: MethodConfig) -> None:
        self.config = config

    @property
    def lower_bound(self) -> float:
        """What ``total`` cannot fall below; 0 unless a term can be negative."""
        return 0.0

    def resolve_for_data(self, sources: Sequence[Source]) -> Self:
        """This method with every field that was left to the data filled in (sizes, lengths).

        The trainer calls it once before training and saves the result with the run.
        """
        del sources
        return self

    def resolve_for_backbone(self, backbone: Backbone) -> Self:
        """This method with every field that was left to the backbone filled in, and checked.

        The trainer calls it after :meth:`resolve_for_data`, before the first sample.

        Raises:
            ConfigError: If the method cannot train this backbone.
        """
        del backbone
        return self

    @abstractmethod
    def sample(self, item: Sequence[Source], rng: np.random.Generator) -> Batch:
        """The views of one training sample; runs in a worker, pure in (item, rng).

        Args:
            item: The scans looked at: one, or all of a study (see :attr:`item`).
            rng: The only source of randomness.

        Returns:
            Tensors without batch dimension and with shapes that do not depend on the scan, so
            that samples stack. A method that looks at studies names under ``scan`` the indices
            in ``item`` of the scans its views were cut from, ``(K,)``.
        """

    @abstractmethod
    def build_heads(self, backbone: Backbone) -> nn.Module:
        """Everything that is trained besides the backbone (queues and dustbins included)."""

    @abstractmethod
    def step(
        self,
        batch: Batch,
        student: Network,
        teacher: Network | None,
        generator: torch.Generator,
    ) -> StepResult:
        """Forward pass and losses of one batch.

        Args:
            batch: What :meth:`sample` gave, stacked: a leading batch dimension everywhere.
            student: Receives gradient.
            teacher: Moving average of the student, in ``no_grad``; None unless
                :attr:`uses_teacher`.
            generator: The step's only source of randomness (a CPU generator).
        """

    @abstractmethod
    def observe(
        self,
        batch: Batch,
        student: Network,
        teacher: Network | None,
        items: Sequence[Sequence[Source]],
        step: int,
    ) -> Observation:
        """Predictions beside truth on held-out samples, with scores, chance levels and panels.

        Runs in ``eval`` mode and without gradient. ``items[b]`` is what sample ``b`` of the
        batch was drawn from: one scan, or the study where :attr:`item` says so.
        """
