"""The catalog: what scans there are, what they are like, and why some are refused."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from situs.catalog.duplicates import mark_duplicates
from situs.catalog.measure import (
    BurnedIn,
    Entry,
    Job,
    Measured,
    Volumes,
    measure,
    read_entry,
    refused_entry,
)
from situs.catalog.patients import patient_pattern, with_cases, with_patients
from situs.errors import ScanRefused, SitusError
from situs.files import parse_json, write_file, write_json, writing
from situs.places import url_of
from situs.scans.afar import root_of
from situs.scans.discovery import Candidate, common_root, discover
from situs.scans.names import escaped, unescaped
from situs.scans.parallel import LIMIT_S, isolated_map
from situs.scans.refusals import refuse
from situs.scans.scan import Scan
from situs.version import __version__

Progress = Callable[[str, int, int], None]
"""Told what is under way (``"headers"``, ``"scans"``), how many are done, and of how many."""

_NAME = "catalog"
_FORMAT = 1


@dataclass(frozen=True)
class Catalog:
    """Entries and the folder that their paths start from.

    Attributes:
        entries: Accepted and refused, ordered by path.
        root: None where a catalog was loaded without the scans at hand.
        ignored: Number of files passed over as companions (hidden, README, sidecars, DICOM
            objects without an image) and of hidden folders.
        planes: Whether single slices were accepted.
        passed_over: Which these are, where the catalog was just built; not saved.
    """

    entries: tuple[Entry, ...]
    root: Path | None = None
    ignored: int = 0
    planes: bool = False
    passed_over: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"Catalog({len(self.accepted)} accepted, {len(self.refused)} refused)"

    @property
    def accepted(self) -> tuple[Entry, ...]:
        """Scans that can be used, duplicates included."""
        return tuple(e for e in self.entries if e.accepted)

    @property
    def unique(self) -> tuple[Entry, ...]:
        """Scans that can be used, each once."""
        return tuple(e for e in self.accepted if not e.duplicate_of)

    @property
    def refused(self) -> tuple[Entry, ...]:
        """What cannot be used; each with ``reason`` and ``detail``."""
        return tuple(e for e in self.entries if not e.accepted)

    def studies(self) -> dict[str, tuple[Entry, ...]]:
        """Accepted scans by study; those of unknown study are left out."""
        groups: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.accepted:
            if entry.study:
                groups[entry.study].append(entry)
        return {study: tuple(entries) for study, entries in groups.items()}

    def read(self, entry: Entry) -> Scan:
        """Read the scan of an entry.

        Raises:
            ScanRefused: Where it cannot be read, or no longer.
            SitusError: Where the root is not known.
        """
        return read_entry(entry, self._root(), planes=self.planes)

    def table(self) -> pd.DataFrame:
        """One row an entry."""
        return pd.DataFrame([e.model_dump() for e in self.entries], columns=_COLUMNS)

    def save(self, path: str | Path) -> list[Path]:
        """Write the catalog, each file at once or not at all.

        Args:
            path: A ``.parquet`` or ``.json`` file, or a folder that gets both.

        Returns:
            The files written. Beside them stands a small ``.root`` file that says where the
            scans are on this machine; it is the only one that names a place outside the
            collection, and need not be passed on.
        """
        files = _files(Path(path))
        for file in files:
            if file.suffix == ".json":
                write_json(file, self._document(), indent=1)
            else:
                with writing(file) as part:
                    pq.write_table(self._arrow(), part, compression="zstd")
        if self.root is not None:
            pointer = files[0].with_suffix(".root")
            place = url_of(self.root) or os.path.relpath(self.root, files[0].parent.resolve())
            write_file(pointer, escaped(place))
        return files

    @classmethod
    def load(cls, path: str | Path, root: str | Path | None = None) -> Catalog:
        """Read a catalog back.

        Args:
            path: What :meth:`save` was given, or one of its files.
            root: Where the scans are now; by default where they were.

        Raises:
            SitusError: Where there is no catalog, or one of another kind.
        """
        file = next((f for f in _files(Path(path)) if f.is_file()), None)
        if file is None:
            raise SitusError(f"no catalog at {path}; make one with 'situs scan'")
        try:
            entries, head = _read_json(file) if file.suffix == ".json" else _read_parquet(file)
            if int(head["format"]) != _FORMAT:
                raise SitusError(f"{file.name} has format {head['format']}, situs reads {_FORMAT}")
            parsed = tuple(Entry.model_validate(e) for e in entries)
        except (ValidationError, ValueError, KeyError, TypeError, pa.ArrowException):
            raise SitusError(f"{file.name} is no catalog; make it anew with 'situs scan'") from None
        pointer = file.with_suffix(".root")
        if root is None and pointer.is_file():
            place = unescaped(pointer.read_text(encoding="utf-8").strip())
            near = os.path.normpath(file.parent.resolve() / place)
            # Nobody is asked before a scan is read: the catalog may be somebody else's.
            root = Path(place if url_of(place) else near)
        base = Path(root) if root is not None else None
        return cls(parsed, base, int(head["ignored"]), bool(int(head["planes"])))

    def _root(self) -> Path:
        if self.root is None:
            raise SitusError("the catalog does not know where its scans are; load it with root=…")
        if url_of(self.root) is None and not self.root.is_dir():
            raise SitusError(f"the catalog's scans are no longer at {self.root}; give root=…")
        return self.root

    def _head(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "situs": __version__,
            "ignored": self.ignored,
            "planes": int(self.planes),
        }

    def _document(self) -> dict[str, Any]:
        return {**self._head(), "entries": [e.model_dump(mode="json") for e in self.entries]}

    def _arrow(self) -> pa.Table:
        rows = [e.model_dump() for e in self.entries]
        table = pa.Table.from_pylist(rows, schema=_SCHEMA)
        head = {key: str(value) for key, value in self._head().items()}
        return table.replace_schema_metadata(head)


def build_catalog(
    paths: Iterable[str | Path] | str | Path,
    root: str | Path | None = None,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    volumes: Volumes = "refuse",
    modality: str | None = None,
    patient: str | None = None,
    planes: bool = False,
    burned_in: BurnedIn = "accept",
    skip: Sequence[Path] = (),
    limit_s: float = LIMIT_S,
) -> Catalog:
    """Find scans, group DICOM files into series, read each once and describe it.

    Nothing stops the run: a file that cannot be used, or whose reading ends its process, becomes
    an entry with a reason.

    Args:
        paths: Files and folders, or one URL of a folder that fsspec reads: then one scan at a
            time is copied to a temporary folder, while it is read. A folder's hidden files,
            README-like files and sidecars of images are passed over; any other file that is no
            image is refused by name.
        root: Folder that the catalog's paths start from; by default the one that contains all.
        workers: Processes; None for all cores, 0 for this process alone.
        progress: See :data:`Progress`.
        volumes: What becomes of a scan that holds several volumes: refused, its first taken, or
            an entry for each.
        modality: Of all scans whose files do not tell.
        patient: Regular expression whose first group (or whole match) in a scan's path is its
            patient; by default headers say it, or BIDS's ``sub-…``.
        planes: Accept single slices, as cardiac long-axis series are.
        burned_in: What becomes of scans whose header says that text is burnt into the pixels.
        skip: Files and folders to leave alone.
        limit_s: Seconds that reading one scan may take in a process of its own.

    Raises:
        SitusError: Where a path does not lie below ``root``, or there is none, or where
            ``patient`` is no regular expression or matches no path.
        NotWritten: If a scan behind a URL finds no room here.
        Unreachable: If the URL does not answer.
    """
    asked = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    if not asked:
        raise SitusError("no path to look for scans in")
    whose = None if patient is None else patient_pattern(patient)
    tell: Progress = progress or (lambda what, done, total: None)
    base = _base(asked, root)
    found = discover(
        asked,
        base,
        workers=workers,
        limit_s=limit_s,
        skip=skip,
        progress=lambda done, total: tell("headers", done, total),
    )
    jobs = [Job(base, c, volumes, modality, planes, burned_in) for c in found.candidates]
    measured = [Measured(_refused(error, base)) for error in found.refused]
    results_of = isolated_map(
        measure, jobs, crashed=_crashed, timed_out=_timed_out, limit_s=limit_s, workers=workers
    )
    for number, (_, results) in enumerate(results_of, 1):
        measured.extend(results)
        tell("scans", number, len(jobs))
    measured.sort(key=lambda m: (m.entry.path, m.entry.series, m.entry.volume or 0))
    entries = mark_duplicates(measured)
    entries = with_cases(entries if whose is None else with_patients(entries, whose))
    beside = found.passed_over
    return Catalog(tuple(entries), base, len(beside), planes, beside)


def _base(asked: Sequence[Path], root: str | Path | None) -> Path:
    """The folder that paths start from: a URL where that is what was asked for."""
    urls = [url for url in map(url_of, asked) if url]
    if urls:
        if len(asked) > 1 or root is not None:
            raise SitusError(f"{urls[0]} goes alone: one URL, without other paths and without root")
        return root_of(urls[0])
    base = common_root(asked) if root is None else Path(os.path.abspath(root))
    for path in asked:
        if not Path(os.path.abspath(path)).is_relative_to(base):
            raise SitusError(f"{path} does not lie below the root {base}")
    return base


def _refused(error: ScanRefused, root: Path) -> Entry:
    path = escaped(Path(os.path.relpath(error.path, root)).as_posix())
    return refused_entry(Candidate(path), error)


def _crashed(job: Job) -> list[Measured]:
    return [Measured(refused_entry(job.candidate, refuse("crashed", job.candidate.path)))]


def _timed_out(job: Job) -> list[Measured]:
    return [Measured(refused_entry(job.candidate, refuse("timed-out", job.candidate.path)))]


def _files(path: Path) -> list[Path]:
    if path.suffix in (".parquet", ".json"):
        return [path]
    return [path / f"{_NAME}.parquet", path / f"{_NAME}.json"]


def _read_json(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    document = parse_json(file.read_bytes())
    return document["entries"], document


def _read_parquet(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    table = pq.read_table(file)
    metadata = table.schema.metadata or {}
    head = {key.decode(): value.decode() for key, value in metadata.items()}
    return table.to_pylist(), head


_ARROW_TYPES = {
    "files": pa.list_(pa.string()),
    "volume": pa.int32(),
    "channels": pa.int32(),
    "shape": pa.list_(pa.int32()),
    "spacing": pa.list_(pa.float64()),
    "affine": pa.list_(pa.float64()),
    "notes": pa.list_(pa.string()),
    "burned_in": pa.bool_(),
    **{f"intensity_{name}": pa.float64() for name in ("min", "p1", "p99", "max")},
}
_COLUMNS = list(Entry.model_fields)
_SCHEMA = pa.schema([(name, _ARROW_TYPES.get(name, pa.string())) for name in _COLUMNS])
