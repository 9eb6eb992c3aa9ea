"""Find what could be a scan below some paths, and group DICOM files into series."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from situs.errors import NotWritten, ScanRefused, SitusError
from situs.made import made
from situs.places import url_of
from situs.remote import Unreachable
from situs.scans.afar import at_hand, files_below
from situs.scans.formats import format_by_name, format_of
from situs.scans.names import escaped, unescaped, walk
from situs.scans.parallel import isolated_map
from situs.scans.refusals import refuse, unreadable

# Files that belong to a collection and pretend to be no scan.
_DOCUMENTS = re.compile(
    r"(readme|licen[cs]e|changes|citation|dataset|dataset_description|participants|DICOMDIR)"
    r"(\.(md|txt|rst|html|pdf|json|csv|tsv|cff))?$",
    re.I,
)
_STRANGE = "its name is none that a file below a folder of this machine can have"
_SIDECARS: tuple[str, ...] = (".json", ".bval", ".bvec", ".tsv", ".mat")
_SIDECARS += (".raw", ".raw.gz", ".zraw", ".img", ".img.gz", ".rec", ".brik", ".brik.gz")


@dataclass(frozen=True)
class Candidate:
    """One thing that could be a scan.

    Attributes:
        path: File, or folder of a DICOM series, relative to the root ("." for the root itself),
            as :func:`~situs.scans.names.escaped` writes it.
        files: Names relative to ``path`` of a series that does not fill its folder, written so.
        series: Hash of the DICOM series, empty for other formats.
    """

    path: str
    files: tuple[str, ...] = ()
    series: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether :attr:`path` is a folder: that of a series."""
        return bool(self.files) or format_by_name(Path(self.path)) in ("dicom", None)

    def place(self, root: Path) -> Path:
        """Where :attr:`path` is on disk."""
        return root / unescaped(self.path)

    def places(self, root: Path) -> list[Path]:
        """Where :attr:`files` are on disk."""
        return [self.place(root) / unescaped(name) for name in self.files]


@dataclass(frozen=True)
class Found:
    """What discovery gives: candidates, files refused at sight, and what was passed over.

    Attributes:
        candidates: What could be scans.
        refused: Files that are none, and may have been meant as one.
        passed_over: Paths relative to the root of companions of scans (sidecars, README, DICOM
            objects without an image), of hidden files and folders, and of what situs made.
    """

    candidates: list[Candidate]
    refused: list[ScanRefused]
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Header:
    """What a file is: DICOM of a series, another format, or why it is nothing."""

    kind: str
    series: str = ""
    owner: str = ""
    refusal: ScanRefused | None = None


def common_root(paths: Sequence[Path]) -> Path:
    """The folder that all paths lie in; catalogs name files relative to it."""
    folders = [p if p.is_dir() else p.parent for p in map(_absolute, paths)]
    return Path(os.path.commonpath(folders))


