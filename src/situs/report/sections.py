"""One section a sub-task: its scores, breakdowns, figures and 3D scenes, through training time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from situs import text
from situs.observation import Observation, Panel, Score, Section, verdicts
from situs.report import figures, scene, tables
from situs.report.folder import RunFolder, Transfer
from situs.report.svg import Tile
from situs.scans.aliases import Names


@dataclass(frozen=True)
class Detail:
    """How much of a run a page holds.

    Attributes:
        steps: Observed steps shown, the first and the last among them.
        longest: Longest edge of embedded volumes, in voxels.
    """

    steps: int
    longest: int

    def pick(self, steps: Sequence[int]) -> list[int]:
        """The steps to show: the last, the first, and others evenly between them."""
        if len(steps) <= self.steps:
            return list(steps)
        if self.steps == 1:
            return [steps[-1]]
        at = {round(n * (len(steps) - 1) / (self.steps - 1)) for n in range(self.steps)}
        return [steps[n] for n in sorted(at)]


# Figures up to this width in pixels stand two in a row.
_SHARED_ROW = 450


@dataclass(frozen=True)
class PanelView:
    """A panel's figures: step → tiles."""

    title: str
    caption: str
    tiles: dict[int, list[Tile]]

    @property
    def broad(self) -> bool:
        """Whether its figures need a whole row; others share one."""
        widths = [sum(t.width for t in step if not t.wide) for step in self.tiles.values()]
        return max(widths, default=0) > _SHARED_ROW


@dataclass(frozen=True)
class TaskSection:
    """What the page shows of one sub-task.

    Attributes:
        id: Anchor.
        title: Heading.
        explanation: The question that the sub-task asks.
        steps: Steps that the slider offers.
        scores: Step → rows of the score table.
        breakdowns: By modality, spacing and scan, at the last step.
        panels: One of each kind, at every step.
        more: Further panels, at the last step only.
        scenes: For the viewer: title and step → scene, one a panel.
    """

    id: str
    title: str
    explanation: str
    steps: list[int]
    scores: dict[int, list[dict[str, Any]]]
    breakdowns: list[tables.Breakdown]
    panels: list[PanelView]
    more: list[PanelView]
    scenes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def lone(self) -> PanelView | None:
        """The narrow figure that no other one is left to stand beside."""
        narrow = [panel for panel in self.panels if not panel.broad]
        return narrow[-1] if len(narrow) % 2 else None

    @property
    def viewer(self) -> list[str]:
        """Titles of the scenes."""
        return [s["title"] for s in self.scenes]


def task_sections(run: RunFolder, detail: Detail, assets: scene.Assets) -> list[TaskSection]:
    """All sub-tasks of a run; ``assets`` takes the files that their scenes need."""
    history = {step: run.at(step) for step in detail.pick(run.steps)}
    return _sections(run.latest, history, run.names, assets)


def transfer_sections(transfer: Transfer, name: str, assets: scene.Assets) -> list[TaskSection]:
    """What a fine-tuning was seen to do, every case of it; ``name`` makes its anchors."""
    return [
        replace(
            section,
            id=_anchor(f"transfer-{name}-{section.id}"),
            panels=[*section.panels, *section.more],
            more=[],
        )
        for observation in transfer.observations
        for section in _sections(
            (observation,), {observation.step: (observation,)}, assets.names, assets
        )
    ]


def _sections(
    latest: Sequence[Observation],
    history: dict[int, tuple[Observation, ...]],
    names: Names,
    assets: scene.Assets,
) -> list[TaskSection]:
    return [
        _task(observation, section, history, names, assets, several=len(latest) > 1)
        for observation in latest
        for section in observation.sections
    ]


def score_rows(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Rows of a score table, as texts."""
    return [
        {
            "label": verdicts.label(s),
            "direction": verdicts.direction(s),
            "value": text.quantity(s.value, s.unit),
            "chance": text.quantity(s.chance, s.unit),
            "constant": text.quantity(s.constant, s.unit),
            "emptied": text.quantity(s.emptied, s.unit),
            "shuffled": text.quantity(s.shuffled, s.unit),
            "untrained": text.quantity(s.untrained, s.unit),
            "samples": len(s.samples),
            "verdict": verdicts.mark(s),
            "words": verdicts.judged(s),
            "explained": verdicts.explanation(s),
        }
        for s in scores
    ]


def _task(
    observation: Observation,
    section: Section,
    history: dict[int, tuple[Observation, ...]],
    names: Names,
    assets: scene.Assets,
    several: bool,
) -> TaskSection:
    past = {
        step: found
        for step, seen in history.items()
        if (found := _same(seen, observation.method, section.title)) is not None
    }
    last = max(past)
    leading = _leading(section.panels)
    title = f"{observation.method}: {section.title}" if several else section.title
    return TaskSection(
        id=_anchor(f"{observation.method}-{section.title}"),
        title=text.printable(title),
        explanation=text.printable(section.explanation),
        steps=sorted(past),
        scores={step: score_rows(s.scores) for step, s in past.items() if s.scores},
        breakdowns=tables.breakdowns(observation, section.scores, names),
        panels=[
            _view(section.panels[n], {step: _at(s, n, section) for step, s in past.items()}, names)
            for n in leading
        ],
        more=[
            _view(panel, {last: panel}, names)
            for n, panel in enumerate(section.panels)
            if n not in leading
        ],
        scenes=_scenes(section, past, leading, assets),
    )


def _same(seen: Sequence[Observation], method: str, title: str) -> Section | None:
    for observation in seen:
        if observation.method == method:
            for section in observation.sections:
                if section.title == title:
                    return section
    return None


def _leading(panels: Sequence[Panel]) -> list[int]:
    """The first panel of each kind (and style): those that every step is drawn for."""
    first: dict[tuple[str, str], int] = {}
    for n, panel in enumerate(panels):
        first.setdefault((panel.kind, getattr(panel, "style", "")), n)
    return sorted(first.values())


def _at(section: Section, index: int, like: Section) -> Panel | None:
    """The panel at the same place with the same kind, if that step has it."""
    if index < len(section.panels) and section.panels[index].kind == like.panels[index].kind:
        return section.panels[index]
    return None


def _view(panel: Panel, by_step: dict[int, Panel | None], names: Names) -> PanelView:
    title, caption = (names.within(html) for html in (panel.title, panel.caption))
    tiles = {
        step: figures.draw(replace(p, title=names.within(p.title)))
        for step, p in sorted(by_step.items())
        if p is not None
    }
    return PanelView(text.printable(title), text.printable(caption), tiles)


def _scenes(
    section: Section, past: dict[int, Section], leading: Sequence[int], assets: scene.Assets
) -> list[dict[str, Any]]:
    found = []
    for n, panel in enumerate(section.panels):
        steps = past if n in leading else {max(past): section}
        scenes = {}
        for step, at in steps.items():
            seen = _at(at, n, section)
            built = scene.build(seen, assets) if seen is not None else None
            if built is not None:
                scenes[str(step)] = built.document()
        if scenes:
            title = text.printable(assets.names.within(panel.title))
            found.append({"title": title, "steps": scenes})
    return found


def _anchor(html: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", html.lower()).strip("-") or "section"
