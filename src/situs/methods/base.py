"""What a method says, and what is done once for all methods.

A method says what it looks at (:meth:`Method.sample`), what it trains (:meth:`Method.heads`), what
it minimises (:meth:`Method.losses`), what it measures (:meth:`Method.predict` and
:meth:`Method.measure`) and what it shows (:meth:`Method.sections`). The weighted total, the scores
of a step, and the held-out observation with its references and monitors are made here and in
:mod:`situs.methods.observing`.

A method is stateless: everything that is trained lives in a :class:`Network`, so that the
teacher is simply an average of one, and a composition shares one backbone between methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.methods.config import MethodConfig
from situs.methods.measured import Measured
from situs.observation import Observation, Score, Section
from situs.views.source import Source

Batch = dict[str, Tensor]


class Network(nn.Module):
    """What is trained, and what the teacher averages: one backbone and a method's heads.

    Attributes:
        heads: What :meth:`Method.heads` built; typed by whoever takes them out.
    """

    heads: Any

    def __init__(self, backbone: Backbone, heads: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads


class Nets(NamedTuple):
    """The network that receives gradient, and its moving average where the method uses one."""

    student: Network
    teacher: Network | None = None


@dataclass(frozen=True)
class StepScore:
    """A cheap score of one training step: a detached scalar, its unit, and which way is better.

    ``better`` is None for what is watched but is neither better nor worse.
    """

    value: Tensor
    unit: str = ""
    better: Literal["lower", "higher"] | None = None


@dataclass(frozen=True)
class Losses:
    """What a method minimises in one step: named scalar terms, unweighted, and cheap scores."""

    terms: dict[str, Tensor]
    scores: dict[str, StepScore] = field(default_factory=dict)


@dataclass(frozen=True)
class StepResult:
    """What one training step gives.

    Attributes:
        losses: Named scalar terms, and ``total``, their weighted sum, which carries the gradient.
        scores: For the progress bar and the metrics file.
    """

    losses: dict[str, Tensor]
    scores: dict[str, StepScore] = field(default_factory=dict)


def weighted_sum(terms: Iterable[tuple[float, Tensor]]) -> Tensor:
    """Sum of weights × scalars; a weight of 1 costs a device nothing."""
    return reduce(torch.add, [term if weight == 1 else weight * term for weight, term in terms])


class Samples(NamedTuple):
    """Held-out samples and where they came from.

    Attributes:
        batch: What :meth:`Method.sample` gave, stacked.
        items: What each sample was drawn from: the scans of a study, or a single one.
    """

    batch: Batch
    items: Sequence[Sequence[Source]]

    def sources(self, sample: int) -> list[Source]:
        """The scan behind each view of a sample; one where all its views share it."""
        item = self.items[sample]
        if "scan" not in self.batch:
            return [item[0]]
        return [item[index] for index in np.atleast_1d(self.batch["scan"][sample].cpu()).tolist()]

    @property
    def scans(self) -> list[Source]:
        """The scan that each sample goes by, that of its first view."""
        return [self.sources(sample)[0] for sample in range(len(self.items))]


class Scores(dict[str, Score]):
    """The scores of an observation by name, in the order in which they were measured."""

    def of(self, *names: str) -> tuple[Score, ...]:
        """Those of ``names`` that were measured."""
        return tuple(self[name] for name in names if name in self)


@dataclass(frozen=True)
class Controls:
    """What the trained network is held against, besides chance and the best constant.

    Attributes:
        batches: ``"emptied"`` and ``"shuffled"`` → the same samples, drawn with the same generator
            from scans without anatomy.
        untrained: Networks of fresh weights.
    """

    batches: Mapping[str, Batch] = field(default_factory=dict)
    untrained: Nets | None = None


class Method(ABC):
    """A pretext task.

    Class attributes:
        name: Registry and CLI name.
        title: Heading of a report on it.
        paper: Where it was published.
        shows: Setting that says how large a view the network is shown.
        spatial_dims: Of the backbone it trains, 2 or 3; that of what is shown once it is known.
        trains_decoder: Whether the loss reaches the backbone's decoder.
        uses_teacher: Whether :meth:`losses` needs an averaged copy of the network.
        least_batch: Samples that one step needs, over all devices; 2 for methods whose samples
            are contrasted with each other.
        uses_position: Whether the task tells one side of the body from the other, so that
            mirrored scans in fine-tuning would undo what it taught.
        item: What is looked at, one scan (:meth:`sample`) or all scans of a study
            (:meth:`sample_study`).
        formulas: Term name → its formula in words or LaTeX-like text, for the report.
        monitor: Score whose value picks the best checkpoint.
        watched: What :meth:`features` gives, in words.
        remedy: What to change where those features collapse, as a clause.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str] = ""
    shows: ClassVar[str] = ""
    spatial_dims: int = 3
    trains_decoder: bool = False
    uses_teacher: bool = False
    least_batch: int = 1
    uses_position: ClassVar[bool] = False
    item: Literal["scan", "study"] = "scan"
    formulas: ClassVar[dict[str, str]] = {}
    monitor: str = ""
    watched: ClassVar[str] = "features"
    remedy: ClassVar[str] = "lower the learning rate, or train on more scans at once"
    Config: ClassVar[type[MethodConfig]]

    def __init__(self, config: MethodConfig) -> None:
        self.config = config
        if size := self.input_size:
            self.spatial_dims = len(size)

    @property
    def lower_bound(self) -> float:
        """What ``total`` cannot fall below; 0 unless a term can be negative."""
        return 0.0

    @property
    def input_size(self) -> tuple[int, ...]:
        """Voxels along each axis of what the network is shown; empty until it is known."""
        return (getattr(self.config, self.shows) if self.shows else None) or ()

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

    # What it looks at.

    def sample(self, scan: Source, rng: np.random.Generator) -> Batch:
        """Draw the views of one training sample; runs in a worker, pure in (scan, rng).

        Args:
            scan: What is looked at. A method that looks at studies takes it for a study of one.
            rng: The only source of randomness.

        Returns:
            Tensors without batch dimension and with shapes that do not depend on the scan, so
            that samples stack.

        Raises:
            NotImplementedError: If a method of scans does not define it.
        """
        if self.item == "scan":
            raise NotImplementedError(f"'{self.name}' must define sample(scan, rng)")
        return self.sample_study([scan], rng)

    def sample_study(self, scans: Sequence[Source], rng: np.random.Generator) -> Batch:
        """Draw the views of one sample of a study; pure in (scans, rng).

        A method that looks at single scans takes one of them.

        Args:
            scans: All scans of the study.
            rng: The only source of randomness.

        Returns:
            As of :meth:`sample`, and ``scan``, the indices in ``scans`` of the scans that the
            views were cut from, ``(K,)`` or a single one.

        Raises:
            NotImplementedError: If a method of studies does not define it.
        """
        if self.item == "study":
            raise NotImplementedError(f"'{self.name}' must define sample_study(scans, rng)")
        index = int(rng.integers(len(scans))) if len(scans) > 1 else 0
        return {**self.sample(scans[index], rng), "scan": torch.tensor(index)}

    # What it trains.

    @abstractmethod
    def heads(self, backbone: Backbone) -> nn.Module:
        """Everything that is trained besides the backbone (queues and dustbins included)."""

    def build_heads(self, backbone: Backbone) -> nn.Module:
        """The :meth:`heads`, once the backbone is known to take what it will be shown.

        Raises:
            ConfigError: If the input size does not fit the backbone, or the heads cannot be built.
        """
        if self.input_size:
            backbone.check_size(self.input_size)
        return self.heads(backbone)

    @abstractmethod
    def losses(self, batch: Batch, nets: Nets, generator: torch.Generator) -> Losses:
        """Forward pass and unweighted loss terms of one batch.

        Terms of weight 0 need not be there; see :meth:`wants`.

        Args:
            batch: What :meth:`sample` gave, stacked: a leading batch dimension everywhere.
            nets: The student receives gradient; the teacher is there if :attr:`uses_teacher`.
            generator: The step's only source of randomness (a CPU generator), the same in all
                processes: draw for the samples of all, and take this process's
                :func:`~situs.methods.distributed.share`.
        """

    def wants(self, *terms: str) -> bool:
        """Whether any of ``terms`` has a weight above 0."""
        return any(self.config.weight(term) > 0 for term in terms)

    def step(
        self,
        batch: Batch,
        student: Network,
        teacher: Network | None,
        generator: torch.Generator,
    ) -> StepResult:
        """Forward pass, loss terms and their weighted total; see :meth:`losses`."""
        found = self.losses(batch, Nets(student, teacher), generator)
        total = weighted_sum((self.config.weight(n), term) for n, term in found.terms.items())
        return StepResult({**found.terms, "total": total}, found.scores)

    # What it says of held-out samples; in ``eval`` mode and without gradient.

    @abstractmethod
    def predict(self, batch: Batch, nets: Nets) -> Any:
        """Everything that :meth:`measure` and :meth:`sections` need from the networks.

        It is also asked of scans without anatomy, so it takes no truth from the images.
        """

    @abstractmethod
    def measure(self, samples: Samples, predicted: Any) -> list[Measured]:
        """Predictions beside truth: one value a sample, with unit, direction and references.

        Args:
            samples: What was sampled, and the scans.
            predicted: Of :meth:`predict`, for these samples or for the same ones without anatomy.
        """

    def features(self, predicted: Any) -> Tensor | None:
        """Features ``(N, D)`` that are watched for collapse, by default those predicted."""
        return getattr(predicted, "features", None)

    def sections(
        self, samples: Samples, predicted: Any, nets: Nets, scores: Scores
    ) -> list[Section]:
        """The report's sections, with scores and panels; nothing is drawn.

        Scores that stand in no section are added to the last one.
        """
        del samples, predicted, nets, scores
        return [Section(self.title, "")]

    def warnings(
        self, samples: Samples, predicted: Any, scores: Scores, step: int
    ) -> tuple[str, ...]:
        """Plain-language warnings of this method, each with what to try."""
        del samples, predicted, scores, step
        return ()

    def observe(
        self,
        batch: Batch,
        student: Network,
        teacher: Network | None,
        items: Sequence[Sequence[Source]],
        step: int,
        controls: Controls | None = None,
        patients: Mapping[str, str] | None = None,
    ) -> Observation:
        """Predictions beside truth on held-out samples, with scores, references and panels.

        Args:
            batch: What was sampled, stacked.
            student: In ``eval`` mode.
            teacher: Its average, where there is one.
            items: What sample ``b`` was drawn from: the scans of a study, or a single one.
            step: Optimiser steps done.
            controls: The same samples without anatomy, and an untrained network.
            patients: Patient by the key of a scan; its study, or itself, where absent.
        """
        from situs.methods.observing import assemble  # noqa: PLC0415 - it needs this class

        samples = Samples(batch, items)
        return assemble(self, samples, Nets(student, teacher), step, controls, patients or {})
