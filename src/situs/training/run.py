"""The run folder: where everything of a pretraining run stands, and how to read it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from situs.errors import RunError, setting
from situs.files import file_sha256, keep_file, write_csv, write_json
from situs.observation import Observation

if TYPE_CHECKING:
    from situs.backbones.base import Backbone

_DIGITS = 32  # of the SHA-256 of a state, in its name
_STATE = re.compile(rf"state-(\d+)-([0-9a-f]{{{_DIGITS}}})\.ckpt")


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
        info = self.info
        return f"Run('{self.path}', {info.get('method', 'unknown method')}, {info['status']})"

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run.

        Raises:
            RunError: If ``path`` is not a run folder.
        """
        run = cls(path)
        if not (run.path / "run.json").is_file():
            raise RunError(f"{path} is not a run folder: it has no run.json")
        return run

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        text = (self.path / "config.yaml").read_text(encoding="utf-8")
        return dict(yaml.safe_load(text))

    @property
    def info(self) -> dict[str, Any]:
        """``run.json``: version, method, data fingerprint, seed, hardware, wall time, status.

        Version and hardware are those of the beginning; ``resumed`` has those of later parts.
        """
        return dict(json.loads((self.path / "run.json").read_text(encoding="utf-8")))

    @property
    def data(self) -> dict[str, Any]:
        """``data.json``: the store's ``records``, each with ``held_out``, and what was refused."""
        return dict(json.loads((self.path / "data.json").read_text(encoding="utf-8")))

    @property
    def status(self) -> str:
        """``"running"``, ``"finished"``, or ``"stopped"`` (interrupted or failed)."""
        return str(self.info["status"])

    def metrics(self) -> list[dict[str, float]]:
        """Rows of ``metrics.csv``; absent values are absent keys."""
        file = self.path / "metrics.csv"
        if not file.is_file():
            return []
        with file.open(newline="", encoding="utf-8") as stream:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(stream)]

    def observations(self, step: int | None = None) -> list[Observation]:
        """One observation a part, of ``step`` or of the latest observed step."""
        files = self.observation_files()
        if not files:
            return []
        return [Observation.load(f) for f in files[max(files) if step is None else step]]

    def observation_files(self) -> dict[int, list[Path]]:
        """Observation files by step."""
        by_step: dict[int, list[Path]] = {}
        for file in sorted((self.path / "observations").glob("*.obs")):
            by_step.setdefault(int(file.name.split("-", 1)[0]), []).append(file)
        return by_step

    def encoder(self) -> Backbone:
        """The pretrained backbone of the best checkpoint."""
        from situs.weights import load_encoder  # noqa: PLC0415

        return load_encoder(self.path)

    def verified_state(self) -> Path:
        """The resumable state, after its digest was verified.

        Raises:
            RunError: If there is none, or it is damaged.
        """
        found = [
            (int(named[1]), named[2], file)
            for file in (self.path / "checkpoints" / "last").glob("state-*")
            if (named := _STATE.fullmatch(file.name))
        ]
        if not found:
            raise RunError(
                f"{self.path} holds no resumable state (checkpoints/last/state-*.ckpt). To start "
                f"anew in this folder, say so with {setting('overwrite')}."
            )
        _, digest, state = max(found)  # a newer one may not have removed the older yet
        if file_sha256(state, _DIGITS) != digest:
            raise RunError(
                f"{state} is damaged (its checksum does not fit). Its weights in "
                f"checkpoints/best can still be used as {setting('init')} of a new run."
            )
        return state

    def keep_state(self, partial: Path, step: int) -> None:
        """Let a state that is written take the place of an earlier one.

        One renaming does it: whenever the process is killed, there is a whole state with its
        digest.
        """
        digest = file_sha256(partial, _DIGITS)
        state = partial.with_name(f"state-{step:07d}-{digest}.ckpt")
        keep_file(partial, state)
        for other in state.parent.glob("state-*.ckpt"):
            if other != state:
                other.unlink()

    def write_info(self, changes: Mapping[str, Any]) -> None:
        """Update ``run.json`` atomically; None takes an entry out."""
        present = self.info if (self.path / "run.json").is_file() else {}
        entries = {k: v for k, v in {**present, **changes}.items() if v is not None}
        write_json(self.path / "run.json", entries)


class MetricsFile:
    """``metrics.csv``: one row a logged step; columns may appear at any time.

    A resumed run drops the rows after the step it continues from, and goes on.
    """

    def __init__(self, path: Path, from_step: int = 0) -> None:
        self.path = path
        self._rows: list[dict[str, Any]] = []
        if path.is_file() and from_step > 0:
            with path.open(newline="", encoding="utf-8") as stream:
                rows: Iterable[dict[str, str]] = csv.DictReader(stream)
                self._rows = [dict(r) for r in rows if int(float(r["step"])) <= from_step]

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
