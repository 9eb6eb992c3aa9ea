"""The run folder: where everything of a pretraining run stands, and how to read it."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from situs.config import read_yaml
from situs.errors import RunError, SitusError, not_writable, setting
from situs.files import write_file, write_json
from situs.made import beside_the_point
from situs.observation import Observation
from situs.tables import read_csv, write_csv
from situs.training.record import DataRecord, RunRecord, checked, read_record
from situs.training.states import States
from situs.training.stopping import Left, left_to_do

if TYPE_CHECKING:
    from situs.backbones.base import Backbone

_REMEDY = "restore it from a copy; the weights in checkpoints/last can be used without it"


_ROOM = ".room"
_ROOM_BYTES = 65536


class Run:
    """A run folder.

    Layout: ``config.yaml``, ``run.json``, ``data.json``, ``metrics.csv``,
    ``checkpoints/{last,best}/`` (safetensors weights with their card; ``last`` also holds the
    resumable state, whose name says its step and its digest), ``observations/``,
    ``report/index.html``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        if not (self.path / "run.json").is_file():
            return f"Run('{self.path}', not there yet)"
        record = self.record
        return f"Run('{self.path}', {record.method or 'unknown method'}, {record.status})"

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run.

        Raises:
            RunError: If ``path`` is not a run folder.
        """
        run = cls(path)
        if not (run.path / "run.json").is_file():
            if not run.path.exists():
                raise RunError(f"{path} does not exist")
            instead = beside_the_point(path)
            raise RunError(f"{path} is not a run folder: it has no run.json{instead}")
        return run

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration.

        Raises:
            RunError: If it is empty.
            SitusError: If it is absent or damaged.
        """
        file = self.path / "config.yaml"
        found = read_yaml(file)
        if not found:
            raise RunError(f"{file} is empty; {_REMEDY}")
        return found

    @property
    def record(self) -> RunRecord:
        """``run.json``: version, method, data fingerprint, seed, hardware, wall time, status.

        Raises:
            SitusError: If it is damaged.
        """
        return read_record(RunRecord, self.path / "run.json", _REMEDY)

    @property
    def data(self) -> DataRecord:
        """``data.json``: the store's ``records``, each with ``held_out``, and what was refused.

        Raises:
            FileNotFoundError: If there is none.
            SitusError: If it is damaged.
        """
        return read_record(DataRecord, self.path / "data.json", _REMEDY)

    @property
    def status(self) -> str:
        """``"running"``, ``"finished"``, or ``"stopped"`` (interrupted or failed)."""
        return self.record.status

    def metrics(self) -> list[dict[str, float]]:
        """Rows of ``metrics.csv``; absent values are absent keys.

        Raises:
            RunError: If it is damaged.
        """
        file = self.path / "metrics.csv"
        if not file.is_file():
            return []
        remedy = "restore it from a copy, or move it away and go on without its curves"
        rows = read_csv(file, remedy, "step")
        try:
            return [{k: float(v) for k, v in row.items() if v} for row in rows]
        except ValueError:
            raise RunError(f"{file} is damaged (a value is no number); {remedy}") from None

    def observations(self, step: int | None = None) -> list[Observation]:
        """One observation a part, of ``step`` or of the latest observed step.

        A damaged file is left out, with a warning; without a step given, the latest step of which
        there is a whole one is taken.
        """
        files = self.observation_files()
        for observed in sorted(files, reverse=True) if step is None else [step]:
            if found := whole_observations(files[observed]):
                return found
        return []

    def observation_files(self) -> dict[int, list[Path]]:
        """Observation files by step."""
        by_step: dict[int, list[Path]] = {}
        for file in sorted((self.path / "observations").glob("[0-9]*-*.obs")):
            step = file.name.split("-", 1)[0]
            if step.isdigit():
                by_step.setdefault(int(step), []).append(file)
        return by_step

    def encoder(self) -> Backbone:
        """The pretrained backbone of the best checkpoint."""
        from situs.weights import load_encoder  # noqa: PLC0415 - reports load no torch

        return load_encoder(self.path)

    def verified_state(self) -> Path:
        """The latest resumable state whose digest fits; a warning where a later one's does not.

        Raises:
            RunError: If there is none.
        """
        return self._states.verified(
            f"To start anew in this folder, say so with {setting('overwrite')}.",
            f"The weights in checkpoints/best can still be used as {setting('init')} of a new run.",
        )

    def states(self) -> Iterator[tuple[Path, bool]]:
        """The resumable states, the latest first, and whether each is what was written."""
        return self._states.all()

    def left_to_do(self) -> Left:
        """What is left to do where the run was stopped."""
        return left_to_do("pretrain", self.path, "run.json", self._states.folder)

    @property
    def _states(self) -> States:
        return States(self.path / "checkpoints" / "last")

    def keep_state(self, partial: Path, step: int) -> None:
        """Let a state that is written stand beside the one before it."""
        self._states.keep(partial, step)

    def note(self, **changes: Any) -> None:
        """Update ``run.json`` atomically; None takes an entry out.

        Args:
            changes: Fields of :class:`RunRecord`.

        Raises:
            SitusError: If the present one is damaged, or a value is of another kind.
        """
        present = self.record.document() if (self.path / "run.json").is_file() else {}
        entries = checked(
            RunRecord, {**present, **changes}, self.path / "run.json", _REMEDY
        ).document()
        room = self.path / _ROOM
        try:
            write_json(self.path / "run.json", entries)
        except OSError as error:
            if not (not_writable(error) and room.is_file()):
                raise
            # A full disk must not leave a status that is not true.
            room.unlink()
            write_json(self.path / "run.json", entries)

    def keep_room(self) -> None:
        """Set space aside for the status that is written last, should the disk be full then."""
        write_file(self.path / _ROOM, secrets.token_bytes(_ROOM_BYTES))

    def release_room(self) -> None:
        """Give that space back."""
        (self.path / _ROOM).unlink(missing_ok=True)


