"""Which prediction is whose: inputs with a name, a source and a content that stay the same.

A name follows from where a scan lies below what was given, not from which others were found or in
which order, so that a later call names the same scan the same.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from situs.files import file_sha256, sha256
from situs.scans.discovery import Candidate
from situs.scans.formats import stem, without_suffix
from situs.scans.names import channel_of, escaped, walk

_DIGITS = 16
_DETACHED = (".hdr", ".nhdr", ".mhd", ".head", ".par")  # headers whose voxels lie beside them


@dataclass(frozen=True)
class Input:
    """A scan to be predicted.

    Attributes:
        name: Unique within a call, and the same in every call with the same folder.
        channels: The files, or the DICOM series, that it is made of.
        root: Folder that their paths are relative to.
    """

    name: str
    channels: tuple[Candidate, ...]
    root: Path

    @property
    def source(self) -> str:
        """Where it lies relative to what was given; the first file of several."""
        return self.channels[0].path

    @property
    def series(self) -> str:
        """Hash of the DICOM series, empty for other formats."""
        return self.channels[0].series

    @property
    def files(self) -> list[Path]:
        """All its files."""
        return [file for channel in self.channels for file in _files(channel, self.root)]

    @cached_property
    def content(self) -> str:
        """Checksum of its files' bytes: the same scan, wherever it lies, has the same."""
        return sha256(*sorted(file_sha256(file) for file in self.files), digits=_DIGITS)

    def marked(self) -> Input:
        """The same input under a name that no other has: one with a checksum of what it is."""
        mark = sha256("\0".join((self.source, self.series, self.content)), digits=8)
        return replace(self, name=f"{self.name}-{mark}")


def _files(channel: Candidate, root: Path) -> list[Path]:
    if channel.files:
        return channel.places(root)
    place = channel.place(root)
    if place.is_dir():
        return [folder / name for folder, names in walk(place) for name in names]
    if place.suffix.lower() in _DETACHED:
        start = without_suffix(place.name).lower() + "."
        return [f for f in place.parent.iterdir() if f.name.lower().startswith(start)]
    return [place]


def grouped_inputs(candidates: Sequence[Candidate], channels: int) -> list[list[Candidate]]:
    """The candidates of each scan: one, or a file a channel named as nnU-Net does."""
    groups: dict[tuple[Path, str], dict[int, Candidate]] = defaultdict(dict)
    for candidate in candidates:
        path = Path(candidate.path)
        found = channel_of(stem(path))
        if found is not None and not (candidate.files or candidate.series):
            groups[path.parent, found[0]][found[1]] = candidate
    whole = [g for g in groups.values() if channels > 1 and set(g) == set(range(channels))]
    joined = [[group[c] for c in sorted(group)] for group in whole]
    used = {candidate for group in joined for candidate in group}
    return [*joined, *([c] for c in candidates if c not in used)]


def named_inputs(inputs: Sequence[Sequence[Candidate]], root: Path) -> list[Input]:
    """Name scans by their paths below ``root``, without the suffix of their format.

    A DICOM series that shares its folder has the series' hash behind the folder's name. Where two
    names are still alike (``a.nii`` beside ``a.mha``) the later one gets a checksum.
    """
    named: list[Input] = []
    taken: set[str] = set()
    for channels in inputs:
        item = free_name(Input(_name(channels, root), tuple(channels), root), taken)
        taken.add(item.name)
        named.append(item)
    return named


def unread_input(path: Path, root: Path) -> Input:
    """A file that is refused at sight, under its whole name."""
    place = escaped(Path(os.path.relpath(path, root)).as_posix())
    return Input(place, (Candidate(place),), root)


def free_name(item: Input, taken: Container[str]) -> Input:
    """An input as it is, or marked where its name is taken."""
    return item.marked() if item.name in taken else item


def _name(channels: Sequence[Candidate], root: Path) -> str:
    first = channels[0]
    path = Path(os.path.abspath(first.place(root)))  # a link keeps its own name
    own = path.name if path.is_dir() else stem(path)
    found = channel_of(own)
    if found is not None and len(channels) > 1:
        own = found[0]
    below = Path(first.path).parent.as_posix()
    name = escaped(own) if below == "." else f"{below}/{escaped(own)}"
    return f"{name}/{first.series[:8]}" if first.files and first.series else name
