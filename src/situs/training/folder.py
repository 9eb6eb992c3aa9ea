"""How a run folder is entered: as a new run, as the same one again, or in place of another."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from situs import locks
from situs.config import Config
from situs.errors import RunError, setting
from situs.made import made
from situs.training.run import Run

Mode = Literal["new", "resume", "overwrite"]

# What may differ between a run and its continuation: nothing that changes the numbers. Whether
# the data are the same is asked of the data, wherever they lie now.
_FREE_ON_RESUME = {
    "out",
    "data",
    "workers",
    "threads",
    "observe_every",
    "observe_controls",
    "checkpoint_every",
    "log_every",
    "loggers",
    # On how many devices the same batch is computed; see _bound.
    "batch_size",
    "devices",
    "num_nodes",
    "strategy",
    "accelerator",
    "compile",
    # Of fine-tunings.
    "overwrite",
    "save_predictions",
    "save_model",
}


def check_mode(run: Run, mode: Mode, data: Iterable[Path], init: str | Path | None) -> None:
    """Refuse what the folder does not fit, or what overwriting it would delete.

    Raises:
        RunError: If there is a run and ``mode`` is ``"new"``, none and it is ``"resume"``, the
            folder is that of the scans, or ``data`` or ``init`` lie in a folder to overwrite.
    """
    if mode == "resume":
        Run.open(run.path)
    elif mode == "overwrite":
        check_outside(run.path, [*data, *([init] if init is not None else [])])
    if mode != "resume" and not is_run(run.path) and (what := made(run.path)):
        raise RunError(f"{setting('out')}: {run.path} is {what}; choose another folder")
    if mode != "resume" and run.path.resolve() in (path.resolve() for path in data):
        raise RunError(f"{setting('out')}: {run.path} holds the scans; choose another folder")
    if mode == "new" and is_run(run.path):
        raise RunError(
            f"{run.path} already holds a run ({run.status}). Choose another folder, or say "
            "--resume to continue it or --overwrite to delete it."
        )


def check_outside(out: Path, needed: Iterable[str | Path]) -> None:
    """Raise :class:`RunError` where overwriting ``out`` would delete what is ``needed``."""
    inside = [
        str(path)
        for path in map(Path, needed)
        if path.exists() and path.resolve().is_relative_to(out.resolve())
    ]
    if inside:
        raise RunError(
            f"overwriting {out} would delete {', '.join(inside)}, which this run needs. Choose "
            f"another {setting('out')}, or move it out of there first."
        )


def check_unchanged(folder: Path, was: Mapping[str, Any], config: Config) -> None:
    """A training that goes on must be the same one.

    Args:
        folder: Of the training.
        was: The settings that it was begun with, under today's names.
        config: As asked for now, everything in it resolved.

    Raises:
        RunError: Naming what differs.
    """
    asked = _bound(config.model_dump(mode="json"))
    differing = _differences(_bound(was), asked)
    if differing:
        raise RunError(
            f"{folder} cannot be resumed with another configuration ({'; '.join(differing)}). "
            "Resume without changes, or start a new run with --init."
        )


def check_same_paths(run: Run, data: Sequence[Path]) -> None:
    """A run that prepared scans into a store of its own goes on with that one.

    Raises:
        RunError: If other scans are asked for.
    """
    kept = run.config["data"]
    before = [Path(p).absolute() for p in ([kept] if isinstance(kept, str) else kept)]
    if [path.absolute() for path in data] != before:
        raise RunError(
            f"{run.path} cannot be resumed with other data (was {kept!r}, now "
            f"{[str(path) for path in data]!r}): it goes on with its own store of the scans it was "
            "begun with. Resume without --data, or start a new run with --init."
        )


def check_same_data(run: Run, fingerprint: str, records: Sequence[Mapping[str, Any]]) -> None:
    """A resumed run must see the same scans, in the same order, and hold the same ones out.

    Args:
        run: As it was.
        fingerprint: Of the store.
        records: Of the store, with ``held_out``.

    Raises:
        RunError: Saying what differs.
    """
    before = run.record.data_fingerprint
    if fingerprint != before:
        raise RunError(
            f"{run.path} cannot be resumed with other data (fingerprint was {before}, now "
            f"{fingerprint}). Resume with the data it was begun with, wherever they lie now, or "
            "start a new run with --init."
        )
    asked = [(record["origin"], record["held_out"]) for record in records]
    if asked != [(row.origin, row.held_out) for row in run.data.records]:
        raise RunError(
            f"{run.path} cannot be resumed: it has the same scans, but they are ordered or held "
            "out in another way than when it was begun. Resume with the store it was begun with, "
            "or start a new run with --init."
        )


def is_run(path: Path) -> bool:
    """Whether there is a run, finished or not."""
    return (path / "run.json").is_file()


def make_folder(run: Run, keep: Sequence[Path]) -> None:
    """An empty run folder, in place of an earlier run, if there is one.

    Args:
        run: To make.
        keep: What of the folder's contents has been made for this run.
    """
    if is_run(run.path):
        clear(run.path, keep)
    for folder in ("checkpoints", "observations"):
        (run.path / folder).mkdir(parents=True, exist_ok=True)


def clear(folder: Path, keep: Sequence[Path] = ()) -> None:
    """Delete what stands in a folder that this process holds, but for ``keep``."""
    kept = {path.resolve() for path in keep} | {(folder / locks.NAME).resolve()}
    for item in folder.iterdir():
        if item.resolve() in kept:
            continue
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()


def _bound(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a continuation must share; the batch of all devices together, not each one's."""
    bound = {key: value for key, value in settings.items() if key not in _FREE_ON_RESUME}
    if "batch_size" in settings:
        devices = settings.get("devices", 1) * settings.get("num_nodes", 1)
        bound["batch_size × devices"] = settings["batch_size"] * devices
    return bound


def _differences(was: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in [*was, *(k for k in now if k not in was)]:
        old, new = was.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: was {old!r}, now {new!r}")
    return found
