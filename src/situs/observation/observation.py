"""One look at a network: sections of scores and panels, and the file they are kept in."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from situs.errors import SitusError
from situs.files import writing
from situs.observation.panels import PANELS, Array, Panel, Volume
from situs.observation.score import Reach, Score


@dataclass(frozen=True)
class Section:
    """One sub-task: its words, its scores, its figures."""

    title: str
    explanation: str
    scores: tuple[Score, ...] = ()
    panels: tuple[Panel, ...] = ()

    def __repr__(self) -> str:
        return f"Section('{self.title}', {list(self.scores)}, {len(self.panels)} panel(s))"


@dataclass(frozen=True)
class Observation:
    """Everything one look at a network gave, at one training step, on held-out samples.

    Attributes:
        method: Name of the method (or of the part of a composition).
        step: Optimiser steps done when it was taken.
        sections: One a sub-task.
        warnings: Plain-language warnings (collapse, drift), each with what to try.
        scans: Key of the scan behind each observed sample, aligned with ``Score.samples``.
        modalities: Modality of each of those scans.
        spacings: Spacing of each in mm.
        reach: Which share of the encoder and decoder each loss term trains; empty where that
            was not asked.
    """

    method: str
    step: int
    sections: tuple[Section, ...]
    warnings: tuple[str, ...] = ()
    scans: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    spacings: tuple[tuple[float, float, float], ...] = ()
    reach: tuple[Reach, ...] = ()

    def __repr__(self) -> str:
        return f"Observation({self.method}, step {self.step}, scores: {', '.join(self.scores)})"

    @property
    def scores(self) -> dict[str, Score]:
        """All scores by name."""
        return {score.name: score for section in self.sections for score in section.scores}

    def save(self, path: str | Path) -> None:
        """Write to one zip file: ``observation.json`` beside one ``.npy`` an array."""
        arrays: dict[str, Array] = {}
        document = json.dumps(_encode(self, arrays, "o"), allow_nan=True)
        with (
            writing(path) as part,
            zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        ):
            archive.writestr("observation.json", document)
            for name, array in arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=False)
                archive.writestr(f"{name}.npy", buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Observation:
        """Read what :meth:`save` wrote; nothing is unpickled.

        Raises:
            SitusError: If the file is damaged or no observation.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                document = json.loads(_member(archive, "observation.json"))

                def array(name: str) -> Array:
                    return _array(archive, name)

                found = _decode(document, array)
        except _DAMAGED as error:
            raise SitusError(
                f"{path} is no whole observation ({type(error).__name__}); restore it from a copy, "
                "or move it away and go on without it"
            ) from None
        if not isinstance(found, cls):
            raise SitusError(f"{path} holds no observation; move it away")
        return found


# What the zip, JSON and array readers raise where a file is truncated or changed.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    MemoryError,
    OverflowError,
)
_LARGEST = 2**31  # bytes; panels hold pictures and crops


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _LARGEST:
        raise ValueError(name)
    return archive.read(name)


def _array(archive: zipfile.ZipFile, name: str) -> Array:
    return np.load(io.BytesIO(_member(archive, f"{name}.npy")), allow_pickle=False)


_TYPES: dict[str, type] = {
    **{cls.__name__: cls for cls in PANELS.values()},
    **{cls.__name__: cls for cls in (Score, Reach, Volume, Section, Observation)},
}


def _encode(value: Any, arrays: dict[str, Array], name: str) -> Any:
    if isinstance(value, np.ndarray):
        # A scan that several panels show is written once.
        known = next((n for n, array in arrays.items() if array is value), None)
        arrays[known or name] = value
        return {"array": known or name}
    if type(value).__name__ in _TYPES:
        return {
            "type": type(value).__name__,
            **{
                f.name: _encode(getattr(value, f.name), arrays, f"{name}.{f.name}")
                for f in fields(value)
            },
        }
    if isinstance(value, tuple | list):
        return [_encode(item, arrays, f"{name}.{i}") for i, item in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _decode(value: Any, array: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item, array) for item in value)
    if isinstance(value, dict) and "type" not in value:
        return array(value["array"])
    if isinstance(value, dict):
        cls = _TYPES[value["type"]]
        known = get_type_hints(cls)
        if cls is Score and "trivial" in value:  # what files before version 0.2 call it
            value = {**value, "constant": value["trivial"]}
        return cls(**{k: _decode(v, array) for k, v in value.items() if k in known})
    return value


def iter_panels(observation: Observation) -> Iterator[tuple[Section, Panel]]:
    """Every panel with the section it belongs to, in order."""
    for section in observation.sections:
        for panel in section.panels:
            yield section, panel