def discover(
    paths: Sequence[Path],
    root: Path,
    *,
    workers: int | None = None,
    limit_s: float | None = None,
    skip: Iterable[Path] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Found:
    """Walk the paths, look at the headers of unknown and DICOM files, group series.

    Args:
        paths: Files and folders. A file named here is never passed over.
        root: Contains them all.
        workers: See :func:`situs.scans.parallel.isolated_map`.
        limit_s: Seconds that a file may take.
        skip: Files and folders to leave alone.
        progress: Told (done, total) files of the header pass.
    """
    strange: list[str] = []
    if url_of(root) is None:
        files, beside = _walk(paths, {_absolute(p) for p in skip})
    else:
        names, strange = files_below(root)
        files, beside = _sorted_out(root, names)
    candidates = [
        Candidate(_relative(file, root))
        for file in files
        if format_by_name(file) not in ("dicom", None)
    ]
    unknown = [file for file in files if format_by_name(file) in ("dicom", None)]
    refused = [refuse("not-an-image", root / name, _STRANGE) for name in strange]
    series: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    headers = isolated_map(
        partial(_look, root),
        unknown,
        crashed=_crashed,
        timed_out=_timed_out,
        limit_s=limit_s,
        workers=workers if len(unknown) > 8 else 0,
        # Behind a URL each file takes a while, and the limit is that of a chunk.
        chunk=64 if url_of(root) is None else 1,
    )
    for number, (file, header) in enumerate(headers, 1):
        if header.kind == "dicom":
            # Without an identifier, files of one folder are taken for one series.
            place = "" if header.series else str(file.parent)
            series[header.series, header.owner, place].append(_relative(file, root))
        elif header.refusal is not None:
            said = header.refusal
            refused.append(ScanRefused(said.reason, file, said.detail))
        else:
            beside.append(file)
        progress(number, len(unknown))
    candidates += _group(series)
    return Found(
        sorted(candidates, key=lambda c: (c.path, c.series)),
        refused,
        tuple(sorted(_relative(path, root) for path in beside)),
    )


def _walk(paths: Sequence[Path], skip: set[Path]) -> tuple[list[Path], list[Path]]:
    """Files that may be scans or their slices, and what is passed over by its name alone."""
    files: dict[Path, None] = {}
    beside: list[Path] = []

    def enter(folder: Path) -> bool:
        if folder in skip:
            return False
        if folder.name.startswith(".") or made(folder):
            beside.append(folder)
            return False
        return True

    for path in paths:
        if path.is_dir() and (what := made(path)):
            raise SitusError(f"{path} is {what}; give the folder of the scans themselves")
        if not path.is_dir():
            files[_absolute(path)] = None
            continue
        for here, names in walk(_absolute(path), enter):
            for name in names:
                if _is_companion(name, names) or here / name in skip:
                    beside.append(here / name)
                else:
                    files[here / name] = None
    return list(files), beside


def _is_companion(name: str, beside: Sequence[str]) -> bool:
    if name.startswith(".") or _DOCUMENTS.match(name):
        return True
    suffix = next((s for s in _SIDECARS if name.lower().endswith(s)), None)
    if suffix is None:
        return False
    # "a.json" beside "a.nii.gz" describes it; alone it is a file that is no scan.
    start = name[: -len(suffix)].lower() + "."
    return any(n.lower().startswith(start) and format_by_name(Path(n)) for n in beside if n != name)


def _sorted_out(root: Path, names: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """What :func:`_walk` gives, of the files behind a URL."""
    folders: dict[PurePosixPath, list[str]] = defaultdict(list)
    for path in map(PurePosixPath, names):
        folders[path.parent].append(path.name)
    files: list[Path] = []
    beside: list[Path] = []
    for folder, own in folders.items():
        hidden = any(part.startswith(".") for part in folder.parts)
        for name in own:
            passed = hidden or _is_companion(name, own)
            (beside if passed else files).append(root / folder / name)
    return files, beside


def _look(root: Path, file: Path) -> _Header:
    """What one file is; runs in a worker and raises nothing but that a URL does not answer."""
    try:
        path = _relative(file, root)
        with at_hand(root, path) as here:
            return _seen(file if here == root else Candidate(path).place(here))
    except (NotWritten, Unreachable):
        raise
    except ScanRefused as error:
        return _Header("refused", refusal=error)


def _seen(file: Path) -> _Header:
    from situs.scans.readers.dicom_headers import read_series  # noqa: PLC0415 - pydicom is slow

    try:
        format_of(file)
        series = read_series(file)
        return _Header("dicom", series.uid, f"{series.patient}/{series.visit}")
    except ScanRefused as error:
        if error.reason == "not-an-image" and error.detail.startswith("this DICOM object"):
            return _Header("other")
        return _Header("refused", refusal=error)
    except Exception as error:
        return _Header("refused", refusal=unreadable(file, error))


def _crashed(file: Path) -> _Header:
    return _Header("refused", refusal=refuse("crashed", file))


def _timed_out(file: Path) -> _Header:
    return _Header("refused", refusal=refuse("timed-out", file))


def _group(series: dict[tuple[str, str, str], list[str]]) -> list[Candidate]:
    """Series as candidates.

    Patients who were given one series identifier are apart by their folders; in one folder they
    are one candidate, which is then refused.
    """
    everything = sorted(file for files in series.values() for file in files)
    by_folder: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for (uid, _, place), files in series.items():
        folder = os.path.commonpath([str(PurePosixPath(f).parent) for f in files]) or "."
        by_folder[uid, folder, place] += files
    candidates = []
    for (uid, folder, _), files in by_folder.items():
        own = files if folder == "." else [f.removeprefix(folder + "/") for f in files]
        whole = len(files) == _count_below(everything, folder)
        candidates.append(Candidate(folder, () if whole else tuple(sorted(own)), uid))
    return candidates


def _count_below(ordered: list[str], folder: str) -> int:
    if folder == ".":
        return len(ordered)
    # "0" follows "/" in ASCII, so this is the first string past everything in the folder.
    return bisect_left(ordered, folder + "0") - bisect_left(ordered, folder + "/")


def _absolute(path: Path) -> Path:
    # Not resolve(): collections kept in git-annex are links whose targets have other names.
    return Path(os.path.abspath(path))


def _relative(file: Path, root: Path) -> str:
    return escaped(PurePosixPath(os.path.relpath(file, root)).as_posix())
