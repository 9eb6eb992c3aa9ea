"""Scans behind a URL: listed where they lie, and copied here one at a time while they are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath
from tempfile import TemporaryDirectory

from situs.errors import SitusError
from situs.places import url_of
from situs.remote import Remote, remote
from situs.scans.formats import without_suffix
from situs.scans.names import escaped, unescaped
from situs.scans.refusals import refuse

MOST_BYTES = 2**33
"""What the files of one scan may take in the temporary folder."""

_LONGEST_NAME = 255  # bytes; object storage knows longer ones
# Headers whose voxels lie in a file beside them.
_PAIRED = (".hdr", ".img", ".img.gz", ".nhdr", ".mhd", ".par", ".rec", ".head", ".brik", ".brik.gz")


def root_of(url: str) -> Path:
    """The folder behind a URL, for paths of files below it.

    Raises:
        SitusError: If it cannot be read, or a secret stands in the URL.
    """
    return Path(remote(url).url)


def files_below(root: Path) -> tuple[list[str], list[str]]:
    """Names of all files below the folder behind a URL, and those that are no names of files here.

    Nothing that the other side calls a file becomes a path before it was looked at.

    Raises:
        SitusError: If there is none, or the URL is a file's.
        Unreachable: If the place does not answer.
    """
    place = _place(root)
    names = [name for name in place.sizes("") if not name.endswith("/")]
    if "" in names:
        raise SitusError(f"{place.url} is a file; give the folder that it lies in")
    if not names:
        raise SitusError(f"nothing lies at {place.url}, or its files cannot be listed")
    return sorted(filter(_is_safe, names)), sorted(n for n in names if not _is_safe(n))


@contextmanager
def at_hand(root: Path, path: str, files: tuple[str, ...] | None = None) -> Iterator[Path]:
    """A root below which a scan's files lie on this machine.

    Behind a URL these are copies in a temporary folder (``TMPDIR``), deleted at the end.

    Args:
        root: A folder, or what :func:`root_of` gave.
        path: File, or folder of a series, from the root, as catalogs write it.
        files: None for a file; of a folder the names that belong to the series, all where empty.

    Yields:
        The root itself, or the temporary folder.

    Raises:
        ScanRefused: ``missing-file`` or ``too-large``.
        NotWritten: If the disk is full.
        Unreachable: If the place does not answer.
    """
    if url_of(root) is None:
        yield root
        return
    place = _place(root)
    sizes = _sizes_of_file(place, path) if files is None else _sizes_below(place, path, files)
    if not sizes:
        raise refuse("missing-file", path)
    if (total := sum(sizes.values())) > MOST_BYTES:
        raise refuse("too-large", path, f"its files take {total / 2**30:.1f} GiB")
    with TemporaryDirectory(prefix="situs-") as folder:
        for name in sizes:
            file = Path(folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                place.get(name, file)
            except FileNotFoundError:
                raise refuse("missing-file", path) from None
        yield Path(folder)


def _place(root: Path) -> Remote:
    url = url_of(root)
    assert url is not None
    return remote(url)


def _sizes_below(place: Remote, path: str, files: tuple[str, ...]) -> dict[str, int]:
    """Bytes of a series' files, by their names from the root."""
    folder = PurePosixPath(unescaped(path))
    wanted = {str(folder / unescaped(name)) for name in files}
    found = place.sizes("" if str(folder) == "." else str(folder))
    return {n: size for n, size in found.items() if _is_safe(n) and (n in wanted or not wanted)}


def _sizes_of_file(place: Remote, path: str) -> dict[str, int]:
    """Bytes of a file, and of those that belong to it, by their names from the root."""
    file = PurePosixPath(unescaped(path))
    if not _is_safe(str(file)):
        return {}
    if not file.name.lower().endswith(_PAIRED):
        size = place.size(str(file))
        return {} if size is None else {str(file): size}
    own = f"{without_suffix(file.name)}.".lower()
    beside = _sizes_below(place, escaped(str(file.parent)), ())
    return {
        name: size
        for name, size in beside.items()
        if (near := PurePosixPath(name)).parent == file.parent and near.name.lower().startswith(own)
    }


def _is_safe(name: str) -> bool:
    """Whether a name, joined to a folder, is that of a file below it."""
    parts = name.split("/")
    short = all(len(part.encode(errors="replace")) <= _LONGEST_NAME for part in parts)
    return PurePath(name).parts == tuple(parts) and ".." not in parts and "\0" not in name and short
