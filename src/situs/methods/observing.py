"""The held-out observation, assembled once for all methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from situs.methods.base import Batch, Controls, Method, Nets, Samples, Scores
from situs.methods.measured import Measured
from situs.methods.monitors import collapse_warnings, effective_rank, feature_variance
from situs.observation import Observation, Reach, Score, Section

_MAX_ROWS = 4096  # an SVD of all positions of all slices would take longer than a step
_LEAST_REACH = 90.0  # % of the encoder
_LEAST_ROWS = 3  # of fewer features none can be said to have collapsed


def assemble(
    method: Method,
    samples: Samples,
    nets: Nets,
    step: int,
    controls: Controls | None,
    patients: Mapping[str, str],
) -> Observation:
    """Scores with all their references, sections, monitors and warnings of held-out samples.

    Args:
        method: Says what is measured and shown.
        samples: What was sampled, and from where.
        nets: In ``eval`` mode.
        step: Optimiser steps done.
        controls: See :meth:`~situs.methods.base.Method.observe`.
        patients: Patient by the key of a scan.
    """
    predicted = method.predict(samples.batch, nets)
    measured = method.measure(samples, predicted)
    found = control_values(method, samples, nets, controls) if controls else {}
    scans = samples.scans
    groups = _numbered([patients.get(s.key) or s.study or s.key for s in scans])
    scores = Scores(
        {
            m.name: m.score(groups, **{kind: of.get(m.name) for kind, of in found.items()})
            for m in measured
        }
    )
    watched, collapse = _watch(method, method.features(predicted))
    scores |= watched
    return Observation(
        method=method.name,
        step=step,
        sections=_complete(method.sections(samples, predicted, nets, scores), scores),
        warnings=(*collapse, *method.warnings(samples, predicted, scores, step)),
        scans=tuple(scan.key for scan in scans),
        modalities=tuple(scan.modality for scan in scans),
        spacings=tuple(scan.spacing for scan in scans),
    )


def control_values(
    method: Method, samples: Samples, nets: Nets, controls: Controls
) -> dict[str, dict[str, float]]:
    """What the controls give of the same samples: control → score → value.

    The networks look at scans without anatomy, but what they say is measured by the real samples:
    sampling and geometry are the same, and where the task asks for content, the truth is the real
    scan's.
    """
    looked_at = {kind: (batch, nets) for kind, batch in controls.batches.items()}
    if controls.untrained is not None:
        looked_at["untrained"] = (samples.batch, controls.untrained)
    return {
        kind: values(method.measure(samples, method.predict(batch, of)))
        for kind, (batch, of) in looked_at.items()
    }


def values(measured: Sequence[Measured]) -> dict[str, float]:
    """Score → value."""
    return {m.name: m.overall for m in measured}


def _watch(method: Method, features: Tensor | None) -> tuple[dict[str, Score], tuple[str, ...]]:
    """Spread and rank of features as scores, and warnings where they collapse."""
    if features is None:
        return {}, ()
    rows = features[:: max(1, len(features) // _MAX_ROWS)]
    variance, rank = float(feature_variance(rows)), float(effective_rank(rows))
    scores = {
        "feature_variance": Score(
            "feature_variance",
            variance,
            "",
            "higher",
            collapsed=0.0,
            label=f"variance of {method.watched} (0 collapsed, 1 spread)",
        ),
        "feature_rank": Score(
            "feature_rank",
            rank,
            "",
            "higher",
            collapsed=1.0,
            label=f"directions used by {method.watched} ({len(rows)} looked at)",
        ),
    }
    if len(features) < _LEAST_ROWS:
        return scores, ()
    return scores, collapse_warnings(variance, rank, method.remedy)


def _complete(sections: Sequence[Section], scores: Scores) -> tuple[Section, ...]:
    """Sections with the scores that stand in none of them added to the last one."""
    placed = {score.name for section in sections for score in section.scores}
    rest = tuple(score for name, score in scores.items() if name not in placed)
    *before, last = sections
    return (*before, replace(last, scores=(*last.scores, *rest)))


def _numbered(names: Sequence[str]) -> tuple[int, ...]:
    """Names as numbers, in the order of their first appearance."""
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return tuple(order[name] for name in names)


def reach(method: Method, batch: Batch, nets: Nets) -> tuple[Reach, ...]:
    """Share of the encoder's and of the decoder's parameters that each loss term trains.

    A parameter tensor counts with all its entries if the term's gradient is not zero everywhere
    in it. Runs in every process of a distributed training, since losses may gather.

    Args:
        method: Of the losses.
        batch: A few samples.
        nets: In ``eval`` mode; no gradient is left in them.

    Returns:
        One a term, and ``total``, of all terms together.
    """
    backbone = nets.student.backbone
    parts = [
        [p for p in m.parameters() if p.requires_grad] for m in (backbone.encoder, backbone.decoder)
    ]
    reached: dict[str, list[list[bool]]] = {}
    with torch.enable_grad():
        terms = method.losses(batch, nets, torch.Generator().manual_seed(0)).terms
        for name, term in terms.items():
            reached[name] = [_touched(term, part) for part in parts]
    reached["total"] = [
        [any(each) for each in zip(*(of[n] for of in reached.values()), strict=True)]
        for n in range(2)
    ]
    return tuple(
        Reach(name, _share(of[0], parts[0]), _share(of[1], parts[1]))
        for name, of in reached.items()
    )


def reach_warnings(found: Sequence[Reach]) -> tuple[str, ...]:
    """Says so where the loss leaves more than a tenth of the encoder untrained."""
    return tuple(
        f"the loss reaches only {total.encoder:.0f} % of the encoder's parameters: the rest keeps "
        "its first weights, and whoever loads the encoder gets them. Take tokens or vectors from "
        "a coarser scale, or a backbone with fewer scales"
        for total in found
        if total.term == "total" and total.encoder < _LEAST_REACH
    )


def _touched(term: Tensor, parameters: Sequence[Tensor]) -> list[bool]:
    if not term.requires_grad or not parameters:
        return [False] * len(parameters)
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return [g is not None and bool((g != 0).any()) for g in gradients]


def _share(touched: Sequence[bool], parameters: Sequence[Tensor]) -> float:
    sizes = [p.numel() for p in parameters]
    return 100 * sum(s for s, t in zip(sizes, touched, strict=True) if t) / max(1, sum(sizes))
