"""View planning with a trained run: find its network, its data or new studies, and plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from situs.catalog.catalog import Catalog, build_catalog
from situs.config import validate
from situs.errors import RunError, ScanRefused
from situs.methods.base import Network
from situs.methods.planes import Planes, PlanesConfig
from situs.planning.planner import RolePlan, plan_study
from situs.store import Preprocessing, Store, preprocess
from situs.training.run import Run
from situs.views import ArraySource
from situs.views.source import Source
from situs.weights import load_card, load_encoder, load_part

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Planner:
    """A trained network and what it was trained with.

    Attributes:
        network: In ``eval`` mode.
        config: Of the method.
        preprocessing: Preprocessing that new scans must go through.
    """

    network: Network
    config: PlanesConfig
    preprocessing: Preprocessing

    @classmethod
    def load(cls, run: Run) -> Planner:
        """The network of a run, heads included.

        Raises:
            RunError: If the run did not train ``planes``, or left no heads.
        """
        options = run.config["options"].get("planes")
        if options is None:
            raise RunError(
                f"{run.path} was trained with '{run.config['method']}'; planes are planned by a "
                "run of 'situs pretrain --method planes'"
            )
        method = Planes(validate(PlanesConfig, options))
        card, heads = load_card(run.path), load_part(run.path, "heads")
        if heads is None:
            raise RunError(f"{run.path} has no heads.safetensors beside its encoder; train it anew")
        backbone = load_encoder(run.path)
        network = Network(backbone, method.build_heads(backbone))
        prefix = "planes."
        mine = {k.removeprefix(prefix): v for k, v in heads.items() if k.startswith(prefix)}
        network.heads.load_state_dict(mine)
        return cls(network.eval(), method.config, validate(Preprocessing, card.preprocessing))


def plan(
    run: str | Path,
    paths: Sequence[str | Path] = (),
    roles: Sequence[str] = (),
    views: int = 12,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[RolePlan]:
    """Plan the planes of studies, and compare them with the acquired ones where there are any.

    Args:
        run: Of ``situs pretrain --method planes``.
        paths: A store, a catalog, or files and folders of scans; by default the run's own
            held-out scans.
        roles: Targets; all by default.
        views: Slices looked at in each study.
        seed: Of the slices that virtual studies are cut into.
        progress: Told how many studies of how many are done.

    Raises:
        RunError: If the run cannot be used.
        ScanRefused: If no scan can be read.
    """
    opened = Run.open(run)
    planner = Planner.load(opened)
    studies = list(
        _held_out(opened) if not paths else prepared_studies(paths, planner.preprocessing)
    )
    plans: list[RolePlan] = []
    for number, study in enumerate(studies):
        rng = np.random.default_rng([seed, number])
        plans += plan_study(planner.network, planner.config, study, roles, views, rng)
        if progress is not None:
            progress(number + 1, len(studies))
    return plans


def _held_out(run: Run) -> Iterator[list[Source]]:
    held_out = {row.key for row in run.data.records if row.held_out}
    data = run.config["data"]
    places = [run.path / "store", *map(Path, [data] if isinstance(data, str) else data)]
    store = next((p for p in places if Store.is_store(p)), None)
    if store is None:
        raise RunError(
            f"the store that {run.path} was trained on is not at {', '.join(map(str, places[1:]))} "
            "(as seen from here); give its path, or those of scans"
        )
    for study in Store.open(store).studies():
        if any(scan.key in held_out for scan in study):
            yield [*study]


def prepared_studies(
    paths: Sequence[str | Path], preprocessing: Preprocessing
) -> Iterator[list[Source]]:
    """Scans of each study, from a store or prepared in memory, one study at a time.

    Yields:
        The scans of a study.

    Raises:
        ScanRefused: If a scan cannot be read or used.
    """
    first = Path(paths[0])
    if len(paths) == 1 and Store.is_store(first):
        for study in Store.open(first).studies():
            yield [*study]
        return
    catalog = open_catalog(paths)
    if not catalog.accepted:
        refused = catalog.refused[0] if catalog.refused else None
        reason = refused.reason if refused else "not-an-image"
        raise ScanRefused(reason, first, refused.detail if refused else "no scan found here")
    groups: dict[str, list[Source]] = {}
    for entry in catalog.accepted:
        scan = catalog.read(entry)
        prepared = preprocess(scan, preprocessing)
        source = ArraySource(
            prepared.array,
            prepared.affine,
            key=entry.key,
            modality=entry.modality,
            study=entry.study,
            description=entry.description,
            air=prepared.background,
        )
        groups.setdefault(entry.study or entry.key, []).append(source)
    yield from groups.values()


def open_catalog(paths: Sequence[str | Path]) -> Catalog:
    """A saved catalog, or one made on the spot with single slices and all time frames."""
    first = Path(paths[0])
    saved = first.suffix in (".parquet", ".json") or (first / "catalog.parquet").is_file()
    if len(paths) == 1 and saved:
        return Catalog.load(first)
    return build_catalog(paths, workers=0, planes=True, volumes="each")


class RoleSummary(NamedTuple):
    """How well the planes of one role were planned over several studies.

    Attributes:
        role: The role, or ``"all"``.
        planned: Planes that could be planned.
        not_planned: Those that could not.
        compared: Planned planes whose study has an acquired one.
        angle_deg: Median angle to the acquired plane; None where nothing was compared.
        distance_mm: Median distance of the acquired plane's centre.
    """

    role: str
    planned: int
    not_planned: int
    compared: int
    angle_deg: float | None
    distance_mm: float | None


def summarise(plans: Sequence[RolePlan]) -> list[RoleSummary]:
    """One row a role, and one of all where there are several."""
    roles = list(dict.fromkeys(one.role for one in plans))
    rows = [_summary(role, [one for one in plans if one.role == role]) for role in roles]
    return [*rows, _summary("all", plans)] if len(rows) != 1 else rows


def _summary(role: str, plans: Sequence[RolePlan]) -> RoleSummary:
    angles = [one.angle_deg for one in plans if one.angle_deg is not None]
    distances = [one.distance_mm for one in plans if one.distance_mm is not None]
    planned = sum(one.plane is not None for one in plans)
    return RoleSummary(
        role=role,
        planned=planned,
        not_planned=len(plans) - planned,
        compared=len(angles),
        angle_deg=median(angles) if angles else None,
        distance_mm=median(distances) if distances else None,
    )