def whole_observations(files: Sequence[Path]) -> list[Observation]:
    """The observations of those files that can be read; a warning for each other one."""
    found = []
    for file in files:
        try:
            found.append(Observation.load(file))
        except SitusError as error:
            warnings.warn(str(error), stacklevel=3)
    return found


class MetricsFile:
    """``metrics.csv``: one row a logged step; columns may appear at any time.

    A resumed run drops the rows after the step it continues from, and goes on.
    """

    def __init__(self, path: Path, from_step: int = 0) -> None:
        self.path = path
        self._rows: list[dict[str, Any]] = []
        self.continue_from(from_step)

    def continue_from(self, step: int) -> None:
        """Take up the rows up to a step."""
        if self.path.is_file() and step > 0:
            self._rows = [dict(row) for row in _rows_until(self.path, step)]

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add values to the row of ``step``."""
        if self._rows and int(float(self._rows[-1]["step"])) == step:
            self._rows[-1].update(values)
        else:
            self._rows.append({"step": step, **values})

    def flush(self) -> None:
        """Write all rows atomically."""
        columns = list(dict.fromkeys(key for row in self._rows for key in row))
        write_csv(self.path, self._rows, columns)


def _rows_until(path: Path, step: int) -> list[dict[str, str]]:
    """Rows up to a step. A table that cannot be read is moved aside: curves stop no training."""
    try:
        rows = read_csv(path, "", "step")
        return [row for row in rows if int(float(row["step"])) <= step]
    except (SitusError, ValueError, KeyError):
        aside = path.with_name(f"{path.stem}-damaged{path.suffix}")
        path.replace(aside)
        warnings.warn(
            f"{path} cannot be read; it is kept as {aside.name}, and metrics begin at step {step}",
            stacklevel=4,
        )
        return []
