"""Several methods on one backbone: ``spatial+s2dc`` is a sum with weights, nothing more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.config import validate
from situs.errors import ConfigError
from situs.methods import method_class
from situs.methods.base import (
    Batch,
    Controls,
    Method,
    Nets,
    Network,
    Samples,
    StepResult,
    StepScore,
    weighted_sum,
)
from situs.methods.observing import control_values, reach
from situs.observation import Observation, Reach
from situs.views.source import Source

CompositionBatch = dict[str, Batch]

# A part that is solved would otherwise get a weight, and give a total, without limit.
_LEAST_VARIANCE = 0.01


@dataclass(frozen=True)
class Composition:
    """One or more methods that share a backbone; a single method is a composition of one.

    Attributes:
        parts: Method by name, in the order of the expression.
        weights: Weight of each part's total.
        uncertainty: Learn each part's weight, on top of ``weights``; see :func:`balance`.
    """

    parts: dict[str, Method]
    weights: dict[str, float]
    uncertainty: bool = False

    @property
    def name(self) -> str:
        """The expression, ``"spatial+s2dc"``."""
        return "+".join(self.parts)

    @property
    def spatial_dims(self) -> int:
        """Of the backbone that all parts train."""
        return next(iter(self.parts.values())).spatial_dims

    @property
    def input_size(self) -> tuple[int, ...]:
        """What the first part shows the network."""
        return next(iter(self.parts.values())).input_size

    @property
    def uses_teacher(self) -> bool:
        """Whether any part needs the averaged network."""
        return any(part.uses_teacher for part in self.parts.values())

    @property
    def item(self) -> str:
        """``"study"`` if any part looks at whole studies, else ``"scan"``."""
        return "study" if any(p.item == "study" for p in self.parts.values()) else "scan"

    def resolve_for_data(self, sources: Sequence[Source]) -> Composition:
        """Each part with the fields that were left to the data filled in."""
        return replace(self, parts={n: p.resolve_for_data(sources) for n, p in self.parts.items()})

    def resolve_for_backbone(self, backbone: Backbone) -> Composition:
        """Each part with the fields that were left to the backbone filled in, and checked."""
        return replace(
            self, parts={n: p.resolve_for_backbone(backbone) for n, p in self.parts.items()}
        )

    def options(self) -> dict[str, Any]:
        """The resolved configuration of each part."""
        return {name: part.config.model_dump(mode="json") for name, part in self.parts.items()}

    def about(self) -> dict[str, dict[str, Any]]:
        """Title, paper and formulas of each part, for whoever reads the run later."""
        return {
            name: {"title": part.title, "paper": part.paper, "formulas": part.formulas}
            for name, part in self.parts.items()
        }

    def sample(self, item: Sequence[Source], rng: np.random.Generator) -> CompositionBatch:
        """Each part's views of one item; parts draw from generators of their own.

        With each part's views goes ``scan``, which of the item's scans they were cut from.
        Views are not shared: no two parts look at the same input, and reading is a small part of a
        step (``benchmarks/sums.py``).
        """
        streams = rng.spawn(len(self.parts))
        return {
            name: part.sample_study(item, stream)
            for (name, part), stream in zip(self.parts.items(), streams, strict=True)
        }

    def build_heads(self, backbone: Backbone) -> nn.ModuleDict:
        """Heads of each part under its name; the learned weights under ``"uncertainty"``."""
        heads = nn.ModuleDict({n: p.build_heads(backbone) for n, p in self.parts.items()})
        if self.uncertainty:
            heads["uncertainty"] = nn.ParameterDict(
                {name: nn.Parameter(torch.zeros(())) for name in self.parts}
            )
        return heads

    def step(
        self,
        batch: CompositionBatch,
        student: Network,
        teacher: Network | None,
        generator: torch.Generator,
    ) -> StepResult:
        """All parts' terms; those of a true composition are named ``part/term``."""
        losses: dict[str, Tensor] = {}
        scores: dict[str, StepScore] = {}
        totals = []
        for name, part in self.parts.items():
            result = part.step(
                batch[name], _view(student, name), teacher and _view(teacher, name), generator
            )
            prefix = f"{name}/" if len(self.parts) > 1 else ""
            losses |= {prefix + k: v for k, v in result.losses.items() if prefix or k != "total"}
            scores |= {prefix + k: v for k, v in result.scores.items()}
            total = result.losses["total"]
            if self.uncertainty:
                learned: Tensor = getattr(student.heads.get_submodule("uncertainty"), name)
                total = balance(total - part.lower_bound, learned)
                scores[prefix + "learned_weight"] = StepScore(1 / variance(learned.detach()))
            totals.append((self.weights[name], total))
        return StepResult({**losses, "total": weighted_sum(totals)}, scores)

    def observe(
        self,
        batch: CompositionBatch,
        student: Network,
        teacher: Network | None,
        items: Sequence[Sequence[Source]],
        step: int,
        controls: CompositionControls | None = None,
        patients: Mapping[str, str] | None = None,
    ) -> dict[str, Observation]:
        """One observation a part; see :meth:`~situs.methods.base.Method.observe`."""
        return {
            name: part.observe(
                batch[name],
                *part_of(Nets(student, teacher), name),
                items,
                step,
                controls.part(name) if controls else None,
                patients,
            )
            for name, part in self.parts.items()
        }

    def control_values(
        self,
        batch: CompositionBatch,
        nets: Nets,
        items: Sequence[Sequence[Source]],
        controls: CompositionControls,
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Part → control → score → value; see :func:`~situs.methods.observing.control_values`."""
        return {
            name: control_values(
                part, Samples(batch[name], items), part_of(nets, name), controls.part(name)
            )
            for name, part in self.parts.items()
        }

    def reach(self, batch: CompositionBatch, nets: Nets) -> dict[str, tuple[Reach, ...]]:
        """Which share of the backbone each part's terms train; see :func:`observing.reach`."""
        return {
            name: reach(part, batch[name], part_of(nets, name)) for name, part in self.parts.items()
        }


@dataclass(frozen=True)
class CompositionControls:
    """See :class:`~situs.methods.base.Controls`; here of all parts.

    Attributes:
        batches: ``"emptied"`` and ``"shuffled"`` → the same samples without anatomy.
        untrained: Networks of fresh weights.
    """

    batches: Mapping[str, CompositionBatch] = field(default_factory=dict)
    untrained: Nets | None = None

    def part(self, name: str) -> Controls:
        """Those of one part."""
        return Controls(
            {kind: batch[name] for kind, batch in self.batches.items()},
            part_of(self.untrained, name) if self.untrained else None,
        )


def part_of(nets: Nets, name: str) -> Nets:
    """The shared backbone with one part's heads."""
    return Nets(_view(nets.student, name), nets.teacher and _view(nets.teacher, name))


def looked_at(views: Batch, items: Sequence[Sequence[Source]]) -> list[list[Source]]:
    """The scans that each sample of a part's views was cut from, each once.

    Args:
        views: Of a batch from :meth:`Composition.sample`.
        items: What its samples were drawn from.
    """
    return [
        [item[index] for index in dict.fromkeys(np.atleast_1d(indices).tolist())]
        for item, indices in zip(items, views["scan"].cpu().numpy(), strict=True)
    ]


def balance(excess: Tensor, learned: Tensor) -> Tensor:
    """A loss under a learned weight, excess / σ² + log σ² with σ² = exp(learned) + 0.01.

    Homoscedastic uncertainty (Kendall et al., arXiv 1705.07115, without the factor ½): for a
    constant loss the optimum is σ² = excess, whatever its scale. That needs a loss that is not
    negative, so each part counts from its :attr:`~situs.methods.base.Method.lower_bound`. The
    least variance is ours: it holds the weight below 100 and the balanced loss above a bound
    where a part comes close to its optimum.

    Args:
        excess: A part's total above its lower bound.
        learned: Logarithm of the variance above the least one.
    """
    return excess / variance(learned) + torch.log(variance(learned))


def variance(learned: Tensor) -> Tensor:
    """σ² of :func:`balance`; its inverse is the part's weight."""
    return torch.exp(learned) + _LEAST_VARIANCE


def compose(
    expression: str,
    options: Mapping[str, Any] | None = None,
    weights: Mapping[str, float] | None = None,
    uncertainty: bool = False,
) -> Composition:
    """Build what ``expression`` names: one method, or several joined by ``+``.

    Args:
        expression: For instance ``"spatial"`` or ``"spatial+s2dc"``.
        options: For a single method its own options, or in any case options under each
            method's name.
        weights: Weight of each part, 1 where absent.
        uncertainty: See :class:`Composition`.

    Raises:
        ConfigError: For unknown names or options, doubled parts, parts of different dimension,
            or weights that are not finite and positive.
    """
    classes = [method_class(name.strip()) for name in expression.split("+")]
    names = [cls.name for cls in classes]
    if len(set(names)) != len(names):
        raise ConfigError(f"'{expression}' names a method twice; each may stand once")
    options, weights = dict(options or {}), dict(weights or {})
    within = {name: f"options.{name}" for name in names}
    if len(names) == 1 and names[0] not in options:
        options = {names[0]: options}
        within = {names[0]: "options"}
    for what, given in (("options", options), ("weights", weights)):
        if strangers := set(given) - set(names):
            raise ConfigError(
                f"{what} for {sorted(strangers)}, but the method is '{expression}'; "
                f"{what} stand under the names {names}"
            )
    bad = {n: w for n, w in weights.items() if not (math.isfinite(w) and w > 0)}
    if bad:
        raise ConfigError(f"weights must be finite and positive, got {bad}")
    parts = {
        cls.name: cls(validate(cls.Config, options.get(cls.name) or {}, within[cls.name]))
        for cls in classes
    }
    dims = {name: part.spatial_dims for name, part in parts.items()}
    if len(set(dims.values())) > 1:
        raise ConfigError(f"methods of one composition must share a dimension, got {dims}")
    return Composition(parts, {n: weights.get(n, 1.0) for n in names}, uncertainty)


def _view(network: Network, part: str) -> Network:
    """The shared backbone with one part's heads."""
    return Network(network.backbone, network.heads.get_submodule(part))
