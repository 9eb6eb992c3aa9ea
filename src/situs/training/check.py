"""Hold everything in a run folder, or a folder of weights, against what was written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from situs.config import read_whole_yaml
from situs.errors import Fault, SitusError
from situs.observation import Observation
from situs.scans.aliases import MAPPING
from situs.store.check import check_store
from situs.tables import read_csv
from situs.training.run import Run
from situs.weights.weights import CARD, load_card, load_part

PARTS = ("encoder", "decoder", "heads", "head")


def check_run(path: Path, progress: Callable[[int, int], None] | None = None) -> list[Fault]:
    """What is damaged or missing in a run folder: settings, states, weights, observations, store.

    Args:
        path: The run folder.
        progress: Told how many of how many scans of its own store are done.
    """
    run = Run(path)
    files = [
        (path / "run.json", lambda: run.record),
        (path / "config.yaml", lambda: read_whole_yaml(path / "config.yaml", "log_every")),
        (path / "data.json", lambda: run.data),
        (path / "metrics.csv", run.metrics),
    ]
    faults = [fault for file, read in files for fault in tried(file, read)]
    if (path / MAPPING).is_file():
        again = "move it away: the next report writes it anew"
        faults += tried(path / MAPPING, lambda: read_csv(path / MAPPING, again, "id"))
    if not faults and run.status == "finished" and not (path / "metrics.csv").is_file():
        faults.append(Fault(str(path / "metrics.csv"), "is missing; go on without it"))
    for state, whole in run.states():
        if not whole:
            faults.append(Fault(str(state), "is damaged; the one before it is resumed from"))
    for name in ("last", "best"):
        if (path / "checkpoints" / name).is_dir():
            faults += check_weights(path / "checkpoints" / name)
    faults += check_observations((path / "observations").glob("*.obs"))
    if (path / "store").is_dir():
        faults += check_store(path / "store", progress)
    return faults


def check_weights(folder: Path) -> list[Fault]:
    """What is damaged or missing in a folder of weights."""
    faults = [*tried(folder / CARD, lambda: load_card(folder))]
    if faults:
        return faults
    card = load_card(folder)
    for name in card.checksums:
        if not (folder / name).is_file():
            faults.append(Fault(str(folder / name), "is missing; copy the folder again"))
    for part in PARTS:
        file = folder / f"{part}.safetensors"
        if file.is_file():
            faults += tried(file, lambda part=part: load_part(folder, part, card))  # type: ignore[misc]
    return faults


def check_observations(files: Iterable[Path]) -> list[Fault]:
    """Which observations cannot be read."""
    return [
        fault
        for file in sorted(files)
        for fault in tried(file, lambda file=file: Observation.load(file))  # type: ignore[misc]
    ]


def tried(file: Path, read: Callable[[], Any]) -> Iterator[Fault]:
    """The fault that reading a file meets, if any."""
    try:
        read()
    except SitusError as error:
        yield Fault(str(file), str(error))
    except (OSError, ValueError) as error:
        yield Fault(str(file), f"cannot be read ({type(error).__name__}); restore it from a copy")
